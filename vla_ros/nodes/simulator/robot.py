# SPDX-License-Identifier: Apache-2.0
"""The simulated robot as one object that lives in one thread: physics, renderer, task and command watchdog."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.sim.cameras import Cameras
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.state import SceneState

# As a real driver: an arm whose commander has gone quiet stands still.
COMMAND_TIMEOUT_NS = 200_000_000


class SimulatedRobot:
    """The table-top scene, commanded by twists that expire. Create, use and close it in one thread (the renderer's)."""

    def __init__(self, height: int, width: int) -> None:
        # Without the environment's own cameras: pictures are taken when somebody wants them. Scenes are those of
        # TabletopEnv, so that a seed means the same here and in an evaluation without ROS.
        self._env = TabletopEnv(render=False)
        self._cameras = Cameras(self._env.sim, height, width)
        self._twist = np.zeros(6)
        self._twist_ns: int | None = None
        self._opening = 1.0
        self.command = ""
        self.state: SceneState = self._env.state()
        self._start = self.state

    def close(self) -> None:
        """Free the OpenGL context."""
        self._cameras.close()
        self._env.close()

    def reset(self, task: str, seed: int) -> str:
        """Start an episode: a new scene, the arm at rest, the gripper open. Returns the command that fits the task.

        Raises:
            ValueError: an unknown task.
        """
        self._env.reset(seed=seed, options={"task": task})
        self._twist_ns, self._opening = None, 1.0
        self.command = self._env.command
        self._start = self.state = self._env.state()
        return self.command

    def set_twist(self, twist: NDArray[np.float64], time_ns: int) -> None:
        """Command a twist (6,) [m/s, rad/s] in base_link; it holds until the next one, at most 0.2 s."""
        self._twist, self._twist_ns = twist, time_ns

    def set_opening(self, opening: float) -> None:
        """Command the gripper's opening, 0 closed ... 1 open; it holds until the next one."""
        self._opening = opening

    def advance(self, duration_s: float, time_ns: int) -> None:
        """Run the physics for `duration_s`, which ends at `time_ns`."""
        moving = self._twist_ns is not None and time_ns - self._twist_ns <= COMMAND_TIMEOUT_NS
        self._env.sim.set_command(self._twist if moving else np.zeros(6), self._opening)
        self._env.sim.advance(duration_s)
        self.state = self._env.state()

    def succeeded(self) -> bool:
        """Whether the task is done, read from the physics."""
        return self._env.task.success(self._start, self.state)

    def joint_positions(self) -> NDArray[np.float64]:
        """(9,) arm joints [rad] and fingers [m], in the order of `vla_ros.sim.physics.JOINT_NAMES`."""
        return self._env.sim.joint_positions()

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """One (height, width, 3) RGB picture for each camera."""
        return self._cameras.capture()
