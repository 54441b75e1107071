# SPDX-License-Identifier: Apache-2.0
"""How a velocity becomes another one within limits: pure functions on vectors of three, one control period at a time.

Everything is limited by norm, so that a limited motion keeps its direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def limit_norm(vector: Array, maximum: float) -> Array:
    """`vector`, shortened to the length `maximum` where it is longer; its direction stays."""
    length = math.sqrt(float(vector @ vector))
    return vector if length <= maximum else vector * (maximum / length)


def rate_to_cover(distance: float, rate_step: float, dt_s: float) -> float:
    """The largest rate that still comes to rest at `distance`, when each period may lower it by `rate_step`.

    The rates r, r - rate_step, r - 2 rate_step, ... last `dt_s` each and cover `distance` in all. With metres, m/s and
    the speed that a braking arm loses in a period, this is the speed at which a wall may be approached; with m/s, m/s^2
    and what jerk allows, the acceleration that does not overshoot a speed.
    """
    periods = distance / dt_s / rate_step if math.isfinite(rate_step) else 0.0
    count = max(1, math.ceil((math.sqrt(1.0 + 8.0 * periods) - 1.0) / 2.0 - 1e-9))
    if count == 1:
        return distance / dt_s
    return distance / dt_s / count + rate_step * (count - 1) / 2.0


def approach(
    velocity: Array, acceleration: Array, target: Array, *, maximum_acceleration: float, jerk: float, dt_s: float
) -> Array:
    """The velocity (3,) one period after `velocity`, on the way to `target`.

    Args:
        acceleration: what changed the velocity in the period before, (3,).
        maximum_acceleration: of the change, by norm, always kept.
        jerk: of the change of acceleration, by norm; kept as well.

    A target that both allow is returned as it is. A single straight change of speed does not overshoot; where the
    acceleration first has to turn round, the velocity goes on changing the old way for that long.
    """
    change = target - velocity
    distance = math.sqrt(float(change @ change))
    allowed = min(maximum_acceleration, rate_to_cover(distance, jerk * dt_s, dt_s))
    wanted = change * (allowed / distance) if distance > 0 else np.zeros_like(change)
    step = limit_norm(wanted - acceleration, jerk * dt_s)
    reached = velocity + (acceleration + step) * dt_s
    return target if np.allclose(reached, target, rtol=0.0, atol=1e-12) else reached


def limit_to_box(velocity: Array, position: Array, low: Sequence[float], high: Sequence[float], dt_s: float) -> Array:
    """Cut the components of `velocity` (3,) [m/s] that would leave the box within `dt_s`.

    From outside, moving back in is free, and nothing is pushed: a component is shortened, at most to zero.
    """
    forward = np.maximum(0.0, (np.asarray(high) - position) / dt_s)
    backward = np.minimum(0.0, (np.asarray(low) - position) / dt_s)
    return np.clip(velocity, backward, forward)


def limit_to_braking(
    velocity: Array, position: Array, low: Sequence[float], high: Sequence[float], deceleration: float, dt_s: float
) -> Array:
    """Cut the components of `velocity` (3,) from which `deceleration` [m/s^2] could not stop before the box's walls."""
    lost = deceleration * dt_s
    room_ahead = np.maximum(0.0, np.asarray(high) - position)
    room_behind = np.maximum(0.0, position - np.asarray(low))
    forward = [rate_to_cover(room, lost, dt_s) for room in room_ahead]
    backward = [-rate_to_cover(room, lost, dt_s) for room in room_behind]
    return np.clip(velocity, backward, forward)
