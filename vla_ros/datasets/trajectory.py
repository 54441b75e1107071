# SPDX-License-Identifier: Apache-2.0
"""Steps at a steady rate, as data sets have them, onto the control grid: one frame and one action for each tick.

The rule is the bag reader's: a frame is the newest one at its tick, an action the motion during the period after it.
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
from vla_ros.imaging import images
from vla_ros.observations.observation import proprioception

Floats = NDArray[np.float64]

# Why episodes of data sets are left out.
TOO_SHORT = "shorter than one control period"
WITHOUT_TEXT = "episode without a language instruction"


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """S steps of one command, in the contract's units; step i lasts from i / rate_hz to (i + 1) / rate_hz.

    picture: (camera, step) -> (H, W, 3) uint8 RGB, what was seen when the step began
    twists (S, 6): m/s, rad/s, base frame, constant during the step
    grippers (S,): the opening in [0, 1] that was commanded at the step
    poses (S, 7): position m, quaternion x y z w, when the step began; openings (S,): measured; None where unknown
    phrasings: as an Episode has them
    """

    rate_hz: Fraction
    picture: Callable[[str, int], NDArray[np.uint8]]
    twists: Floats
    grippers: Floats
    poses: Floats | None
    openings: Floats | None
    command: str
    task: str
    outcome: str
    source: str
    start_ns: int = 0
    phrasings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.twists)


def require_rate(rate_hz: Fraction, timing: Timing, name: str) -> None:
    """Raise SourceError where the control rate is higher than the data set's: frames can't be invented."""
    if timing.control_hz > rate_hz:
        raise SourceError(
            f"{name} was recorded at {float(rate_hz):g} Hz, and contract.control_hz is {timing.control_hz:g}: there "
            f"are no frames for that; allowed: up to {float(rate_hz):g} Hz"
        )


def to_episode(trajectory: Trajectory, spec: ObservationSpec, timing: Timing) -> Episode | None:
    """Sample a trajectory on the control grid; None where it is shorter than one period.

    Raises:
        SourceError: the data set lacks what the contract wants.
        ValueError: a value is not finite, or a picture is none.
    """
    grid = _Grid(trajectory.rate_hz, timing.period_ns, len(trajectory))
    if grid.ticks == 0:
        return None
    steps = grid.step_at(np.arange(grid.ticks), half_periods=0)
    gripper = trajectory.grippers[grid.step_at(np.arange(grid.ticks), half_periods=1)]
    actions = np.concatenate([grid.mean_twists(trajectory.twists), gripper[:, None]], axis=1)
    if not np.isfinite(actions).all():
        raise ValueError("an action is not a finite number")
    pictures = {
        camera.name: np.stack([images.resize(trajectory.picture(camera.name, int(step)), camera) for step in steps])
        for camera in spec.cameras
    }
    first_tick = trajectory.start_ns // timing.period_ns
    return Episode(
        images=pictures,
        proprioception=_states(trajectory, spec, steps),
        actions=actions,
        command=trajectory.command,
        task=trajectory.task,
        outcome=trajectory.outcome,
        source=trajectory.source,
        start_ns=trajectory.start_ns,
        ticks=first_tick + np.arange(grid.ticks, dtype=np.int64),
        phrasings=trajectory.phrasings,
    )


class _Grid:
    """Where the ticks of a control period lie among S steps of a rate, in whole numbers."""

    def __init__(self, rate_hz: Fraction, period_ns: int, steps: int) -> None:
        self._period = Fraction(period_ns, 10**9) * rate_hz  # in steps
        self._rate_hz = rate_hz
        self._last = steps - 1
        self.ticks = int(steps / self._period)

    def step_at(self, ticks: NDArray[np.int64], half_periods: int) -> NDArray[np.int64]:
        """Return the step (T,) that lasts at `ticks`, or half a period after them."""
        return (2 * ticks + half_periods) * self._period.numerator // (2 * self._period.denominator)

    def mean_twists(self, twists: Floats) -> Floats:
        """Return for each tick (T, 6) the constant twist that moves over its period as `twists` (S, 6) do in turn."""
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
    names = spec.proprioception
    if not names:
        return np.zeros((len(steps), 0), np.float32)
    for needed, values in (("ee_pose", trajectory.poses), ("gripper_state", trajectory.openings)):
        if needed in spec.streams and values is None:
            raise SourceError(
                f"{trajectory.source} has no {needed.replace('_', ' ')}, which contract.proprioception = {names} "
                "is made from; train with contract.proprioception=[] or without this source"
            )
    poses, openings = trajectory.poses, trajectory.openings
    rows = [
        proprioception(
            names, None if poses is None else poses[step], None if openings is None else float(openings[step])
        )
        for step in steps
    ]
    states = np.stack(rows)
    if not np.isfinite(states).all():
        raise ValueError("a state of the robot is not a finite number")
    return states
