# SPDX-License-Identifier: Apache-2.0
"""What all nodes' mains share: self-describing parameters, signals, and an orderly shutdown."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vla_ros.errors import UserError

# Every way in which a terminal, a supervisor or a user ends a process, but for SIGKILL.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def describe(
    default: Any, description: str, low: float | None, high: float | None, *, read_only: bool = False
) -> ParameterDescriptor:
    """Return a parameter's descriptor; `low` and `high`, if given, are its range."""
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if low is not None and high is not None:
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor


def declare(
    node: Node,
    name: str,
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    fixed: bool = True,
) -> Any:
    """Declare a parameter with its description and range, and return its value; `fixed`: read-only."""
    descriptor = describe(default, description, low, high, read_only=fixed)
    return node.declare_parameter(name, default, descriptor).value


def refuse_unknown_parameters(node: Node, args: Sequence[str] | None) -> None:
    """Refuse parameters given in `args` that the node does not have: a misspelt `require_enable` must not pass as set.

    What a file sets for all nodes (`/**`) may be meant for others: it is logged, unless it looks like a parameter of
    this node misspelt.

    Raises:
        UserError: unknown parameters.
    """
    # rclpy lists a node's given parameters only by declaring them all, hence a second node for an instant. In the same
    # context, its end would take this node's topics and services out of the ROS graph.
    context = rclpy.Context()
    rclpy.init(args=None if args is None else list(args), context=context)
    try:
        probe = Node(
            node.get_name(),
            namespace=node.get_namespace(),
            context=context,
            enable_rosout=False,
            start_parameter_services=False,
            automatically_declare_parameters_from_overrides=True,
        )
        given = probe.get_parameters_by_prefix("")
        probe.destroy_node()
    finally:
        context.try_shutdown()
    known = sorted(node.get_parameters_by_prefix(""))
    others = _meant_for_others(node.get_name(), sys.argv if args is None else args)
    unknown = sorted(name for name in given if not node.has_parameter(name))
    refused = [name for name in unknown if name not in others or difflib.get_close_matches(name, known, cutoff=0.8)]
    if refused:
        names = ", ".join(refused)
        raise UserError(f"{node.get_name()} has no parameter {names}; its parameters are {', '.join(known)}")
    if unknown:
        node.get_logger().warning(f"ignoring what /** of a parameter file sets for other nodes: {', '.join(unknown)}")


def _meant_for_others(node: str, args: Sequence[str]) -> set[str]:
    """Return the parameters that files set for all nodes, and nothing sets for this node by name."""
    shared: set[str] = set()
    own = {after.partition(":=")[0] for before, after in itertools.pairwise(args) if before in ("-p", "--param")}
    for option, path in itertools.pairwise(args):
        for section, content in (yaml.safe_load(Path(path).read_text()) if option == "--params-file" else {}).items():
            name = str(section).rpartition("/")[2]
            names = _dotted((content or {}).get("ros__parameters") or {})
            if name in ("*", "**"):
                shared |= names
            elif name == node:
                own |= names
    return shared - own


def _dotted(parameters: Mapping[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in parameters.items():
        name = f"{prefix}{key}"
        names |= _dotted(value, f"{name}.") if isinstance(value, dict) else {name}
    return names


def start_ros(args: Sequence[str] | None, handlers: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """Start ROS; `args`: None for those of the command line.

    Raises:
        UserError: an argument is not a ROS argument.
    """
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=handlers)
    except RuntimeError as error:
        raise UserError(f"ROS did not start: {error}") from None


@contextlib.contextmanager
def signals_to(on_signal: Callable[[], None]) -> Iterator[None]:
    """Call `on_signal` for each of `SIGNALS`.

    rclpy's own handlers would end the context at once: no last message could be sent then.
    """
    before = {number: signal.signal(number, lambda *_: on_signal()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """A signal's request to end: it interrupts the start (KeyboardInterrupt); later it only sets `requested`."""

    def __init__(self) -> None:
        self.requested, self.interrupts = False, True

    def __call__(self) -> None:
        """Note the signal."""
        self.requested = True
        if self.interrupts:
            self.interrupts = False  # once: whoever presses Ctrl-C twice does not interrupt the end
            raise KeyboardInterrupt


def run(make_node: Callable[[], Any], args: Sequence[str] | None, parent: int) -> int:
    """Start ROS, make the node, spin it until Ctrl-C, SIGTERM or the end of its parent, and `close()` it.

    Args:
        make_node: returns the node.
        args: None: those of the command line.
        parent: the process that started this one, by its id.

    Returns:
        The exit status: the node's `exit_status`, 2 after a UserError (printed as one line), 1 after another error; 0
        if a signal interrupted the start.
    """
    stop = Stop()
    with signals_to(stop):
        try:
            return _run(make_node, args, stop, parent)
        except (KeyboardInterrupt, ExternalShutdownException):
            return 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Exception:
            traceback.print_exc()
            return 1


def _run(make_node: Callable[[], Any], args: Sequence[str] | None, stop: Stop, parent: int) -> int:
    node: Any = None
    start_ros(args, SignalHandlerOptions.NO)
    try:
        node = make_node()
        description = "Exit when the process that started this one ends"
        watches = declare(node, "stop_with_parent", False, description)
        refuse_unknown_parameters(node, args)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        stop.interrupts = False
        while rclpy.ok() and not stop.requested and not (watches and os.getppid() != parent):
            executor.spin_once(timeout_sec=0.1)
        return int(node.exit_status)
    finally:
        stop.interrupts = False
        try:
            if node is not None:
                node.close()
                node.destroy_node()
        finally:
            rclpy.try_shutdown()
