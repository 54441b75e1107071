# SPDX-License-Identifier: Apache-2.0
"""The guard node's parameters."""

from __future__ import annotations

from vla_ros.nodes.common.parameters import ParameterSpec
from vla_ros.runtime.execution.commands import CLOSE_BELOW, DEBOUNCE_TICKS, MIN_INTERVAL_S, OPEN_ABOVE
from vla_ros.runtime.execution.executors import DEFAULT_DECAY, DEFAULT_EXECUTOR, DEFAULT_HORIZON

PARAMETERS = (
    ParameterSpec("robot", "tabletop", "Robot file: topics, units and limits. A name in config/robots, or a path."),
    ParameterSpec("autostart", False, "Configure and activate at the start, without a lifecycle manager."),
    ParameterSpec("arm_on_start", False, "Be armed on activation. Otherwise the arm stays still until ~/arm."),
    ParameterSpec("require_enable", False, "Move only while the topic enable says true, at least twice a second."),
    ParameterSpec("dry_run", False, "Publish on ~/preview and ~/preview_gripper only; nothing can move."),
    ParameterSpec(
        "allow_other_publishers", False, "Move although others publish on the command topic (a twist_mux is better)."
    ),
    ParameterSpec(
        "resume_within_s", 1.0, "A stop that ends sooner resumes by itself; a longer one disarms.", 0.0, 10.0
    ),
    ParameterSpec("heartbeat_max_age_s", 0.2, "Longest silence of the planner's status.", 0.05, 2.0),
    ParameterSpec("control_priority", 50, "Real-time priority of the ticks (SCHED_FIFO) if permitted; 0: none.", 0, 99),
    ParameterSpec("stop_with_parent", False, "Stop the arm and exit when the process that started this one ends."),
    ParameterSpec(
        "executor",
        DEFAULT_EXECUTOR,
        "Which planned action is executed: path_following, full_chunk, first_action, receding_horizon or "
        "temporal_ensemble.",
    ),
    ParameterSpec(
        "executor_horizon", DEFAULT_HORIZON, "Actions of a plan that receding_horizon executes [ticks].", 1, 1000
    ),
    ParameterSpec(
        "ensemble_decay", DEFAULT_DECAY, "How much less temporal_ensemble trusts newer plans (ACT's m).", 0.0, 10.0
    ),
    ParameterSpec("speed_scale", 1.0, "Factor on every commanded twist, 0 to 1.", 0.0, 1.0, dynamic=True),
    ParameterSpec(
        "first_run_scale", 1.0, "A further factor until a person disarms the arm after 10 s of motion.", 0.0, 1.0
    ),
    ParameterSpec("stop_time_s", 0.25, "For how long zero twists are published to stop, before silence.", 0.01, 5.0),
    ParameterSpec(
        "gripper_close_below", CLOSE_BELOW, "Planned opening (0 closed, 1 open) below which it closes.", 0.0, 1.0
    ),
    ParameterSpec(
        "gripper_open_above", OPEN_ABOVE, "Planned opening (0 closed, 1 open) above which it opens.", 0.0, 1.0
    ),
    ParameterSpec(
        "gripper_debounce_ticks",
        DEBOUNCE_TICKS,
        "Ticks of the plan in a row, the next one included, that must agree on a new opening.",
        1,
        50,
    ),
    ParameterSpec(
        "gripper_min_interval_s", MIN_INTERVAL_S, "Shortest time between two commands to the gripper.", 0.0, 10.0
    ),
)
