# SPDX-License-Identifier: Apache-2.0
"""Action labels: what was commanded during each control period, from commands that came at their own times.

A command holds until the next one, as it does in the robot's controller; and as there, it holds for a limited time
only: a controller that hears nothing stops the arm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    if len(sample_ns) == 0:
        return np.zeros((len(start_ns), values.shape[1]))
    sample_ns, values = in_order(sample_ns, values)
    until_next_ns = np.diff(sample_ns, append=sample_ns[-1] + hold_ns)
    held_s = np.minimum(until_next_ns, hold_ns) / 1e9  # (S,)
    # The integral up to each sample; its differences are exact enough: 1e-12 m/s after an hour.
    integrals = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * held_s[:, None], axis=0)])

    def integral(time_ns: Times) -> Floats:
        last = np.searchsorted(sample_ns, time_ns, side="right") - 1
        sample = np.maximum(last, 0)
        since_s = np.minimum((time_ns - sample_ns[sample]) / 1e9, held_s[sample])
        since_s = np.where(last < 0, 0.0, since_s)
        return integrals[sample] + values[sample] * since_s[:, None]

    return (integral(start_ns + period_ns) - integral(start_ns)) / (period_ns / 1e9)


def as_of(sample_ns: Times, values: Floats, time_ns: Times) -> Floats:
    """Return the newest of `values` (S,) at each of `time_ns` (T,), the sample at that very time included.

    NaN where there is none yet.
    """
    sample_ns, values = in_order(sample_ns, values)
    last = np.searchsorted(sample_ns, time_ns, side="right") - 1
    return np.where(last < 0, np.nan, np.append(values, np.nan)[last])


def in_order(sample_ns: Times, values: Floats) -> tuple[Times, Floats]:
    """Sort samples by time; those of equal times keep their order."""
    order = np.argsort(sample_ns, kind="stable")
    return sample_ns[order], values[order]
