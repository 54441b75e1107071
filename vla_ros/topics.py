# SPDX-License-Identifier: Apache-2.0
"""Names of the topics that the nodes of this package share; those of a robot are in its file (`robot.Robot`).

All are relative: a pushed namespace moves them together.
"""

from __future__ import annotations

TASK_SUCCESS = "task/success"
EPISODE = "episode"
INTERVENTION = "intervention"
RECORDED_UNTIL = "recorded_until"
SIMULATOR_STATE = "simulator/state"
POLICY_STATE = "policy/state"
