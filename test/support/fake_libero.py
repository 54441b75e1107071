# SPDX-License-Identifier: Apache-2.0
"""What vla_ros calls of LIBERO, with a robot that carries out increments exactly and is done once it is low enough.

Sources: libero/libero/benchmark/__init__.py, libero/libero/envs/env_wrapper.py, and robosuite's OSC_POSE.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

TASKS = ("put_the_bowl_on_the_plate", "open_the_drawer")
STATES = 3
DONE_BELOW_M = 0.87


class Benchmark:
    def __init__(self, suite: str) -> None:
        print("[info] Applying task order index 0")
        self.tasks = [SimpleNamespace(name=name, language=name.replace("_", " ")) for name in TASKS]
        self.suite = suite

    def get_task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def get_task_bddl_file_path(self, number: int) -> str:
        return f"{self.suite}/{self.tasks[number].name}.bddl"

    def get_task_init_states(self, number: int) -> np.ndarray:
        return np.arange(STATES, dtype=np.float64)[:, None] + 100 * number


class Env:
    """Counts what is called in `calls`; all that were made are in `made`."""

    made: list[Env] = []  # noqa: RUF012

    def __init__(self, *, bddl_file_name: str, camera_heights: int, camera_widths: int) -> None:
        self.file, self.shape = bddl_file_name, (camera_heights, camera_widths)
        self.calls: list[tuple[str, Any]] = []
        self.env = self
        Env.made.append(self)

    def seed(self, number: int) -> None:
        self.calls.append(("seed", number))

    def reset(self) -> None:
        self.calls.append(("reset", None))

    def set_init_state(self, state: np.ndarray) -> dict[str, Any]:
        self.calls.append(("state", float(state[0])))
        self.position, self.rotation = np.array([0.0, 0.1, 1.0]), Rotation.from_rotvec([np.pi, 0, 0])
        self.fingers = 0.02
        return self._get_observations()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        assert isinstance(action, list) and len(action) == 7 and max(map(abs, action)) <= 1
        self.calls.append(("step", action))
        self.position = self.position + 0.05 * np.array(action[:3])
        self.rotation = Rotation.from_rotvec(0.5 * np.array(action[3:6])) * self.rotation
        self.fingers = 0.0 if action[6] > 0 else 0.04
        return self._get_observations(), 0.0, self.check_success(), {}

    def check_success(self) -> bool:
        return bool(self.position[2] < DONE_BELOW_M)

    def close(self) -> None:
        self.calls.append(("close", None))

    def _get_observations(self) -> dict[str, Any]:
        image = np.zeros((*self.shape, 3), np.uint8)
        image[-1, 0] = 255, 0, 0  # red in the upper left corner of the image that a person expects
        return {
            "agentview_image": image,
            "robot0_eye_in_hand_image": image // 2,
            "robot0_eef_pos": self.position,
            "robot0_eef_quat": self.rotation.as_quat(),
            "robot0_gripper_qpos": np.array([self.fingers, -self.fingers]),
        }


def install(monkeypatch: Any) -> type[Env]:
    """Put it in LIBERO's place for a test; returns the environment's class."""
    benchmark, envs = ModuleType("libero.libero.benchmark"), ModuleType("libero.libero.envs")
    benchmark.get_benchmark = lambda suite: lambda: Benchmark(suite)  # type: ignore[attr-defined]
    envs.OffScreenRenderEnv = Env  # type: ignore[attr-defined]
    inner, outer = ModuleType("libero.libero"), ModuleType("libero")
    inner.benchmark, inner.envs, outer.libero = benchmark, envs, inner  # type: ignore[attr-defined]
    Env.made = []
    for module in (outer, inner, benchmark, envs):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return Env
