# SPDX-License-Identifier: Apache-2.0
"""What vla_ros calls of CALVIN, with a tool that carries out relative actions exactly.

Sources: calvin_env/envs/play_table_env.py, calvin_env/robot/robot.py (relative_to_absolute: angles of the target are
added up) and calvin_agent/evaluation/evaluate_policy.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.evaluation.benchmarks.calvin import Installed

START = np.array([0.02, -0.23, 0.57, 3.05, -0.03, 1.5])
TEXTS = {"lift_red_block_table": ["grasp and lift the red block"], "open_drawer": ["pull the handle", "second text"]}
LIFTED_M = 0.05


class Env:
    """Keeps the relative actions that it was given."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []
        self.scenes: list[Any] = []
        self.closed = False
        self.pose, self.gripper = START.copy(), 1

    def reset(self, robot_obs: Any = None, scene_obs: Any = None) -> dict[str, Any]:
        self.scenes.append((robot_obs, scene_obs))
        self.pose, self.gripper = START.copy(), 1
        return self.get_obs()

    def get_obs(self) -> dict[str, Any]:
        angles = (self.pose[3:] + np.pi) % (2 * np.pi) - np.pi
        state = np.concatenate([self.pose[:3], angles, [0.08 * (self.gripper > 0)], np.zeros(7), [self.gripper]])
        rgb = {"rgb_static": np.full((200, 200, 3), 7, np.uint8), "rgb_gripper": np.full((84, 84, 3), 9, np.uint8)}
        return {"rgb_obs": rgb, "depth_obs": {}, "robot_obs": state, "scene_obs": np.zeros(24)}

    def get_info(self) -> dict[str, Any]:
        return {"robot_info": {"height": float(self.pose[2])}, "scene_info": {}}

    def step(self, action: Any) -> tuple[dict[str, Any], int, bool, dict[str, Any]]:
        assert len(action) == 7 and action[6] in (-1, 1) and np.abs(action).max() <= 1
        self.given.append(np.array(action))
        self.pose = self.pose + np.repeat([0.02, 0.05], 3) * action[:6]
        self.gripper = int(action[6])
        return self.get_obs(), 0, False, self.get_info()

    def close(self) -> None:
        self.closed = True


class Oracle:
    """A subtask is done once the tool is higher than at its start by enough, whichever it is."""

    def get_task_info_for_set(self, start: Any, end: Any, tasks: set[str]) -> set[str]:
        return tasks if end["robot_info"]["height"] - start["robot_info"]["height"] > LIFTED_M else set()


def sequences(count: int) -> list[tuple[dict[str, Any], tuple[Any, ...]]]:
    tasks = tuple(np.str_(task) for task in TEXTS)
    return [({"led": np.int64(number % 2), "drawer": "open"}, tasks) for number in range(count)]


def make() -> tuple[Installed, list[Env]]:
    """Return the fake install and the list of environments that it has made."""
    made: list[Env] = []

    def environment(_split: Path) -> Env:
        made.append(Env())
        return made[-1]

    scene_of = lambda condition: (np.zeros(15), np.full(24, float(condition["led"])))  # noqa: E731
    return Installed(sequences, scene_of, Oracle(), TEXTS, environment), made
