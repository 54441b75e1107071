# SPDX-License-Identifier: Apache-2.0
"""What lifecycle nodes share: transitions that tell why they failed, and a process that ends in order."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from vla_ros.errors import UserError
from vla_ros.nodes.common import startup

# Every way in which a terminal, a supervisor or a user ends a process, but for SIGKILL.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Releasable(Protocol):
    """A lifecycle node that can stop the arm whatever its state is."""

    last_error: str

    def release(self) -> None: ...
    def publish_state(self) -> None: ...


NodeT = TypeVar("NodeT", bound=Any)


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


@contextlib.contextmanager
def in_this_process(
    args: Sequence[str], make_node: Callable[[], NodeT], on_signal: Callable[[], None]
) -> Iterator[tuple[NodeT, SingleThreadedExecutor]]:
    """Make a node and what spins it; at the end the arm is stopped while ROS still works.

    Args:
        on_signal: Called for each of `SIGNALS`.
    """
    # rclpy's own handlers end the context at once; no zero twist could be sent then.
    try:
        rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # arguments that are no ROS arguments
        raise UserError(f"ROS did not start: {error}") from None
    before = {number: signal.signal(number, lambda *_: on_signal()) for number in SIGNALS}
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


def run(executable: str, args: Sequence[str], make_node: Callable[[], NodeT]) -> int:
    """Spin the node until a signal, the end of its parent if it watches it, or an error; return the exit status."""
    stopping = False
    parent = os.getppid()
    nodes: list[Any] = []

    def stop() -> None:
        nonlocal stopping
        stopping = True
        if nodes and getattr(nodes[0], "configuring", False):  # nothing moves yet: do not wait for the model
            raise KeyboardInterrupt

    try:
        with in_this_process([executable, *args], make_node, stop) as (node, executor):
            nodes.append(node)
            startup.refuse_unknown_parameters(node, [executable, *args])
            watches = node.get_parameter("stop_with_parent").value
            if node.get_parameter("autostart").value and not autostart(node):
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


def autostart(node: Any) -> bool:
    """Configure and activate; return whether both succeeded."""
    success = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == success and node.trigger_activate() == success)
