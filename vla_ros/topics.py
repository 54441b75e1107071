# SPDX-License-Identifier: Apache-2.0
"""Names of the topics that the nodes of this package share; those of a robot are in its file (`robot.Robot`).

All are relative: a pushed namespace moves them together.
"""

from __future__ import annotations

LANGUAGE_COMMAND = "language_command"  # of the shipped robots and of `vla say`
POLICY_STATE = "policy/state"
# Operators: deadman, emergency stop, moving the arm by hand.
ENABLE = "enable"
EMERGENCY_STOP = "emergency_stop"
TAKEOVER_TWIST = "takeover_twist"
TAKEOVER_GRIPPER = "takeover_gripper"
# What a bag holds besides the robot's streams.
EPISODE = "episode"
INTERVENTION = "intervention"
TASK_SUCCESS = "task/success"
# Simulator; in lockstep, the instant up to which the recorder has written everything (0: it no longer records).
SIMULATOR_STATE = "simulator/state"
RECORDED_UNTIL = "recorded_until"
# Between a planner and the guard.
PLAN = "plan"
PLANNER_STATUS = "policy/status"
GUARD_STATE = "guard/state"
GUARD_ARM = "guard/arm"  # a service
