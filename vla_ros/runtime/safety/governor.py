# SPDX-License-Identifier: Apache-2.0
"""The safety governor: a state machine that has the last word on every twist, and shapes it to the robot's limits.

Limits apply to norms, so a limited motion keeps its direction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vla_ros.robot import Limits

Array = NDArray[np.float64]
Position = Sequence[float] | NDArray[np.float64]

# Reasons that latch: a person must look, and reset.
FAULTS = frozenset({"policy_error", "non_finite", "emergency_stop"})
# Reasons for which the arm is commanded to stand still at once instead of slowing down within its limits.
AT_ONCE = frozenset({"emergency_stop"})
# A first run that a person ended sooner was none: nobody has seen yet how the arm moves.
FIRST_RUN_S = 10.0


class State(str, Enum):
    """What the governor does with actions."""

    DISARMED = "disarmed"  # silent until armed
    WAITING = "waiting"  # armed and silent: no action yet, or something is missing
    RUNNING = "running"  # actions reach the arm
    STOPPING = "stopping"  # slowing down within the limits, then zero twists, whatever the policy says
    FAULT = "fault"  # silent until the fault is reset


class SafetyGovernor:
    """Passes one limited twist per tick while there is no reason to stop.

    A stop slows down as fast as acceleration and jerk allow (at most `Limits.stopping_time_s`; an emergency stop does
    not slow down), sends `stop_ticks` zero twists and goes silent; the consumer's own command timeout is the second
    line of defence. A tick depends only on earlier ticks and its arguments: no clock, no threads.

    Args:
        limits: the robot's.
        period_s: between two ticks.
        stop_ticks: zero twists that end a stop, at least 1.
        speed_scale: factor on every twist, in [0, 1]; may change while running.
        first_run_scale: additional factor in [0, 1] during the first run, see `end_first_run`.
        armed: start WAITING instead of DISARMED.

    Attributes:
        stops: number of stops by reason.
        ticks_limited: ticks whose twist was changed by the limits.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        period_s: float,
        stop_ticks: int = 5,
        speed_scale: float = 1.0,
        first_run_scale: float = 1.0,
        armed: bool = False,
    ) -> None:
        if stop_ticks < 1:
            raise ValueError(f"stop_ticks must be at least 1; got {stop_ticks}")
        for name, value in (("speed_scale", speed_scale), ("first_run_scale", first_run_scale)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1]; got {value}")
        self.limits = limits
        self.speed_scale = speed_scale
        self.stops: Counter[str] = Counter()
        self.ticks_limited = 0
        self._first_run_scale = first_run_scale
        self._moved_s = 0.0
        self._period_s = period_s
        self._stop_ticks = stop_ticks
        self._armed = armed
        self._state = State.WAITING if armed else State.DISARMED
        self._reason: str | None = None if armed else "disarmed"
        self._fault: str | None = None
        self._zeros_left = 0
        self._last_twist = np.zeros(6)
        self._last_acceleration = np.zeros(6)
        self._position: Array | None = None  # of the tool, integrated between measurements
        self._box = np.array(limits.workspace_min_m), np.array(limits.workspace_max_m)

    @property
    def state(self) -> State:
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it does not run; None while RUNNING."""
        return self._reason

    @property
    def armed(self) -> bool:
        return self._armed

    @property
    def scale(self) -> float:
        """The factor currently applied to every twist."""
        return self.speed_scale * self._first_run_scale

    def arm(self, armed: bool) -> None:
        """Arm or disarm from the next tick on; disarming is a stop."""
        self._armed = armed

    def end_first_run(self) -> None:
        """End the first run on behalf of a person who disarms; not before the arm has moved for `FIRST_RUN_S`."""
        if self._moved_s >= FIRST_RUN_S:
            self._first_run_scale = 1.0

    def reset(self) -> None:
        """Clear a fault, on behalf of a person who has looked."""
        self._fault = None

    def tick(self, action: Array | None, reason: str | None, ee_position: Position | None) -> Array | None:
        """Decide on one tick.

        Args:
            action: (7,) twist [m/s, rad/s] in the base frame and opening, None if there is none for this tick.
            reason: why the arm must not move, if it must not.
            ee_position: (3,) of the tool in the base frame [m]; the arm does not move while it is unknown.

        Returns:
            The twist (6,) to publish, or None for silence.
        """
        known = ee_position is not None and bool(np.isfinite(ee_position).all())
        if known:
            self._position = np.array(ee_position, dtype=np.float64)
        against = self._against(action, reason, known)
        if against is None and action is not None and self._zeros_left == 0:
            wanted = action[:6] * self.scale
            if np.isfinite(wanted).all():
                self._state, self._reason = State.RUNNING, None
                twist, acceleration = self._limited(wanted)
                self._moved_s += self._period_s * bool(twist.any())
                return self._sent(twist, acceleration)
            against = "non_finite"
        if against in FAULTS:
            self._fault = against
        if self._state is State.RUNNING:
            self.stops[str(against)] += 1
            self._state, self._zeros_left = State.STOPPING, self._stop_ticks
        if against is not None:
            self._reason = against
        if self._state is State.STOPPING:
            if self._reason not in AT_ONCE:
                twist, acceleration = self._within_box(self._approach(np.zeros(6)))
                if twist.any():
                    return self._sent(twist, acceleration)
            if self._zeros_left > 0:
                self._zeros_left -= 1
                return self._sent(np.zeros(6), np.zeros(6))
        self._state = self._resting_state()
        return None

    def _sent(self, twist: Array, acceleration: Array) -> Array:
        """Remember `twist` as the one sent now; return a copy for the caller."""
        self._last_twist, self._last_acceleration = twist, acceleration
        if self._position is not None:
            self._position = self._position + twist[:3] * self._period_s
        return twist.copy()

    def _against(self, action: Array | None, reason: str | None, position_is_known: bool) -> str | None:
        if reason in AT_ONCE:  # outranks a fault or disarming, which would only slow the arm down
            return reason
        if self._fault is not None:
            return self._fault
        if not self._armed:
            return "disarmed"
        if reason is not None:
            return reason
        if action is None:
            return "starved"
        if not np.isfinite(action).all():
            return "non_finite"
        if not position_is_known:
            return "no_ee_position"
        return None

    def _resting_state(self) -> State:
        self._last_twist, self._last_acceleration = np.zeros(6), np.zeros(6)
        if self._fault is not None:
            return State.FAULT
        return State.WAITING if self._armed else State.DISARMED

    def _limited(self, wanted: Array) -> tuple[Array, Array]:
        """Return the twist nearest to `wanted` within all limits, and its acceleration.

        Walls of the workspace are approached slowly enough for a stop to end before them.
        """
        limits = self.limits
        assert self._position is not None
        linear = limit_to_braking(
            limit_norm(wanted[:3], limits.linear_mps),
            self._position,
            *self._box,
            deceleration=limits.linear_mps2,
            jerk=limits.linear_mps3,
            dt_s=self._period_s,
        )
        angular = limit_norm(wanted[3:], limits.angular_radps)
        twist, acceleration = self._within_box(self._approach(np.concatenate([linear, angular])))
        self.ticks_limited += not np.array_equal(twist, wanted)
        return twist, acceleration

    def _within_box(self, twist: Array) -> tuple[Array, Array]:
        """Cut what would leave the workspace from `twist`; return the rest and its acceleration.

        The wall is the one limit that may demand more than the acceleration limit, if the arm reaches it unexpectedly.
        That deceleration is not carried on: the arm would bounce off.
        """
        cut = twist
        if self._position is not None:
            linear = limit_to_box(twist[:3], self._position, *self._box, self._period_s)
            cut = np.concatenate([linear, twist[3:]])
        acceleration = (cut - self._last_twist) / self._period_s
        acceleration[cut != twist] = 0.0
        return cut, acceleration

    def _approach(self, target: Array) -> Array:
        """Return the twist one period towards `target`, within speed, acceleration and jerk limits."""
        limits, last, rate = self.limits, self._last_twist, self._last_acceleration
        linear = approach(last[:3], rate[:3], target[:3], limits.linear_mps2, limits.linear_mps3, self._period_s)
        angular = approach(last[3:], rate[3:], target[3:], limits.angular_radps2, limits.angular_radps3, self._period_s)
        return np.concatenate([limit_norm(linear, limits.linear_mps), limit_norm(angular, limits.angular_radps)])


def limit_norm(vector: Array, maximum: float) -> Array:
    """Shorten `vector` to the length `maximum` if it is longer, keeping its direction."""
    length = math.sqrt(float(vector @ vector))
    return vector if length <= maximum else vector * (maximum / length)


def rate_to_cover(distance: float, rate_step: float, dt_s: float, lag_s: float = 0.0) -> float:
    """Return the largest rate that still comes to rest within `distance` if each period lowers it by `rate_step`.

    The rates r, r - rate_step, r - 2 rate_step, ... last `dt_s` each and cover `distance` in total. With metres, m/s
    and the speed lost per period of braking, this is the speed at which a wall may be approached; with m/s, m/s^2 and
    the change that jerk allows, it is the acceleration that does not overshoot a speed.

    Args:
        distance: to cover.
        rate_step: decrease per period.
        dt_s: period.
        lag_s: how long r lasts before it falls.
    """
    lag = lag_s / dt_s
    periods = distance / dt_s / rate_step if math.isfinite(rate_step) else 0.0
    count = max(1, math.ceil(math.sqrt((0.5 + lag) ** 2 + 2.0 * periods) - 0.5 - lag - 1e-9))
    falling = rate_step * count * (count - 1) / 2.0 if count > 1 else 0.0
    return (distance / dt_s + falling) / (count + lag)


def approach(
    velocity: Array, acceleration: Array, target: Array, maximum_acceleration: float, jerk: float, dt_s: float
) -> Array:
    """Return the velocity (3,) one period after `velocity` on the way to `target`.

    A target within reach is returned unchanged. A straight change of speed does not overshoot; if the acceleration
    must first reverse, the velocity keeps changing the old way for that long.

    Args:
        velocity: (3,) current.
        acceleration: (3,) of the period before.
        target: (3,) velocity to reach.
        maximum_acceleration: norm, never exceeded.
        jerk: norm of the change of acceleration per second, never exceeded.
        dt_s: period.
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

    Outside the box, moving back in is unrestricted and nothing is pushed: components shrink, at most to zero.
    """
    forward = np.maximum(0.0, (high - position) / dt_s)
    backward = np.minimum(0.0, (low - position) / dt_s)
    return np.minimum(np.maximum(velocity, backward), forward)


def limit_to_braking(
    velocity: Array, position: Array, low: Array, high: Array, *, deceleration: float, jerk: float, dt_s: float
) -> Array:
    """Cut the components of `velocity` (3,) from which the arm could not stop before the walls of the box.

    It stops with `deceleration` [m/s^2], which builds up with `jerk` [m/s^3].
    """
    lost = deceleration * dt_s
    # An arm that speeds up keeps doing so until its acceleration is reversed; one period of that is in every stop.
    building_periods = 2.0 * deceleration / jerk / dt_s if math.isfinite(deceleration) else 0.0
    lag_s = max(0.0, math.ceil(building_periods - 1e-9) - 1.0) * dt_s
    forward = np.array([rate_to_cover(ahead, lost, dt_s, lag_s) for ahead in np.maximum(0.0, high - position)])
    backward = np.array([-rate_to_cover(behind, lost, dt_s, lag_s) for behind in np.maximum(0.0, position - low)])
    limited: Array = np.minimum(np.maximum(velocity, backward), forward)
    return limited
