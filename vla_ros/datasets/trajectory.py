# SPDX-License-Identifier: Apache-2.0
"""Resample steps at a steady rate, as data sets have them, onto the control grid: one frame and one action per tick.

The rule is that of bags: a frame is the newest one at its tick, an action the motion during the period after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.grid import SECOND_NS
from vla_ros.imaging import images
from vla_ros.observations.observation import proprioception

Floats = NDArray[np.float64]

# Reasons to leave episodes out.
TOO_SHORT = "shorter than one control period"
WITHOUT_TEXT = "episode without a language instruction"


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """S steps under one command, in the contract's units; step i lasts from i / rate_hz to (i + 1) / rate_hz."""

    rate_hz: Fraction
    image: Callable[[str, int], NDArray[np.uint8]]  # (camera, step) -> (H, W, 3) RGB, at the beginning of the step
    twists: Floats  # (S, 6), m/s and rad/s, base frame, constant during the step
    grippers: Floats  # (S,), the opening in [0, 1] commanded at the step
    poses: Floats | None  # (S, 7), position in m and quaternion x y z w at the beginning of the step
    openings: Floats | None  # (S,), measured
    command: str
    task: str
    outcome: str
    source: str
    first_step: int = 0  # number of step 0 in its recording
    phrasings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.twists)


def to_episode(trajectory: Trajectory, spec: ObservationSpec, timing: Timing) -> Episode | None:
    """Sample a trajectory on the control grid; return None if it is shorter than one period.

    Raises:
        SourceError: the data set lacks what the contract requires.
        ValueError: a value is not finite, or an image can't be decoded.
    """
    grid = _Grid(trajectory.rate_hz, timing.grid.rate_hz, len(trajectory))
    if grid.ticks == 0:
        return None
    steps = grid.step_at(np.arange(grid.ticks), half_periods=0)
    gripper = trajectory.grippers[grid.step_at(np.arange(grid.ticks), half_periods=1)]
    actions = np.concatenate([grid.mean_twists(trajectory.twists), gripper[:, None]], axis=1)
    if not np.isfinite(actions).all():
        raise ValueError("an action is not a finite number")
    resized = {
        camera.name: np.stack([images.resize(trajectory.image(camera.name, int(step)), camera) for step in steps])
        for camera in spec.cameras
    }
    return Episode(
        images=resized,
        proprioception=_states(trajectory, spec, steps),
        actions=actions,
        command=trajectory.command,
        task=trajectory.task,
        outcome=trajectory.outcome,
        source=trajectory.source,
        start_ns=int(trajectory.first_step * SECOND_NS / trajectory.rate_hz),
        ticks=grid.tick_of(trajectory.first_step) + np.arange(grid.ticks, dtype=np.int64),
        phrasings=trajectory.phrasings,
    )


class _Grid:
    """Locates the ticks of a control rate among S steps of a rate, in integer arithmetic."""

    def __init__(self, rate_hz: Fraction, control_hz: Fraction, steps: int) -> None:
        self._period = rate_hz / control_hz  # in steps
        self._rate_hz = rate_hz
        self._last = steps - 1
        self.ticks = int(steps / self._period)

    def tick_of(self, step: int) -> int:
        """Return the tick that `step` of the recording begins in."""
        return int(step / self._period)

    def step_at(self, ticks: NDArray[np.int64], half_periods: int) -> NDArray[np.int64]:
        """Return the step (T,) in progress at `ticks`, or so many half periods after them."""
        return (2 * ticks + half_periods) * self._period.numerator // (2 * self._period.denominator)

    def mean_twists(self, twists: Floats) -> Floats:
        """Return for each tick the constant twist (T, 6) that moves over its period as far as `twists` (S, 6) do."""
        begin = np.arange(self.ticks) * float(self._period)
        first = self.step_at(np.arange(self.ticks), half_periods=0)
        moved = np.zeros((self.ticks, 3))
        turned = Rotation.identity(self.ticks)
        for later in range(int(self._period) + 2):
            step = np.minimum(first + later, self._last)
            overlap = np.minimum(begin + float(self._period), first + later + 1.0) - np.maximum(begin, first + later)
            seconds = np.maximum(overlap, 0.0)[:, None] / float(self._rate_hz)
            moved += twists[step, :3] * seconds
            turned = Rotation.from_rotvec(twists[step, 3:] * seconds) * turned
        period_s = float(self._period / self._rate_hz)
        return np.concatenate([moved, turned.as_rotvec()], axis=1) / period_s


def _states(trajectory: Trajectory, spec: ObservationSpec, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    names, poses, openings = spec.proprioception, trajectory.poses, trajectory.openings
    if not names:
        return np.zeros((len(steps), 0), np.float32)
    for needed, values in (("ee_pose", poses), ("gripper_state", openings)):
        if needed in spec.streams and values is None:
            raise SourceError(
                f"{trajectory.source} has no {needed.replace('_', ' ')}, which contract.proprioception = {names} "
                "requires; train with contract.proprioception=[], or without this source"
            )
    seen_poses = [None] * len(steps) if poses is None else poses[steps]
    seen_openings = [None] * len(steps) if openings is None else openings[steps]
    states = np.stack([proprioception(names, *seen) for seen in zip(seen_poses, seen_openings)])
    if not np.isfinite(states).all():
        raise ValueError("a state of the robot is not a finite number")
    return states
