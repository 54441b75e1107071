# SPDX-License-Identifier: Apache-2.0
"""Twists between the ticks of a plan, for a guard that commands the arm faster than the policy plans."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def interpolated(previous: Array | None, current: Array, following: Array | None, phase: float) -> Array:
    """Return the twist (6,) at `phase` in [0, 1) of the tick that `current` is planned for.

    A plan gives the average twist of each tick. The profile is piecewise linear through these averages at the middle of
    their ticks, so that the commanded acceleration is constant between them and the displacement over several ticks is
    that of the plan. Without a neighbour, `current` holds for that half of the tick.

    Args:
        previous: Twist of the tick before, None where the arm stood or its plan is unknown.
        following: Twist planned for the next tick, None if there is none.
    """
    neighbour, weight = (previous, 0.5 - phase) if phase < 0.5 else (following, phase - 0.5)
    return current if neighbour is None else current + weight * (neighbour - current)
