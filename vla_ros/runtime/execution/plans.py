# SPDX-License-Identifier: Apache-2.0
"""What a planner sends to the guard, and the grid of its ticks."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Periods that differ by less are one period that planners round differently [ns].
PERIOD_TOLERANCE_NS = 1_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Actions from one observation.

    Attributes:
        stamp_ns: Tick of the observation that the plan answers, on the ROS clock.
        period_ns: Duration of one action.
        actions: (N, 7) twists [m/s, rad/s] in the base frame and openings in [0 closed, 1 open]; row i is for
            `stamp_ns` + i periods.
    """

    stamp_ns: int
    period_ns: int
    actions: Array


@dataclasses.dataclass(frozen=True)
class PlannerStatus:
    """What the planner says of itself; its arrival is its heartbeat.

    Attributes:
        session: Differs after each start of the planner.
        command: The language command that it follows.
        reason: Why it does not plan, or None.
    """

    session: str = ""
    command: str = ""
    reason: str | None = None
    detail: str = ""


class PlanGrid:
    """The planner's ticks, numbered from the first plan and anchored at the newest one: no period error adds up.

    So a rounded period does for any rate: at 30 Hz, the last tick of a plan of 100 is 33 ns early.
    """

    def __init__(self, stamp_ns: int, period_ns: int) -> None:
        self.period_ns = period_ns
        self._anchor_ns, self._anchor_tick = stamp_ns, 0

    def has_period(self, period_ns: int) -> bool:
        """Return whether this is the grid's period, but for rounding."""
        return abs(period_ns - self.period_ns) <= PERIOD_TOLERANCE_NS

    def nearest(self, stamp_ns: int) -> int:
        """Return the tick of a plan's stamp."""
        return self._anchor_tick + round((stamp_ns - self._anchor_ns) / self.period_ns)

    def at(self, now_ns: int) -> tuple[int, float]:
        """Return the tick that `now_ns` lies in, and the phase in [0, 1) within it."""
        offset, within_ns = divmod(now_ns - self._anchor_ns, self.period_ns)
        return self._anchor_tick + offset, within_ns / self.period_ns

    def start_ns(self, tick: int) -> int:
        """Return when `tick` begins."""
        return self._anchor_ns + (tick - self._anchor_tick) * self.period_ns

    def anchor(self, stamp_ns: int) -> None:
        """Move the anchor to the stamp of a newer plan."""
        self._anchor_ns, self._anchor_tick = stamp_ns, self.nearest(stamp_ns)
