# SPDX-License-Identifier: Apache-2.0
"""What all nodes' mains share: self-describing parameters, and an orderly shutdown."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from vla_ros.errors import UserError


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
    unknown = sorted(name for name in given if not node.has_parameter(name))
    if unknown:
        known = ", ".join(sorted(node.get_parameters_by_prefix("")))
        raise UserError(f"{node.get_name()} has no parameter {', '.join(unknown)}; its parameters are {known}")


def run(make_node: Callable[[], Any], args: Sequence[str] | None) -> int:
    """Start ROS, make the node, spin it until Ctrl-C, SIGTERM or shutdown, and `close()` it.

    Returns:
        The exit status: the node's `exit_status`, 2 after a UserError (printed as one line), 1 after another error.
    """
    node: Any = None
    rclpy.init(args=list(args) if args is not None else None)
    try:
        node = make_node()
        refuse_unknown_parameters(node, args)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        try:
            if node is not None:
                node.close()
                node.destroy_node()
        finally:
            rclpy.try_shutdown()
    return int(node.exit_status)
