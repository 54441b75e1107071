# SPDX-License-Identifier: Apache-2.0
"""The scripted expert, and the noise that makes its demonstrations teach recovery."""

from __future__ import annotations

import numpy as np

from vla_ros.sim.physics import limit_speed
from vla_ros.sim.state import Array, SceneState
from vla_ros.sim.tasks.task import Task


class Expert:
    """Closed-loop expert for one task.

    It is a function of the current scene and of the scene at the start of the episode, without phases: it recovers
    from a lost grasp or a disturbance, and a policy without memory can imitate it (except on memory tasks, where the
    start also shows which block is meant). The first `act` takes its state as the start.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._start: SceneState | None = None
        self._rest: Array | None = None  # the action to repeat once the task is done

    def act(self, state: SceneState) -> Array:
        """Return the action (7,): twist in base_link [m/s, rad/s] within the speed caps, then gripper opening."""
        start = self._start = self._start or state
        done = self.task.success(start, state)
        if done and self._rest is not None:
            return self._rest.copy()
        action = self.task.act(start, state)
        self._rest = action if done and not action[:6].any() else None
        return np.append(limit_speed(action[:6]), action[6])


class Perturbation:
    """Noise on the executed action only, while the label stays the expert's (DART, Laskey et al. 2017).

    Bursts of 0.2 to 0.4 s push the arm off its path and white noise shakes it, so that demonstrations show how to
    recover. The gripper is left alone.
    """

    BURSTS_PER_S = 1.2
    BURST_STD = np.repeat([0.45, 1.05], 3)  # m/s, rad/s at scale 1
    WHITE_STD = np.repeat([0.09, 0.315], 3)  # the same, for one period of 0.1 s

    def __init__(self, rng: np.random.Generator, scale: float, control_hz: float = 10.0) -> None:
        self._rng = rng
        self._scale = scale
        self._period_s = 1.0 / control_hz
        self._burst = np.zeros(6)
        self._burst_left_s = 0.0

    def apply(self, action: Array) -> Array:
        """Return the action (7,) to execute instead of `action`, within the speed caps."""
        if self._burst_left_s <= 0 and self._rng.random() < self.BURSTS_PER_S * self._period_s:
            self._burst_left_s = self._rng.uniform(0.2, 0.4)
            self._burst = self._rng.normal(0.0, self._scale * self.BURST_STD)
        white = self._rng.normal(0.0, self._scale * self.WHITE_STD * np.sqrt(0.1 / self._period_s))
        twist = action[:6] + white
        if self._burst_left_s > 0:
            twist = twist + self._burst
            self._burst_left_s -= self._period_s
        return np.append(limit_speed(twist), action[6])
