# SPDX-License-Identifier: Apache-2.0
"""The last word on every command: a state machine that lets a twist through, shaped by the robot's limits, or stops."""

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

# Reasons that do not go away by themselves: somebody has to look, and reset.
FAULTS = frozenset({"policy_error", "non_finite"})


class State(str, Enum):
    """What the governor does with actions."""

    DISARMED = "disarmed"  # silent until armed
    WAITING = "waiting"  # armed and silent: no action yet, or something is missing
    RUNNING = "running"  # actions reach the arm
    STOPPING = "stopping"  # zero twists, whatever the policy says
    FAULT = "fault"  # silent until the fault is reset


class SafetyGovernor:
    """Lets one twist a tick through, limited, as long as nothing speaks against it.

    A stop is `stop_ticks` zero twists, then silence; the consumer's own command timeout is the second line. The state
    after a tick depends only on the state before and on what that tick was given: no clock, no threads.

    Args:
        limits: of the robot; see `vla_ros.robot.Limits`.
        period_s: between two ticks.
        stop_ticks: how many zero twists make a stop, at least 1.
        speed_scale: factor in [0, 1] on every twist; may be changed while running.
        armed: whether it starts WAITING instead of DISARMED.
    """

    def __init__(
        self, limits: Limits, *, period_s: float, stop_ticks: int = 5, speed_scale: float = 1.0, armed: bool = False
    ) -> None:
        if stop_ticks < 1:
            raise ValueError(f"stop_ticks is {stop_ticks}; expected at least 1")
        if not 0.0 <= speed_scale <= 1.0:
            raise ValueError(f"speed_scale is {speed_scale}; expected 0 to 1")
        self.limits = limits
        self.speed_scale = speed_scale
        self.stops: Counter[str] = Counter()
        self._period_s = period_s
        self._stop_ticks = stop_ticks
        self._armed = armed
        self._state = State.WAITING if armed else State.DISARMED
        self._reason: str | None = None if armed else "disarmed"
        self._zeros_left = 0
        self._last_twist = np.zeros(6)

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

    def arm(self, armed: bool) -> None:
        """Arm or disarm; both take effect with the next tick, disarming as a stop."""
        self._armed = armed

    def tick(self, action: Array | None, reason: str | None, ee_position: Position | None) -> Array | None:
        """Decide on one tick.

        Args:
            action: (7,) twist [m/s, rad/s] in the base frame and opening, or None when there is none for this tick.
            reason: what speaks against moving, by name, or None.
            ee_position: (3,) the tool in the base frame [m]; without it, nothing is known to be in the workspace.

        Returns:
            The twist (6,) to publish, or None for silence.
        """
        against = self._against(action, reason, ee_position)
        if against is None and self._zeros_left == 0:
            twist = self._limited(np.asarray(action)[:6], np.asarray(ee_position))
            if np.isfinite(twist).all():
                self._state, self._reason, self._last_twist = State.RUNNING, None, twist
                return twist.copy()
            against = "non_finite"
        if self._state is State.RUNNING:
            self.stops[str(against)] += 1
            self._state, self._zeros_left, self._last_twist = State.STOPPING, self._stop_ticks, np.zeros(6)
        if against is not None:
            self._reason = against
        if self._zeros_left > 0:
            self._zeros_left -= 1
            return np.zeros(6)
        self._state = self._resting_state()
        return None

    def _against(self, action: Array | None, reason: str | None, ee_position: Position | None) -> str | None:
        if not self._armed:
            return "disarmed"
        if reason is not None:
            return reason
        if action is None:
            return "starved"
        if not np.isfinite(action).all():
            return "non_finite"
        if ee_position is None or not np.isfinite(ee_position).all():
            return "no_ee_position"
        return None

    def _resting_state(self) -> State:
        if not self._armed:
            return State.DISARMED
        return State.FAULT if self._reason in FAULTS else State.WAITING

    def _limited(self, twist: Array, ee_position: Array) -> Array:
        """Scale, speed, acceleration, workspace, in this order: each later one only shortens what the earlier left."""
        limits, dt_s = self.limits, self._period_s
        twist = twist * self.speed_scale
        linear = limit_norm(twist[:3], limits.linear_mps)
        angular = limit_norm(twist[3:], limits.angular_radps)
        last_linear, last_angular = self._last_twist[:3], self._last_twist[3:]
        linear = last_linear + limit_norm(linear - last_linear, limits.linear_mps2 * dt_s)
        angular = last_angular + limit_norm(angular - last_angular, limits.angular_radps2 * dt_s)
        linear = limit_to_box(linear, ee_position, limits.workspace_min_m, limits.workspace_max_m, dt_s)
        return np.concatenate([linear, angular])


def limit_norm(vector: Array, maximum: float) -> Array:
    """`vector`, shortened to the length `maximum` where it is longer; its direction stays."""
    length = math.sqrt(float(vector @ vector))
    return vector if length <= maximum else vector * (maximum / length)


def limit_to_box(velocity: Array, position: Array, low: Sequence[float], high: Sequence[float], dt_s: float) -> Array:
    """Cut the components of `velocity` (3,) [m/s] that would leave the box within `dt_s`.

    From outside, moving back in is free, and nothing is pushed: a component is shortened, at most to zero.
    """
    forward = np.maximum(0.0, (np.asarray(high) - position) / dt_s)
    backward = np.minimum(0.0, (np.asarray(low) - position) / dt_s)
    return np.clip(velocity, backward, forward)
