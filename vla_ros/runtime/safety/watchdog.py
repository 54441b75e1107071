# SPDX-License-Identifier: Apache-2.0
"""Notices that the guard's ticks stop coming, or that their clock stands still or is set back."""

from __future__ import annotations

# How long the grid's clock may stand still, or ticks may be missing, in control periods.
PATIENCE_PERIODS = 2.5
# A simulator publishes its clock less often than a guard ticks.
CLOCK_PATIENCE_S = 0.1

CLOCK_SET_BACK, CLOCK_STOPPED, NO_TICKS = "clock_set_back", "clock_stopped", "no_ticks"


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
