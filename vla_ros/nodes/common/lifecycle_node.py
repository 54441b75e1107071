# SPDX-License-Identifier: Apache-2.0
"""What lifecycle nodes share: a session with its reports, transitions that tell why they failed, an orderly end."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from vla_ros.errors import UserError
from vla_ros.nodes.common import startup
from vla_ros.nodes.common.clock import steady_clock
from vla_ros.nodes.common.parameters import ParameterSpec, declare, refusal
from vla_ros.nodes.common.qos import LATCHED_QOS
from vla_ros.robot import Robot
from vla_ros.runtime.safety.governor import FAULTS

DIAGNOSTICS_PERIOD_S = 1.0


class Session(Protocol):
    """What a node does between configure and cleanup."""

    robot: Robot

    @property
    def active(self) -> bool: ...
    def close(self) -> None: ...


SessionT = TypeVar("SessionT", bound=Session)
NodeT = TypeVar("NodeT", bound="SessionNode[Any]")


def transition(method: Callable[[NodeT, LifecycleState], None]) -> Callable[..., TransitionCallbackReturn]:
    """Turn exceptions into the transition's failure and log them: rclpy drops them silently."""

    @functools.wraps(method)
    def wrapped(self: NodeT, state: LifecycleState) -> TransitionCallbackReturn:
        result = TransitionCallbackReturn.SUCCESS
        if method.__name__ != "on_error":  # which only clears up after another transition: its reason stays
            self.last_error = ""
        try:
            method(self, state)
        except UserError as error:
            self.get_logger().error(f"{method.__name__} refused: {error}")
            self.last_error, result = str(error), TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.get_logger().error(f"{method.__name__} failed:\n{traceback.format_exc()}")
            self.last_error, result = f"{type(error).__name__}: {error}", TransitionCallbackReturn.ERROR
        self.publish_state()
        return result

    return wrapped


class SessionNode(LifecycleNode, Generic[SessionT]):
    """A node with a session while it is configured, ~/state (latched) and /diagnostics.

    A subclass makes the session in `on_configure`, and starts and stops it in `on_activate` and `on_deactivate`. Its
    `__init__` ends with `start_reports`.

    Args:
        name: Of the node.
        specs: Its parameters.
        lock: Held while ~/state is published: the later of two threads has the last word.
    """

    # Makes ~/state without an active session, from "unconfigured" or "inactive" and why the last transition failed.
    idle_status: Callable[[str, str], DiagnosticStatus]
    configuring = False  # a subclass sets it while a signal may interrupt `on_configure`

    def __init__(self, name: str, specs: Sequence[ParameterSpec], lock: AbstractContextManager[Any]) -> None:
        super().__init__(name)
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self.session: SessionT | None = None
        self.last_error = ""
        self._specs = specs
        self._publishing_state = lock
        self._reported: tuple[object, ...] | None = None
        self.add_on_set_parameters_callback(self._on_set_parameters)
        declare(self, specs)
        self._state_publisher = self.create_publisher(DiagnosticStatus, "~/state", LATCHED_QOS)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def start_reports(self) -> None:
        """Begin to report; services that a reader of ~/state may call are there by now."""
        # On the steady clock: simulated time that stands still must be reported, too.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady_clock())
        self.publish_state()

    def active_status(self, session: SessionT) -> DiagnosticStatus:
        """Return ~/state of an active session."""
        raise NotImplementedError

    def statuses(self, session: SessionT | None, now_ns: int) -> list[DiagnosticStatus]:
        """Return what /diagnostics says; `session`: if it is active."""
        raise NotImplementedError

    @property
    def active_session(self) -> SessionT | None:
        """The session, if it is active."""
        session = self.session
        return session if session is not None and session.active else None

    def release(self) -> None:
        """Stop and close the session, if there is one, whatever the node's state is."""
        try:
            if self.session is not None:
                self.session.close()  # until it returns, ticks continue and report changes
        finally:
            self.session = None

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Close the session."""
        self.release()

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Close the session and end."""
        self.release()

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Clean up after a failed transition."""
        self.release()

    def _on_change_state(self, request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        """Refuse a transition that the state lacks: rclpy of Humble and Jazzy raises, which would end the node."""
        try:
            return self._change_state(request, response)
        except rclpy_implementation.RCLError as error:
            self.get_logger().error(f"transition {request.transition.label or request.transition.id} refused: {error}")
            response.success = False
            return response

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        reason = refusal(self._specs, parameters, configured=self.session is not None)
        return SetParametersResult(successful=not reason, reason=reason)

    def status(self) -> DiagnosticStatus:
        """Return the state as a message."""
        session = self.session
        if session is not None and session.active:
            message = self.active_status(session)
        else:
            message = self.idle_status("unconfigured" if session is None else "inactive", self.last_error)
        message.name = self.get_fully_qualified_name()
        message.hardware_id = session.robot.name if session is not None else ""
        return message

    def publish_state(self) -> DiagnosticStatus:
        """Publish ~/state, and return it."""
        with self._publishing_state:
            message = self.status()
            self._state_publisher.publish(message)
        return message

    def report_change(self, facts: tuple[object, ...], reason: str | None, *, expected: bool) -> None:
        """Publish and log the state if `facts` have changed; `reason`: why nothing is planned or moves, if so."""
        if facts == self._reported:
            return
        self._reported = facts
        text, log = self.publish_state().message, self.get_logger()
        if reason in FAULTS:
            log.error(text)
        elif not expected:
            log.warning(text)
        else:
            log.info(text)

    def _on_diagnostics(self) -> None:
        now, session = self.get_clock().now(), self.session
        message = DiagnosticArray(status=self.statuses(self.active_session, now.nanoseconds))
        message.header.stamp = now.to_msg()
        for status in message.status:
            status.name = f"{self.get_fully_qualified_name()}: {status.name}"
            status.hardware_id = session.robot.name if session is not None else ""
        self._diagnostics_publisher.publish(message)


@contextlib.contextmanager
def in_this_process(
    args: Sequence[str], make_node: Callable[[], NodeT], on_signal: Callable[[], None]
) -> Iterator[tuple[NodeT, SingleThreadedExecutor]]:
    """Make a node and what spins it; at the end the arm is stopped while ROS still works.

    Args:
        on_signal: Called for each of `startup.SIGNALS`.
    """
    with startup.signals_to(on_signal):
        startup.start_ros(args, SignalHandlerOptions.NO)
        executor, node = SingleThreadedExecutor(), None
        try:
            node = make_node()
            executor.add_node(node)
            yield node, executor
        finally:
            if node is not None:
                node.release()
                node.destroy_node()
            executor.shutdown()
            rclpy.try_shutdown()


def run(executable: str, args: Sequence[str], make_node: Callable[[], NodeT], parent: int) -> int:
    """Spin the node until a signal, the end of its parent if it watches it, or an error; return the exit status.

    Args:
        executable: its name.
        args: ROS arguments.
        make_node: returns the node.
        parent: the process that started this one, by its id.
    """
    stopping = False
    nodes: list[NodeT] = []

    def stop() -> None:
        nonlocal stopping
        stopping = True
        if nodes and nodes[0].configuring:  # nothing moves yet: do not wait for the model
            raise KeyboardInterrupt

    try:
        with in_this_process([executable, *args], make_node, stop) as (node, executor):
            nodes.append(node)
            startup.refuse_unknown_parameters(node, [executable, *args])
            watches = node.get_parameter("stop_with_parent").value
            if not node.get_parameter("autostart").value:
                name = node.get_fully_qualified_name()
                waits = f"ros2 lifecycle set {name} configure, then activate; or start it with autostart:=true"
                node.get_logger().info(f"unconfigured, waiting for: {waits}")
            elif not autostart(node):
                return 1
            while rclpy.ok() and not stopping:
                executor.spin_once(timeout_sec=0.1)
                if watches and os.getppid() != parent:
                    node.get_logger().warning("the process that started this node has ended: stopping")
                    break
    except KeyboardInterrupt:
        pass
    except (ParameterException, UserError) as error:
        print(f"error: {error}; see `{executable} --help` for the parameters", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def autostart(node: LifecycleNode) -> bool:
    """Configure and activate; return whether both succeeded."""
    success = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == success and node.trigger_activate() == success)
