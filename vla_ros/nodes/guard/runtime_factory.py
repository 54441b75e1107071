# SPDX-License-Identifier: Apache-2.0
"""Build the control loop and the command queue from the policy node's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vla_ros.contract import PolicyContract
from vla_ros.errors import UserError
from vla_ros.robot import Robot
from vla_ros.runtime.execution.control import ControlLoop, GripperSwitch
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.command_queue import CommandQueue
from vla_ros.runtime.safety.governor import SafetyGovernor

Value = Callable[[str], Any]


def make_control(value: Value, robot: Robot, contract: PolicyContract) -> ControlLoop:
    """Return a control loop, disarmed; `value` returns a parameter by name.

    Raises:
        UserError: a parameter is invalid.
    """
    try:
        gripper = GripperSwitch(
            value("gripper_close_below"), value("gripper_open_above"), value("gripper_debounce_ticks")
        )
    except ValueError as error:
        raise UserError(f"parameters gripper_*: {error}") from None
    try:
        executor = make_executor(value("executor"), horizon=value("executor_horizon"), decay=value("ensemble_decay"))
    except ValueError as error:
        raise UserError(f"parameter {error}") from None
    period_ns = contract.timing.period_ns
    governor = SafetyGovernor(
        robot.limits,
        period_s=period_ns / 1e9,
        stop_ticks=value("stop_ticks"),
        speed_scale=value("speed_scale"),
        first_run_scale=value("first_run_scale"),
    )
    return ControlLoop(ActionTimeline(executor), governor, gripper, period_ns=period_ns)


def make_commands(value: Value) -> CommandQueue:
    """Return a command queue; `value` returns a parameter by name.

    Raises:
        UserError: a parameter is invalid.
    """
    try:
        return CommandQueue(value("on_new_command"), value("stop_words"))
    except ValueError as error:
        raise UserError(f"parameter {error}") from None
