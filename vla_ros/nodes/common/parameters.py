# SPDX-License-Identifier: Apache-2.0
"""Parameters with meaning, unit and range, for `ros2 param describe` and `--help` alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vla_ros.errors import UserError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        dynamic: Whether it may change while the node runs; the others are read when the node is configured.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    dynamic: bool = False


def help_text(specs: Sequence[ParameterSpec], example: str) -> str:
    """Return the parameters as a table for `--help`."""
    lines = [f"parameters (--ros-args -p NAME:=VALUE, or --params-file; {example} is an example):"]
    for spec in specs:
        changes = " Dynamic." if spec.dynamic else ""
        lines.append(f"  {spec.name:<24}{spec.description}{changes} [{spec.default!r}]")
    return "\n".join(lines)


def declare(node: Node, specs: Sequence[ParameterSpec]) -> None:
    """Declare all parameters with descriptions and ranges.

    A callback that asks `refusal` has to be there already, to check what the node is started with. Floats take integers
    as well: `ros2 param set /guard speed_scale 0` sends one.
    """
    from vla_ros.nodes.common import startup  # not for --help: rclpy takes a while

    for spec in specs:
        descriptor = startup.describe(spec.default, spec.description, spec.low, spec.high)
        descriptor.dynamic_typing = isinstance(spec.default, float)
        if not spec.dynamic:
            descriptor.additional_constraints = "read at configure; run the cleanup transition before changing it"
        if node.declare_parameter(spec.name, spec.default, descriptor).value is None:  # to ROS, [] has no type
            raise UserError(f'{spec.name} must not be an empty list; [""] means none')


def refusal(specs: Sequence[ParameterSpec], parameters: Sequence[Parameter[Any]], *, configured: bool) -> str:
    """Return why these values must not be set, or an empty text.

    Args:
        specs: the node's parameters.
        parameters: to be set.
        configured: the node has read its parameters; only dynamic ones may change.
    """
    known = {spec.name: spec for spec in specs}
    for parameter in parameters:
        name, value, spec = parameter.name, parameter.value, known.get(parameter.name)
        dynamic = spec is not None and spec.dynamic
        if configured and not dynamic and (spec is not None or name == "use_sim_time"):  # another clock, another grid
            return f"{name} is read at configure; run the cleanup transition first"
        if spec is None or not isinstance(spec.default, float):
            continue
        low, high = (-math.inf if spec.low is None else spec.low), (math.inf if spec.high is None else spec.high)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:  # NaN is not within
            return f"{name} must be a number in [{low:g}, {high:g}]; got {value!r}"
    return ""
