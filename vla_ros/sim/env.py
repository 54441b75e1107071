# SPDX-License-Identifier: Apache-2.0
"""The simulated table-top arm as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vla_ros.sim.cameras import CAMERAS, Cameras
from vla_ros.sim.physics import MAX_ANGULAR_RPS, MAX_LINEAR_MPS, TabletopSim
from vla_ros.sim.rotation import matrix_to_quaternion
from vla_ros.sim.scene import randomize
from vla_ros.sim.state import Array, SceneState
from vla_ros.sim.tasks import TASKS, TRAINED_TASKS
from vla_ros.sim.tasks.task import Task

Observation = dict[str, Any]


class TabletopEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """Language-conditioned table-top tasks.

    Action (7,): twist of the tool in base_link [m/s, rad/s], then gripper opening [0 closed, 1 open], held for one
    control period. Observation: images `static` and `wrist` (height, width, 3) uint8, `ee_position` (3,) [m] and
    `ee_quaternion` (4,) xyzw of the tool in base_link, `opening` (1,).

    An episode terminates on success (further steps are allowed, to record how the arm holds still) and is never
    truncated.

    Args:
        height, width: image size in pixels, at most 480 x 640.
        render: False leaves the images out of the observation, for speed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        control_hz: float = 10.0,
        height: int = 128,
        width: int = 128,
        render: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or 'rgb_array'; got {render_mode!r}")
        if not control_hz > 0:
            raise ValueError(f"control_hz must be above 0; got {control_hz}")
        self.sim = TabletopSim()
        self.control_hz = control_hz
        self.render_mode = render_mode
        self.task: Task = TASKS[TRAINED_TASKS[0]]
        self.command = self.task.phrasings[0]
        self._start = self.sim.state()
        self._render = render
        self._cameras = Cameras(self.sim, height, width) if render or render_mode else None
        fastest = np.repeat(np.array([MAX_LINEAR_MPS, MAX_ANGULAR_RPS], np.float32), 3)
        low, high = np.append(-fastest, np.float32(0)), np.append(fastest, np.float32(1))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        images = {camera: spaces.Box(0, 255, (height, width, 3), np.uint8) for camera in CAMERAS if render}
        ranges = {"ee_position": (-2.0, 2.0, (3,)), "ee_quaternion": (-1.0, 1.0, (4,)), "opening": (0.0, 1.0, (1,))}
        state = {name: spaces.Box(*limits, np.float32) for name, limits in ranges.items()}
        self.observation_space = spaces.Dict({**images, **state})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in a random scene; the same seed and options give the same episode.

        `options` are `task`, a name in TASKS (default: any trained task), and `command`, the language command (default:
        any of the task's training phrasings).
        """
        super().reset(seed=seed)
        options = dict(options or {})
        name = options.pop("task", None) or str(self.np_random.choice(TRAINED_TASKS))
        command = options.pop("command", None)
        if options or name not in TASKS:
            raise ValueError(
                f"reset: unknown {f'options {sorted(options)}' if options else f'task {name!r}'}; "
                f"options are 'task', one of {list(TASKS)}, and 'command', a text"
            )
        self.task = TASKS[name]
        randomize(self.sim, self.task, self.np_random)
        self.command = command or str(self.np_random.choice(self.task.phrasings))
        self._start = self.sim.state()
        return self._observation(self._start), self._info(self._start)

    def begin(self, task: str) -> Observation:
        """Continue in the current scene with another task; returns the observation."""
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; must be one of {', '.join(TASKS)}")
        self.task = TASKS[task]
        self.task.begin(self.sim, self.np_random)
        self._start = self.sim.state()
        return self._observation(self._start)

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute an action (7,) for one control period."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,):
            raise ValueError(f"action must be (7,): twist [m/s, rad/s] and gripper opening; got shape {action.shape}")
        self.sim.set_command(action[:6], action[6])
        self.sim.advance(1.0 / self.control_hz)
        state = self.sim.state()
        info = self._info(state)
        return self._observation(state), float(info["success"]), info["success"], False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return both images side by side (height, 2 * width, 3), or None without a render mode."""
        return np.concatenate(list(self.images().values()), axis=1) if self.render_mode else None

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """Render one RGB image (height, width, 3) per camera; empty if the environment renders nothing."""
        return self._cameras.capture() if self._cameras else {}

    def state(self) -> SceneState:
        """Return the scene, as the scripted expert sees it."""
        return self.sim.state()

    def succeeded(self, state: SceneState) -> bool:
        """Return whether the task is done."""
        return self.task.success(self._start, state)

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._cameras is not None:
            self._cameras.close()

    def _observation(self, state: SceneState) -> Observation:
        w, x, y, z = matrix_to_quaternion(state.tcp_rotation)
        return {
            **(self.images() if self._render else {}),
            "ee_position": state.tcp_position.astype(np.float32),
            "ee_quaternion": np.array([x, y, z, w], dtype=np.float32),
            "opening": np.array([state.opening], dtype=np.float32),
        }

    def _info(self, state: SceneState) -> dict[str, Any]:
        return {"success": self.succeeded(state), "task": self.task.name, "command": self.command}
