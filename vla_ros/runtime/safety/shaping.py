# SPDX-License-Identifier: Apache-2.0
"""How a velocity becomes another one within limits: pure functions on vectors of three, one control period at a time.

Everything is limited by norm, so that a limited motion keeps its direction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def limit_norm(vector: Array, maximum: float) -> Array:
    """`vector`, shortened to the length `maximum` where it is longer; its direction stays."""
    length = math.sqrt(float(vector @ vector))
    return vector if length <= maximum else vector * (maximum / length)


def rate_to_cover(distance: float, rate_step: float, dt_s: float, lag_s: float = 0.0) -> float:
    """The largest rate that still comes to rest at `distance`, when each period may lower it by `rate_step`.

    The rates r, r - rate_step, r - 2 rate_step, ... last `dt_s` each and cover `distance` in all. With metres, m/s and
    the speed that a braking arm loses in a period, this is the speed at which a wall may be approached; with m/s, m/s^2
    and what jerk allows, the acceleration that does not overshoot a speed. `lag_s`: how long r goes on before it falls.
    """
    lag = lag_s / dt_s
    periods = distance / dt_s / rate_step if math.isfinite(rate_step) else 0.0
    count = max(1, math.ceil(math.sqrt((0.5 + lag) ** 2 + 2.0 * periods) - 0.5 - lag - 1e-9))
    falling = rate_step * count * (count - 1) / 2.0 if count > 1 else 0.0
    return (distance / dt_s + falling) / (count + lag)


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
    return target if np.abs(reached - target).max() <= 1e-12 else reached


def limit_to_box(velocity: Array, position: Array, low: Array, high: Array, dt_s: float) -> Array:
    """Cut the components of `velocity` (3,) [m/s] that would leave the box within `dt_s`.

    From outside, moving back in is free, and nothing is pushed: a component is shortened, at most to zero.
    """
    forward = np.maximum(0.0, (high - position) / dt_s)
    backward = np.minimum(0.0, (low - position) / dt_s)
    return np.minimum(np.maximum(velocity, backward), forward)


def limit_to_braking(
    velocity: Array, position: Array, low: Array, high: Array, *, deceleration: float, jerk: float, dt_s: float
) -> Array:
    """Cut the components of `velocity` (3,) from which the arm could not stop before the box's walls.

    It stops with `deceleration` [m/s^2], which builds up with `jerk` [m/s^3].
    """
    lost = deceleration * dt_s
    # An arm that speeds up goes on until that is let go and the deceleration there; a period of it is in every stop.
    building_periods = 2.0 * deceleration / jerk / dt_s if math.isfinite(deceleration) else 0.0
    lag_s = max(0.0, math.ceil(building_periods - 1e-9) - 1.0) * dt_s
    room_ahead = np.maximum(0.0, high - position)
    room_behind = np.maximum(0.0, position - low)
    forward = np.array([rate_to_cover(room, lost, dt_s, lag_s) for room in room_ahead])
    backward = np.array([-rate_to_cover(room, lost, dt_s, lag_s) for room in room_behind])
    return np.minimum(np.maximum(velocity, backward), forward)
