# SPDX-License-Identifier: Apache-2.0
"""Whether control ticks go on coming. They are on the grid of a clock that can stop or be set back; this one cannot."""

from __future__ import annotations

# How long the clock may stand still, and ticks may be missing, in control periods.
PATIENCE_PERIODS = 2.5

CLOCK_SET_BACK, CLOCK_STOPPED, NO_TICKS = "clock_set_back", "clock_stopped", "no_ticks"


class Watchdog:
    """Looks at the grid's clock once a control period, on the steady clock. Call it from one thread at a time.

    Args:
        period_s: between two control ticks, and between two calls of `look`.
    """

    def __init__(self, period_s: float) -> None:
        self._patience_s = PATIENCE_PERIODS * period_s
        self.start(0, 0.0)

    def start(self, now_ns: int, steady_s: float) -> None:
        """Ticks come from now on."""
        # What the grid's clock showed when it last moved, and when that was on the steady clock.
        self._moved_to_ns, self._moved_s = now_ns, steady_s
        self.ticked(steady_s)

    def ticked(self, steady_s: float) -> None:
        """A control tick has come."""
        self._ticked_s, self._looks_since = steady_s, 0

    def look(self, now_ns: int, steady_s: float, *, simulated: bool) -> str | None:
        """What is wrong with the ticks, by name, or None.

        Args:
            now_ns: of the grid's clock.
            simulated: that is simulated time, which may be slow, and then ticks are rare: that is nothing wrong.
        """
        set_back = now_ns < self._moved_to_ns
        if now_ns != self._moved_to_ns:
            self._moved_to_ns, self._moved_s = now_ns, steady_s
        # A process that was held up looks late, too: only looks that came in time show that ticks did not.
        self._looks_since += 1
        if set_back:
            return CLOCK_SET_BACK
        if steady_s - self._moved_s > self._patience_s:
            return CLOCK_STOPPED
        missing = self._looks_since > PATIENCE_PERIODS and steady_s - self._ticked_s > self._patience_s
        return NO_TICKS if missing and not simulated else None
