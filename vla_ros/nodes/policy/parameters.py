# SPDX-License-Identifier: Apache-2.0
"""The policy node's parameters: each with its meaning, unit and range, for `ros2 param describe` and `--help` alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vla_ros.runtime.execution.gripper import DEBOUNCE_TICKS

if TYPE_CHECKING:
    from rclpy.node import Node


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. `dynamic`: may change while the node runs; the others are read when it is configured."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    dynamic: bool = False


PARAMETERS = (
    ParameterSpec("checkpoint", "", "Folder of the checkpoint (model.safetensors, contract.json, ...). Required."),
    ParameterSpec("robot", "tabletop", "Robot file: topics, units and limits. A name in config/robots, or a path."),
    ParameterSpec("device", "auto", "Where the policy computes: cpu, cuda, cuda:1, or auto (an NVIDIA GPU, if any)."),
    ParameterSpec(
        "precision", "auto", "Of the policy's backbone: fp32, bf16, fp16, or auto (bf16 on GPUs that have it)."
    ),
    ParameterSpec(
        "compile", "auto", "How steps are launched: none, compile, cuda_graph, or auto (cuda_graph on NVIDIA GPUs)."
    ),
    ParameterSpec("cpu_threads", 1, "Threads of one operator on the CPU; more help large policies only.", 1, 256),
    ParameterSpec(
        "control_priority", 50, "Real-time priority of control ticks (SCHED_FIFO), where permitted; 0: none.", 0, 99
    ),
    ParameterSpec("autostart", False, "Configure and activate at the start, without a lifecycle manager."),
    ParameterSpec("arm_on_start", False, "Be armed on activation. Otherwise the arm stays still until ~/arm."),
    ParameterSpec("require_enable", False, "Move only while the topic enable says true, at least twice a second."),
    ParameterSpec("stop_words", ["stop", "halt", "freeze"], "Commands that mean stop, beside the empty one."),
    ParameterSpec("on_new_command", "replace", "When to follow a new command: replace, after_chunk, after_success."),
    ParameterSpec("dry_run", False, "Infer and publish on ~/preview and ~/preview_gripper only; nothing can move."),
    ParameterSpec(
        "allow_other_publishers", False, "Go on although others publish on the command topic (a twist_mux is better)."
    ),
    ParameterSpec(
        "first_run_scale", 1.0, "A further factor, until the arm is disarmed for the first time after moving.", 0.0, 1.0
    ),
    ParameterSpec(
        "executor",
        "full_chunk",
        "Which planned action: full_chunk, first_action, receding_horizon, temporal_ensemble; path_following where "
        "chunks take several ticks; or delay_aware, for checkpoints trained with max_delay_steps.",
    ),
    ParameterSpec("executor_horizon", 4, "Actions of a chunk that receding_horizon executes [ticks].", 1, 1000),
    ParameterSpec("ensemble_decay", 0.01, "How much less temporal_ensemble trusts newer chunks (ACT's m).", 0.0, 10.0),
    ParameterSpec("speed_scale", 1.0, "Factor on every commanded twist, 0 to 1.", 0.0, 1.0, dynamic=True),
    ParameterSpec("stop_ticks", 5, "Zero twists that are published to stop, before silence.", 1, 100),
    ParameterSpec("gripper_close_below", 0.4, "Predicted opening (0 closed, 1 open) below which it closes.", 0.0, 1.0),
    ParameterSpec("gripper_open_above", 0.6, "Predicted opening (0 closed, 1 open) above which it opens.", 0.0, 1.0),
    ParameterSpec(
        "gripper_debounce_ticks", DEBOUNCE_TICKS, "Control ticks in a row that must agree on a new opening.", 1, 50
    ),
)


def help_text() -> str:
    """The parameters as a table for `--help`."""
    lines = ["parameters (--ros-args -p NAME:=VALUE, or --params-file; config/policy.yaml is an example):"]
    for spec in PARAMETERS:
        changes = " May change while running." if spec.dynamic else ""
        lines.append(f"  {spec.name:<24}{spec.description}{changes} [{spec.default!r}]")
    return "\n".join(lines)


def declare(node: Node) -> None:
    """Declare all parameters, and refuse to change those that are only read at configure once that has happened."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for spec in PARAMETERS:
        descriptor = ParameterDescriptor(description=spec.description)
        if not spec.dynamic:
            descriptor.additional_constraints = "read when the node is configured; clean it up before a change"
        if spec.low is not None and spec.high is not None:
            if isinstance(spec.default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high))]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
        node.declare_parameter(spec.name, spec.default, descriptor)


def fixed_names() -> frozenset[str]:
    """The parameters that only take effect when the node is configured."""
    return frozenset(spec.name for spec in PARAMETERS if not spec.dynamic)
