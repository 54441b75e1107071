# SPDX-License-Identifier: Apache-2.0
"""Action labels: what was commanded, or what was measured, during each control period, from samples at their own times.

A command holds until the next one, as it does in the robot's controller; and as there, it holds for a limited time
only: a controller that hears nothing stops the arm. A measured pose lies on the way between its neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions

Times = NDArray[np.int64]
Floats = NDArray[np.float64]

# How long the controllers that take twists go on without a new one: the simulated arm stops after 0.2 s, MoveIt Servo
# after 0.1 s by default.
HOLD_NS = 200_000_000


def hold_average(sample_ns: Times, values: Floats, start_ns: Times, period_ns: int, hold_ns: int = HOLD_NS) -> Floats:
    """Average held `values` (S, D) over [start, start + period) for each of `start_ns` (T,): (T, D).

    A value holds from its time until the next one's or for `hold_ns`; where none holds it is zero. Samples may come in
    any order; of equal times the last counts.
    """
    return HeldValues(sample_ns, values, hold_ns).average(start_ns, period_ns)


class HeldValues:
    """Values that hold, as `hold_average` says, prepared once for many questions."""

    def __init__(self, sample_ns: Times, values: Floats, hold_ns: int = HOLD_NS) -> None:
        self._sample_ns, self._values = in_order(sample_ns, values)
        if len(sample_ns) == 0:
            return
        until_next_ns = np.diff(self._sample_ns, append=self._sample_ns[-1] + hold_ns)
        self._held_s = np.minimum(until_next_ns, hold_ns) / 1e9  # (S,)
        # The integral up to each sample; its differences are exact enough: 1e-12 m/s after an hour.
        sums = np.cumsum(self._values * self._held_s[:, None], axis=0)
        self._integrals = np.concatenate([np.zeros((1, values.shape[1])), sums])

    def average(self, start_ns: Times, period_ns: int) -> Floats:
        """Average over [start, start + period) for each of `start_ns` (T,): (T, D)."""
        if len(self._sample_ns) == 0:
            return np.zeros((len(start_ns), self._values.shape[1]))
        return (self._integral(start_ns + period_ns) - self._integral(start_ns)) / (period_ns / 1e9)

    def _integral(self, time_ns: Times) -> Floats:
        last = np.searchsorted(self._sample_ns, time_ns, side="right") - 1
        sample = np.maximum(last, 0)
        since_s = np.minimum((time_ns - self._sample_ns[sample]) / 1e9, self._held_s[sample])
        since_s = np.where(last < 0, 0.0, since_s)
        return self._integrals[sample] + self._values[sample] * since_s[:, None]


def as_of(sample_ns: Times, values: Floats, time_ns: Times, max_age_ns: int | None = None) -> Floats:
    """Return the newest of `values` (S,) at each of `time_ns` (T,), the sample at that very time included.

    NaN where there is none yet, or none that is at most `max_age_ns` old.
    """
    sample_ns, values = in_order(sample_ns, values)
    last = np.searchsorted(sample_ns, time_ns, side="right") - 1
    unknown = last < 0
    if max_age_ns is not None:
        unknown |= time_ns - np.append(sample_ns, 0)[last] > max_age_ns
    return np.where(unknown, np.nan, np.append(values, np.nan)[last])


def poses_at(sample_ns: Times, poses: Floats, time_ns: Times, max_gap_ns: int) -> Floats:
    """Interpolate poses (S, 7), position and quaternion x y z w, at each of `time_ns` (T,): (T, 7).

    Straight lines and shortest rotations between neighbours. NaN outside the samples, and between two that are more
    than `max_gap_ns` apart. Samples may come in any order; those that are no pose are passed over, and of equal times
    the first counts: a sensor that repeats a stamp repeats itself.
    """
    from scipy.spatial.transform import Rotation  # here: see actions

    valid = np.isfinite(poses).all(axis=1) & (np.linalg.norm(poses[:, 3:], axis=1) > 1e-6)
    sample_ns, first = np.unique(sample_ns[valid], return_index=True)
    poses = poses[valid][first]
    result = np.full((len(time_ns), 7), np.nan)
    if len(sample_ns) == 0:
        return result
    right = np.searchsorted(sample_ns, time_ns, side="left")
    left = np.where(np.append(sample_ns, -1)[right] == time_ns, right, right - 1)
    inside = (left >= 0) & (right < len(sample_ns))
    left, right = left[inside], right[inside]
    gap_ns = sample_ns[right] - sample_ns[left]
    near = gap_ns <= max_gap_ns
    fraction = ((time_ns[inside] - sample_ns[left]) / np.maximum(gap_ns, 1))[:, None]
    between = np.full((len(left), 7), np.nan)
    if near.any():
        start, end, part = poses[left][near], poses[right][near], fraction[near]
        turn = (Rotation.from_quat(end[:, 3:]) * Rotation.from_quat(start[:, 3:]).inv()).as_rotvec()
        rotation = Rotation.from_rotvec(turn * part) * Rotation.from_quat(start[:, 3:])
        between[near] = np.concatenate([start[:, :3] + (end[:, :3] - start[:, :3]) * part, rotation.as_quat()], axis=1)
    result[inside] = between
    return result


def motion(sample_ns: Times, poses: Floats, start_ns: Times, period_ns: int, max_gap_ns: int) -> Floats:
    """Return the constant twists (T, 6) that lead from the measured pose at each of `start_ns` to that a period later.

    In the frame of the poses; NaN where either pose is not known (see `poses_at`).
    """
    before = poses_at(sample_ns, poses, start_ns, max_gap_ns)
    after = poses_at(sample_ns, poses, start_ns + period_ns, max_gap_ns)
    known = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    result = np.full((len(start_ns), 6), np.nan)
    if known.any():
        b, a = before[known], after[known]
        result[known] = actions.twist_between(b[:, :3], b[:, 3:], a[:, :3], a[:, 3:], period_ns / 1e9)
    return result


def in_order(sample_ns: Times, values: Floats) -> tuple[Times, Floats]:
    """Sort samples by time; those of equal times keep their order."""
    order = np.argsort(sample_ns, kind="stable")
    return sample_ns[order], values[order]
