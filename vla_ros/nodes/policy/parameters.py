# SPDX-License-Identifier: Apache-2.0
"""The policy node's parameters: meaning, unit and range, for `ros2 param describe` and `--help` alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vla_ros.runtime.execution.control import CLOSE_BELOW, DEBOUNCE_TICKS, OPEN_ABOVE
from vla_ros.runtime.execution.executors import DEFAULT_DECAY, DEFAULT_EXECUTOR, DEFAULT_HORIZON

if TYPE_CHECKING:
    from rclpy.node import Node


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. `dynamic`: it may change while the node runs; the others are read at configure."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    dynamic: bool = False


PARAMETERS = (
    ParameterSpec("checkpoint", "", "Folder of the checkpoint (model.safetensors, contract.json, ...). Required."),
    ParameterSpec("robot", "tabletop", "Robot file (topics, units, limits): a name in config/robots, or a path."),
    ParameterSpec("device", "auto", "Compute device: cpu, cuda, cuda:1, or auto (an NVIDIA GPU if there is one)."),
    ParameterSpec("precision", "auto", "Of the backbone: fp32, bf16, fp16, or auto (bf16 on GPUs that support it)."),
    ParameterSpec("compile", "auto", "Acceleration: none, compile, cuda_graph, or auto (cuda_graph on NVIDIA GPUs)."),
    ParameterSpec("cpu_threads", 1, "CPU threads per operator; more than one helps large policies only.", 1, 256),
    ParameterSpec(
        "control_priority", 50, "Real-time priority of control ticks (SCHED_FIFO), if permitted; 0: none.", 0, 99
    ),
    ParameterSpec("autostart", False, "Configure and activate at start-up, without a lifecycle manager."),
    ParameterSpec("arm_on_start", False, "Arm on activation. Otherwise the arm does not move until ~/arm is called."),
    ParameterSpec("require_enable", False, "Move only while true is published on enable, at least twice a second."),
    ParameterSpec("stop_words", ["stop", "halt", "freeze"], "Commands that mean stop, besides the empty one."),
    ParameterSpec("on_new_command", "replace", "When to follow a new command: replace, after_chunk, after_success."),
    ParameterSpec("dry_run", False, "Publish on ~/preview and ~/preview_gripper only; nothing moves."),
    ParameterSpec(
        "allow_other_publishers", False, "Tolerate other publishers on the command topic (prefer a twist_mux)."
    ),
    ParameterSpec(
        "first_run_scale", 1.0, "Additional speed factor until the first disarming after the arm has moved.", 0.0, 1.0
    ),
    ParameterSpec(
        "executor",
        DEFAULT_EXECUTOR,
        "Which planned action to execute: full_chunk, first_action, receding_horizon, temporal_ensemble; "
        "path_following if chunks take several ticks.",
    ),
    ParameterSpec(
        "executor_horizon", DEFAULT_HORIZON, "Actions of a chunk that receding_horizon executes [ticks].", 1, 1000
    ),
    ParameterSpec(
        "ensemble_decay", DEFAULT_DECAY, "How much less temporal_ensemble weights newer chunks (ACT's m).", 0.0, 10.0
    ),
    ParameterSpec("speed_scale", 1.0, "Factor on every commanded twist.", 0.0, 1.0, dynamic=True),
    ParameterSpec("stop_ticks", 5, "Zero twists published at the end of a stop, before silence.", 1, 100),
    ParameterSpec(
        "gripper_close_below", CLOSE_BELOW, "Close below this predicted opening (0 closed, 1 open).", 0.0, 1.0
    ),
    ParameterSpec("gripper_open_above", OPEN_ABOVE, "Open above this predicted opening (0 closed, 1 open).", 0.0, 1.0),
    ParameterSpec(
        "gripper_debounce_ticks", DEBOUNCE_TICKS, "Consecutive control ticks that must agree on a new opening.", 1, 50
    ),
)


def help_text() -> str:
    """Return the parameters as a table for `--help`."""
    lines = ["parameters (--ros-args -p NAME:=VALUE, or --params-file; config/policy.yaml is an example):"]
    for spec in PARAMETERS:
        changes = " Dynamic." if spec.dynamic else ""
        lines.append(f"  {spec.name:<24}{spec.description}{changes} [{spec.default!r}]")
    return "\n".join(lines)


def declare(node: Node) -> None:
    """Declare all parameters with descriptions and ranges."""
    from vla_ros.nodes.common import startup  # not for --help: rclpy takes a while

    for spec in PARAMETERS:
        descriptor = startup.describe(spec.default, spec.description, spec.low, spec.high)
        if not spec.dynamic:
            descriptor.additional_constraints = "read at configure; run the cleanup transition before changing it"
        node.declare_parameter(spec.name, spec.default, descriptor)


def fixed_names() -> frozenset[str]:
    """Return the parameters that are read at configure."""
    return frozenset(spec.name for spec in PARAMETERS if not spec.dynamic)
