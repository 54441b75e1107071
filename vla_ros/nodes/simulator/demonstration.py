# SPDX-License-Identifier: Apache-2.0
"""One demonstration by the scripted expert: what it means, what is executed, and when it is over."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from vla_ros.sim.expert import Expert, Perturbation
from vla_ros.sim.state import SceneState
from vla_ros.sim.tasks.task import Task

TIME_LIMIT_S = 12.0
# A policy learns to stand still when it is done from the last ticks of a demonstration.
HOLD_TICKS = 3
# No picture shows how far a block has been pushed. A demonstration that stood still in the end would teach to stop
# wherever a push might have ended; one that ends while still pushing teaches to go on.
PUSH_ON_TICKS = 3
SETTLE_LIMIT_S = 1.5
AT_REST = 0.02  # m/s and rad/s


@dataclasses.dataclass(frozen=True)
class Act:
    """`meant` by the expert and `executed` by the arm, (7,) each; `outcome` is set on the last act."""

    meant: NDArray[np.float64]
    executed: NDArray[np.float64]
    outcome: str | None


class Demonstration:
    """The expert with DART noise: what is executed is perturbed, what is meant is the clean answer to where that led.

    Arxiv 1703.09327: demonstrations that stray and come back teach a policy to come back.
    """

    def __init__(self, task: Task, seed: int, perturbation: float, control_hz: float) -> None:
        self._task = task
        self._expert = Expert(task)
        # Apart from the scene's randomness, which the same seed drives.
        self._noise = Perturbation(np.random.default_rng([seed, 1]), perturbation, control_hz)
        self._control_hz = control_hz
        self._start: SceneState | None = None
        self.ticks = 0
        self._succeeded_at: int | None = None
        self._resting = 0

    def act(self, state: SceneState) -> Act:
        """The next act, for the scene as it is now. The first state is the episode's start."""
        if self._start is None:
            self._start = state
        meant = self._expert.act(state)
        done = self._task.success(self._start, state)
        if not done:
            self._succeeded_at = None
        elif self._succeeded_at is None:
            self._succeeded_at = self.ticks
        at_rest = bool(done and np.abs(meant[:6]).max() < AT_REST)
        self._resting = self._resting + 1 if at_rest else 0
        # Noise at the end would only teach to leave the goal.
        executed = meant if at_rest else self._noise.apply(meant)
        self.ticks += 1
        return Act(meant, executed, self._outcome())

    def _outcome(self) -> str | None:
        if self._succeeded_at is not None:
            since = self.ticks - self._succeeded_at
            if self._task.ends_moving:
                return "success" if since >= PUSH_ON_TICKS else None
            if self._resting >= HOLD_TICKS or since / self._control_hz >= SETTLE_LIMIT_S:
                return "success"
        return "failure" if self.ticks / self._control_hz >= TIME_LIMIT_S else None
