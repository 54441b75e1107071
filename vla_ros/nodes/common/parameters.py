# SPDX-License-Identifier: Apache-2.0
"""Parameters with meaning, unit and range, for `ros2 param describe` and `--help` alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rclpy.node import Node


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
    """Declare all parameters with descriptions and ranges."""
    from vla_ros.nodes.common import startup  # not for --help: rclpy takes a while

    for spec in specs:
        descriptor = startup.describe(spec.default, spec.description, spec.low, spec.high)
        if not spec.dynamic:
            descriptor.additional_constraints = "read at configure; run the cleanup transition before changing it"
        node.declare_parameter(spec.name, spec.default, descriptor)
