# SPDX-License-Identifier: Apache-2.0
"""Reasons to stop that do not come from the policy: operators, other machines, and control ticks that stop coming.

Time is passed in, in seconds on a steady clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A deadman or a takeover that is not repeated within this time has been released.
ENABLE_MAX_AGE_S = 0.5
TAKEOVER_MAX_AGE_S = 0.3
# How long the grid's clock may stand still, or ticks may be missing, in control periods.
PATIENCE_PERIODS = 2.5
# A simulator publishes its clock less often than a guard ticks.
CLOCK_PATIENCE_S = 0.1

CLOCK_SET_BACK, CLOCK_STOPPED, NO_TICKS = "clock_set_back", "clock_stopped", "no_ticks"


@dataclass(frozen=True)
class ManualCommand:
    """What a person commands during a takeover.

    Attributes:
        twist: (6,) [m/s, rad/s] in the base frame.
        opening: of the gripper in [0, 1]; None to leave it alone.
    """

    twist: NDArray[np.float64]
    opening: float | None = None


class Interlocks:
    """The latest word of everybody who may stop or move the arm. Call it from one thread at a time.

    Args:
        require_enable: the arm may move only while `enable(True)` is repeated within `ENABLE_MAX_AGE_S`.

    Attributes:
        publishers: on the command topic, this process included.
        input_reason: set while a stop or takeover could not be received, because of its publisher's QoS.
        output_reason: set while commands would not be executed (MoveIt Servo, the gripper's action server).
        emergency: an emergency stop was pressed and not reset since.
    """

    def __init__(self, *, require_enable: bool) -> None:
        self.publishers = 1
        self.input_reason: str | None = None
        self.output_reason: str | None = None
        self.emergency = False
        self._require_enable = require_enable
        self._enabled_s: float | None = None
        self._pressed = False
        self._takeover_twist = np.zeros(6)
        self._takeover_s: float | None = None
        self._opening = 0.0
        self._opening_s: float | None = None

    def enable(self, enabled: bool, now_s: float) -> None:
        """The deadman: true holds for `ENABLE_MAX_AGE_S`, false takes effect at once."""
        self._enabled_s = now_s if enabled else None

    def emergency_stop(self, pressed: bool) -> None:
        """The emergency stop; it latches until it is released and then `reset`."""
        self._pressed = pressed
        self.emergency = self.emergency or pressed

    def reset(self) -> bool:
        """Clear an emergency stop; return False if its button is still pressed."""
        self.emergency = self._pressed
        return not self._pressed

    def takeover(self, twist: NDArray[np.float64], now_s: float) -> None:
        """A person moves the arm with `twist` (6,) [m/s, rad/s] in the base frame."""
        self._takeover_twist, self._takeover_s = twist, now_s

    def takeover_gripper(self, opening: float, now_s: float) -> None:
        """A person commands an opening in [0, 1]; counts only during a takeover."""
        self._opening, self._opening_s = opening, now_s

    def manual_command(self, now_s: float) -> ManualCommand | None:
        """Return the command of a takeover within `TAKEOVER_MAX_AGE_S`, if any; each opening is returned once."""
        opening_s, self._opening_s = self._opening_s, None
        if self._takeover_s is None or now_s - self._takeover_s > TAKEOVER_MAX_AGE_S:
            return None
        is_new = opening_s is not None and now_s - opening_s <= TAKEOVER_MAX_AGE_S
        return ManualCommand(self._takeover_twist, self._opening if is_new else None)

    def reason(self, now_s: float) -> str | None:
        """Return the most serious reason against any motion, whoever commands it; None if there is none."""
        if self.emergency:
            return "emergency_stop"
        if self.input_reason is not None:
            return self.input_reason
        if self.publishers > 1:
            return "second_publisher"
        if self._require_enable and (self._enabled_s is None or now_s - self._enabled_s > ENABLE_MAX_AGE_S):
            return "disabled"
        return self.output_reason


class Watchdog:
    """Checks once per control period, on a steady clock, that control ticks keep coming.

    Ticks follow the grid's clock, which can stop or be set back; the steady clock cannot. Call it from one thread at a
    time.

    Args:
        period_s: between two control ticks, and between two calls of `check`.
    """

    def __init__(self, period_s: float) -> None:
        self._patience_s = PATIENCE_PERIODS * period_s
        self._clock_patience_s = max(CLOCK_PATIENCE_S, self._patience_s)
        self.start(0, 0.0)

    def start(self, now_ns: int, steady_s: float) -> None:
        """Expect ticks from now on."""
        # What the grid's clock showed when it last moved, and when that was.
        self._moved_to_ns, self._moved_s = now_ns, steady_s
        self.ticked(steady_s)

    def ticked(self, steady_s: float) -> None:
        """Record a control tick."""
        self._ticked_s, self._checks_since = steady_s, 0

    def check(self, now_ns: int, steady_s: float, *, simulated: bool) -> str | None:
        """Return what is wrong with the ticks, if anything.

        Args:
            now_ns: time on the grid's clock.
            steady_s: time on the steady clock.
            simulated: the grid follows simulated time, which may be slow; then rare ticks are fine.
        """
        set_back = now_ns < self._moved_to_ns
        if now_ns != self._moved_to_ns:
            self._moved_to_ns, self._moved_s = now_ns, steady_s
        # After a pause of this whole process ticks look late, too: only checks that came in time count.
        self._checks_since += 1
        if set_back:
            return CLOCK_SET_BACK
        if steady_s - self._moved_s > self._clock_patience_s:
            return CLOCK_STOPPED
        missing = self._checks_since > PATIENCE_PERIODS and steady_s - self._ticked_s > self._patience_s
        return NO_TICKS if missing and not simulated else None
