# SPDX-License-Identifier: Apache-2.0
"""The last word on every command: a state machine that lets a twist through, shaped by the robot's limits, or stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vla_ros.runtime.safety.shaping import approach, limit_norm, limit_to_box, limit_to_braking

if TYPE_CHECKING:
    from vla_ros.robot import Limits

Array = NDArray[np.float64]
Position = Sequence[float] | NDArray[np.float64]

# Reasons that do not go away by themselves: somebody has to look, and reset.
FAULTS = frozenset({"policy_error", "non_finite", "emergency_stop"})
# Reasons for which the arm is not slowed down within its limits but told to stand still at once.
AT_ONCE = frozenset({"emergency_stop"})


class State(str, Enum):
    """What the governor does with actions."""

    DISARMED = "disarmed"  # silent until armed
    WAITING = "waiting"  # armed and silent: no action yet, or something is missing
    RUNNING = "running"  # actions reach the arm
    STOPPING = "stopping"  # slowing down within the limits, then zero twists, whatever the policy says
    FAULT = "fault"  # silent until the fault is reset


class SafetyGovernor:
    """Lets one twist a tick through, limited, as long as nothing speaks against it.

    A stop slows down as fast as acceleration and jerk allow (`Limits.stopping_time_s` at most; at once for an emergency
    stop), sends `stop_ticks` zero twists, and then is silent; the consumer's own command timeout is the second line.
    What a tick does depends only on what came before and on what that tick was given: no clock, no threads.

    Args:
        limits: of the robot; see `vla_ros.robot.Limits`.
        period_s: between two ticks.
        stop_ticks: how many zero twists make a stop, at least 1.
        speed_scale: factor in [0, 1] on every twist; may be changed while running.
        first_run_scale: a further factor in [0, 1] until the arm is disarmed for the first time after it has moved.
        armed: whether it starts WAITING instead of DISARMED.
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
            raise ValueError(f"stop_ticks is {stop_ticks}; expected at least 1")
        for name, value in (("speed_scale", speed_scale), ("first_run_scale", first_run_scale)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; expected 0 to 1")
        self.limits = limits
        self.speed_scale = speed_scale
        self.stops: Counter[str] = Counter()
        self.ticks_limited = 0
        self._first_run_scale = first_run_scale
        self._has_moved = False
        self._period_s = period_s
        self._stop_ticks = stop_ticks
        self._armed = armed
        self._state = State.WAITING if armed else State.DISARMED
        self._reason: str | None = None if armed else "disarmed"
        self._fault: str | None = None
        self._zeros_left = 0
        self._last_twist = np.zeros(6)
        self._last_acceleration = np.zeros(6)
        # Where the tool is; without news, where the twists since have led it.
        self._position: Array | None = None
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
        """The factor on every twist now."""
        return self.speed_scale * self._first_run_scale

    def arm(self, armed: bool) -> None:
        """Arm or disarm; both take effect with the next tick, disarming as a stop."""
        if self._armed and not armed and self._has_moved:
            self._first_run_scale = 1.0
        self._armed = armed

    def reset(self) -> None:
        """Forget a fault; whoever calls this has looked."""
        self._fault = None

    def tick(self, action: Array | None, reason: str | None, ee_position: Position | None) -> Array | None:
        """Decide on one tick.

        Args:
            action: (7,) twist [m/s, rad/s] in the base frame and opening, or None when there is none for this tick.
            reason: what speaks against moving, by name, or None.
            ee_position: (3,) the tool in the base frame [m]; without it, nothing is known to be in the workspace.

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
                self._state, self._reason, self._has_moved = State.RUNNING, None, True
                return self._sent(*self._limited(wanted))
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
        """Remember `twist` as the one that is sent now; returns a copy for the caller."""
        self._last_twist, self._last_acceleration = twist, acceleration
        if self._position is not None:
            self._position = self._position + twist[:3] * self._period_s
        return twist.copy()

    def _against(self, action: Array | None, reason: str | None, position_is_known: bool) -> str | None:
        if reason in AT_ONCE:  # before a fault or a disarming, which would only slow the arm down
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
        # Whoever enters FAULT or starts anew is at rest.
        self._last_twist, self._last_acceleration = np.zeros(6), np.zeros(6)
        if self._fault is not None:
            return State.FAULT
        return State.WAITING if self._armed else State.DISARMED

    def _limited(self, wanted: Array) -> tuple[Array, Array]:
        """The twist that is nearest to the one `wanted`, within all limits, and its acceleration.

        The way to a wall is slow enough that a stop ends before it.
        """
        limits = self.limits
        assert self._position is not None
        linear = limit_norm(wanted[:3], limits.linear_mps)
        linear = limit_to_braking(
            linear, self._position, *self._box,
            deceleration=limits.linear_mps2, jerk=limits.linear_mps3, dt_s=self._period_s,
        )  # fmt: skip
        angular = limit_norm(wanted[3:], limits.angular_radps)
        twist, acceleration = self._within_box(self._approach(np.concatenate([linear, angular])))
        self.ticks_limited += not np.array_equal(twist, wanted)
        return twist, acceleration

    def _within_box(self, twist: Array) -> tuple[Array, Array]:
        """`twist` without what would leave the workspace, and its acceleration.

        The wall is the one limit that may demand more than the acceleration, when the arm comes upon it in another way.
        What it demands is not remembered as an acceleration to go on with: the arm would bounce off.
        """
        cut = twist
        if self._position is not None:
            linear = limit_to_box(twist[:3], self._position, *self._box, self._period_s)
            cut = np.concatenate([linear, twist[3:]])
        acceleration = (cut - self._last_twist) / self._period_s
        acceleration[cut != twist] = 0.0
        return cut, acceleration

    def _approach(self, target: Array) -> Array:
        """One period towards the twist `target`, within acceleration and jerk, and never beyond the speed limits."""
        limits, dt_s, last, rate = self.limits, self._period_s, self._last_twist, self._last_acceleration
        linear = approach(
            last[:3], rate[:3], target[:3],
            maximum_acceleration=limits.linear_mps2, jerk=limits.linear_mps3, dt_s=dt_s,
        )  # fmt: skip
        angular = approach(
            last[3:], rate[3:], target[3:],
            maximum_acceleration=limits.angular_radps2, jerk=limits.angular_radps3, dt_s=dt_s,
        )  # fmt: skip
        return np.concatenate([limit_norm(linear, limits.linear_mps), limit_norm(angular, limits.angular_radps)])
