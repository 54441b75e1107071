# SPDX-License-Identifier: Apache-2.0
"""LIBERO (Liu et al. 2023, arXiv:2306.03310) as an environment for rollouts, following its standard protocol.

robosuite simulates a Panda with an operational space controller at 20 Hz. An episode starts from one of its task's
fixed initial states, holds still for ten steps while objects settle, and has as many steps as the suite's longest
demonstration needs (Kim et al. 2024, arXiv:2406.09246).

Conversions: images arrive upside down; gripper commands are +1 closed, -1 open. The controller takes increments of the
tool's pose in the base frame: +-1 is 0.05 m, or 0.5 rad of a rotation vector, per step. Within a step it covers only
part of the increment, a quarter at full speed, so twists are what the controller is commanded, not the arm's speed.

The state matches LIBERO's data sets: the position of the grip site in the world frame, and the orientation of the
hand body, a quarter turn away from the controller's.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros import actions
from vla_ros.evaluation.errors import EvaluationError

CONTROL_HZ = 20.0
STEP_M, STEP_RAD = 0.05, 0.5
CLOSED, OPEN = 1.0, -1.0
OPEN_WIDTH_M = 0.08  # of the Panda's two fingers
# Step limits by suite.
SUITES = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
SETTLING_STEPS = 10
CAMERAS = {"static": "agentview_image", "wrist": "robot0_eye_in_hand_image"}
IMAGE_PX = 256
_SEED = 0  # for what the fixed initial states leave open, as in published evaluations


def open_suite(suite: str) -> Any:
    """Return LIBERO's object for a suite, with the tasks in their usual order."""
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo's default needs a display
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the order of tasks
        return benchmark.get_benchmark(suite)()


def task_languages(suite: str) -> dict[str, str]:
    """Return the suite's tasks in order: name -> language command."""
    return {task.name: task.language for task in open_suite(suite).tasks}


def select_tasks(suite: str, names: Sequence[str]) -> list[str]:
    """Expand `names` (names, numbers from 0, or "all") to task names in the suite's order."""
    tasks = list(task_languages(suite))
    for name in names:
        if name not in ("all", *tasks) and not (name.isdigit() and int(name) < len(tasks)):
            listed = ", ".join(f"{number} {task}" for number, task in enumerate(tasks))
            raise EvaluationError(f"--tasks must be all, or numbers or names in {suite} ({listed}); got {name!r}")
    numbers = {int(name) for name in names if name.isdigit()}
    return [task for number, task in enumerate(tasks) if "all" in names or task in names or number in numbers]


def initial_states(suite: str, task: str) -> int:
    """Return the number of initial states of a task."""
    benchmark = open_suite(suite)
    return len(benchmark.get_task_init_states(benchmark.get_task_names().index(task)))


class LiberoEnv:
    """One suite as a `runtime.rollout.Environment`; belongs to the thread that creates it."""

    control_hz = CONTROL_HZ

    def __init__(self, suite: str) -> None:
        self._benchmark = open_suite(suite)
        self._task = ""
        self._states: NDArray[np.float64] = np.empty((0, 0))
        self._env: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Go to initial state `seed` of `options["task"]` and let it settle for ten steps."""
        self._open((options or {})["task"])
        number = seed or 0
        if number >= len(self._states):
            raise EvaluationError(
                f"the initial state of {self._task} must be 0 to {len(self._states) - 1}; got {number}; lower "
                "--rollouts or --seed"
            )
        self._env.seed(_SEED)
        self._env.reset()
        seen = self._env.set_init_state(self._states[number])
        for _ in range(SETTLING_STEPS):
            seen, _, _, _ = self._env.step(env_action(np.zeros(6), 1.0).tolist())
        return observation(seen), {"success": False}

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Execute (7,): twist [m/s, rad/s] in the base frame and opening, for 50 ms."""
        action = np.asarray(action, dtype=np.float64)
        seen, reward, _, _ = self._env.step(env_action(action[:6], action[6]).tolist())
        success = bool(self._env.check_success())
        return observation(seen), float(reward), success, False, {"success": success}

    def body_position(self, name: str) -> NDArray[np.float64]:
        """Return a body's position (3,) [m] in the world, by MuJoCo name; no observable has those of fixtures."""
        return np.array(self._env.sim.data.get_body_xpos(name), dtype=np.float64)

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _open(self, task: str) -> None:
        if task == self._task and self._env is not None:
            return
        from libero.libero.envs import OffScreenRenderEnv

        self.close()
        number = self._benchmark.get_task_names().index(task)
        self._states = self._benchmark.get_task_init_states(number)
        self._env = OffScreenRenderEnv(
            bddl_file_name=self._benchmark.get_task_bddl_file_path(number),
            camera_heights=IMAGE_PX,
            camera_widths=IMAGE_PX,
        )
        self._task = task


def env_action(twist: ArrayLike, opening: float) -> NDArray[np.float64]:
    """Convert a twist [m/s, rad/s] in the base frame and an opening in [0, 1] to LIBERO's action (7,)."""
    full_speed = np.repeat([STEP_M * CONTROL_HZ, STEP_RAD * CONTROL_HZ], 3)
    increments = np.clip(np.asarray(twist, dtype=np.float64) / full_speed, -1, 1)
    return np.append(increments, actions.value_from_opening(opening, CLOSED, OPEN))


def observation(seen: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Convert robosuite's observables to the observation of `runtime.rollout.Environment`."""
    fingers = np.asarray(seen["robot0_gripper_qpos"], dtype=np.float64)
    opening = actions.opening_from_value(float(fingers[0] - fingers[1]), 0.0, OPEN_WIDTH_M)
    return {
        **{camera: np.ascontiguousarray(seen[name][::-1]) for camera, name in CAMERAS.items()},
        "ee_position": np.asarray(seen["robot0_eef_pos"], dtype=np.float32),
        "ee_quaternion": np.asarray(seen["robot0_eef_quat"], dtype=np.float32),
        "opening": np.array([opening], dtype=np.float32),
    }
