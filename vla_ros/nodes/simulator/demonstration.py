# SPDX-License-Identifier: Apache-2.0
"""One demonstration by the scripted expert: intended and executed actions, and when it ends."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_ros.sim.expert import Expert, Perturbation
from vla_ros.sim.state import SceneState
from vla_ros.sim.tasks.task import Task

Outcome = Literal["success", "failure"]

TIME_LIMIT_S = 12.0
# The last ticks of a demonstration teach a policy to hold still when it is done; of one that must end while moving
# (see Task.ends_moving), to keep moving.
HOLD_TICKS = 3
KEEP_MOVING_TICKS = 3
SETTLE_LIMIT_S = 1.5
AT_REST = 0.02  # m/s and rad/s


@dataclasses.dataclass(frozen=True)
class DemonstrationStep:
    """One control period: the expert's action (7,), to be learned, and the same with noise, to be executed."""

    intended: NDArray[np.float64]
    executed: NDArray[np.float64]
    outcome: Outcome | None  # set on the last step


class Demonstration:
    """The expert with DART noise (arXiv:1703.09327): perturbed actions are executed, clean ones are recorded.

    Demonstrations that leave the path and return to it teach a policy to recover.
    """

    def __init__(self, task: Task, seed: int, perturbation: float, control_hz: float) -> None:
        self.ticks = 0
        self._task = task
        self._expert = Expert(task)
        # A stream of its own: the seed itself drives the scene.
        self._noise = Perturbation(np.random.default_rng([seed, 1]), perturbation, control_hz)
        self._control_hz = control_hz
        self._start: SceneState | None = None
        self._succeeded_at: int | None = None
        self._resting = 0

    def step(self, state: SceneState) -> DemonstrationStep:
        """Return the next step for the current state; the first state is the start of the episode."""
        start = self._start = self._start or state
        intended = self._expert.act(state)
        done = self._task.success(start, state)
        if not done:
            self._succeeded_at = None
        elif self._succeeded_at is None:
            self._succeeded_at = self.ticks
        at_rest = bool(done and np.abs(intended[:6]).max() < AT_REST)
        self._resting = self._resting + 1 if at_rest else 0
        # Noise at the end would only teach the policy to leave the goal.
        executed = intended if at_rest else self._noise.apply(intended)
        self.ticks += 1
        return DemonstrationStep(intended, executed, self._outcome())

    def _outcome(self) -> Outcome | None:
        if self._succeeded_at is not None:
            since = self.ticks - self._succeeded_at
            if self._task.ends_moving:
                return "success" if since >= KEEP_MOVING_TICKS else None
            if self._resting >= HOLD_TICKS or since / self._control_hz >= SETTLE_LIMIT_S:
                return "success"
        return "failure" if self.ticks / self._control_hz >= TIME_LIMIT_S else None
