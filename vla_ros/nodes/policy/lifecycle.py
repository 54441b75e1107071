# SPDX-License-Identifier: Apache-2.0
"""The policy node's lifecycle, services and reports; `session.PolicySession` is what it does while configured."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from vla_ros import topics, transport
from vla_ros.errors import UserError
from vla_ros.nodes.common import startup
from vla_ros.nodes.common.clock import steady_clock
from vla_ros.nodes.common.qos import LATCHED_QOS
from vla_ros.nodes.policy import diagnostics, loading
from vla_ros.nodes.policy import parameters as policy_parameters
from vla_ros.nodes.policy.loading import FindPolicy
from vla_ros.nodes.policy.session import PolicySession
from vla_ros.runtime.safety.governor import FAULTS, State

DIAGNOSTICS_PERIOD_S = 1.0
# A command may have any length, a log line may not.
LOGGED_CHARACTERS = 200
# The longest that a control tick waits for Python's lock if inference holds it; the default of 5 ms is a quarter of a
# period at 50 Hz.
SWITCH_INTERVAL_S = 2e-4

Transition = Callable[["PolicyNode", LifecycleState], None]


def transition(method: Transition) -> Callable[[PolicyNode, LifecycleState], TransitionCallbackReturn]:
    """Turn exceptions into a failed transition, and log them: rclpy drops them silently."""

    @functools.wraps(method)
    def wrapped(self: PolicyNode, state: LifecycleState) -> TransitionCallbackReturn:
        result = TransitionCallbackReturn.SUCCESS
        if method.__name__ != "on_error":  # which only cleans up: the error's reason stays
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


class PolicyNode(LifecycleNode):
    """The node; `policy_node --help` lists its topics, services and parameters."""

    def __init__(self, name: str = "policy", find_policy: FindPolicy = loading.from_parameters) -> None:
        super().__init__(name)
        self._find_policy = find_policy
        policy_parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.session: PolicySession | None = None
        self.configuring = False  # takes as long as loading the model
        self.last_error = ""
        self._reported: tuple[State, str | None, str, bool] | None = None
        self._publishing_state = threading.Lock()
        # Once, as the middleware reads them. At each report, pathlib would intern names in paths, and Python's table of
        # interned strings would grow by megabytes after half an hour.
        self._missing_settings = transport.missing()
        self._state_publisher = self.create_publisher(String, "~/state", LATCHED_QOS)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(SetBool, "~/arm", self._on_arm)
        self.create_service(Trigger, "~/reset", self._on_reset)
        # On the steady clock, to report simulated time that stands still.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady_clock())
        self.publish_state()

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        self.configuring = True
        try:
            self.session = PolicySession(self, self._report_changes, self._find_policy)
        finally:
            self.configuring = False

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        assert self.session is not None
        self.session.start(armed=self.get_parameter("arm_on_start").value)

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        assert self.session is not None
        self.session.stop("deactivated")

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        self.release()

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        self.release()

    @transition
    def on_error(self, state: LifecycleState) -> None:
        self.release()

    def release(self) -> None:
        """Stop the arm and close the session, if there is one."""
        try:
            if self.session is not None:
                self.session.close()  # until it returns, ticks continue and report changes
        finally:
            self.session = None

    def publish_state(self) -> None:
        """Publish ~/state."""
        with self._publishing_state:  # the later of two threads has the last word
            session = self.session
            if session is not None and session.active:
                engine = session.engine.status()
                text = diagnostics.state_text(
                    session.control, engine, session.detail(engine), session.commands.waiting, session.dry_run
                )
            else:
                label = "unconfigured" if session is None else "inactive"
                text = diagnostics.idle_state_text(label, self.last_error)
            self._state_publisher.publish(String(data=text))

    def _report_changes(self) -> None:
        """Publish and log the state if it has changed."""
        assert self.session is not None
        control, engine = self.session.control, self.session.engine
        governor = control.governor
        now = (governor.state, governor.reason, engine.command, control.taken_over)
        if now == self._reported:
            return
        self._reported = now
        self.publish_state()
        text = f"{governor.state.value}: " + (governor.reason or repr(engine.command[:LOGGED_CHARACTERS]))
        text += " (taken over)" if control.taken_over else ""
        detail = self.session.detail(engine.status())
        text += f": {detail}" if detail else ""
        log = self.get_logger()
        if governor.reason in FAULTS:
            log.error(text)
        elif governor.state is State.STOPPING and governor.reason not in diagnostics.EXPECTED_REASONS:
            log.warning(text)
        else:
            log.info(text)

    def _on_diagnostics(self) -> None:
        now = self.get_clock().now()
        message = DiagnosticArray(status=[diagnostics.transport_status(self._missing_settings)])
        message.header.stamp = now.to_msg()
        session = self.session
        if session is not None and session.active:
            limits, rates = session.robot.observation, session.streams.rates
            problem = session.interlocks.output_reason or session.outputs.warning
            engine, latency = session.engine.status(), session.camera_to_twist_ms.summary()
            message.status += [
                diagnostics.policy_status(session.control, engine, latency),
                diagnostics.outputs_status(session.outputs.status(), problem),
                diagnostics.inputs_status(session.inputs.qos_mismatches()),
                diagnostics.skew_status(rates, session.robot.cameras, limits.max_skew_s),
            ]
            for name, rate in rates.items():
                qos = session.streams.incompatible_qos[name]
                message.status.append(diagnostics.stream_status(name, rate, now.nanoseconds, limits.max_age_s, qos))
            self.publish_state()
        for status in message.status:
            status.name = f"{self.get_fully_qualified_name()}: {status.name}"
            status.hardware_id = session.robot.name if session is not None else ""
        self._diagnostics_publisher.publish(message)

    def _on_arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.session is None or not self.session.active:
            response.message = "the node is not active; configure and activate it first"
            return response
        self.session.arm(request.data)
        response.success, response.message = True, "armed" if request.data else "disarmed"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.session is None:
            response.message = "the node is not configured"
            return response
        response.success = self.session.reset()
        response.message = "plan, history and fault cleared"
        if not response.success:
            response.message = f"still pressed: publish false on {topics.EMERGENCY_STOP}, then reset again"
        return response

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            fixed = policy_parameters.fixed_names() | {"use_sim_time"}  # another clock has another grid
            if self.session is not None and parameter.name in fixed:
                reason = f"{parameter.name} is read at configure; run the cleanup transition first"
                return SetParametersResult(successful=False, reason=reason)
            if parameter.name == "speed_scale" and not 0.0 <= parameter.value <= 1.0:  # the range does not exclude NaN
                reason = f"speed_scale must be in [0, 1]; got {parameter.value}"
                return SetParametersResult(successful=False, reason=reason)
        for parameter in parameters:
            if self.session is not None and parameter.name == "speed_scale":
                self.session.control.governor.speed_scale = parameter.value
        return SetParametersResult(successful=True)


@contextlib.contextmanager
def in_this_process(
    args: Sequence[str], make_node: Callable[[], PolicyNode], on_signal: Callable[[], None]
) -> Iterator[tuple[PolicyNode, SingleThreadedExecutor]]:
    """Yield a node and its executor; at the end, stop the arm while ROS is still running.

    `on_signal` is called on SIGINT and SIGTERM.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # rclpy's own handlers shut the context down at once, before zero twists could be sent.
    rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
    before = {number: signal.signal(number, lambda *_: on_signal()) for number in (signal.SIGINT, signal.SIGTERM)}
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
        for number, handler in before.items():
            signal.signal(number, handler)


def run(args: Sequence[str]) -> int:
    """Spin the node until a signal or an error, then stop the arm; return the exit status."""
    stopping = False
    nodes: list[PolicyNode] = []

    def stop() -> None:
        nonlocal stopping
        stopping = True
        if nodes and nodes[0].configuring:  # nothing moves yet: do not wait for the model
            raise KeyboardInterrupt

    try:
        with in_this_process(["policy_node", *args], PolicyNode, stop) as (node, executor):
            nodes.append(node)
            startup.refuse_unknown_parameters(node, ["policy_node", *args])
            if node.get_parameter("autostart").value and not _autostart(node):
                return 1
            while rclpy.ok() and not stopping:
                executor.spin_once(timeout_sec=0.1)
    except KeyboardInterrupt:
        pass
    except (ParameterException, UserError) as error:
        print(f"error: {error}; see `policy_node --help` for the parameters", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _autostart(node: PolicyNode) -> bool:
    success = TransitionCallbackReturn.SUCCESS
    return node.trigger_configure() == success and node.trigger_activate() == success
