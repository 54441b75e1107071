# SPDX-License-Identifier: Apache-2.0
"""What is sent to the arm: a twist, and an opening whenever the gripper has to change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLOSE_BELOW, OPEN_ABOVE = 0.4, 0.6
# The plan's next tick counts as well, so that two cost no time: a single tick that differs does not move the gripper.
DEBOUNCE_TICKS = 2
# A policy in doubt must not wear out the gripper.
MIN_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Command:
    """What to publish now: `twist` (6,), None for silence; `opening` in [0, 1], None to leave the gripper alone."""

    twist: NDArray[np.float64] | None
    opening: float | None


SILENCE = Command(None, None)


class GripperSwitch:
    """Turns predicted openings into open/close commands, with hysteresis, debouncing and a limited rate.

    Opens when `debounce_ticks` openings in a row, the coming one included, are above `open_above`, closes when as many
    are below `close_below`, and otherwise stays. The first decision after `reset` is always a command. Two commands are
    `min_interval_s` apart; one that comes sooner waits, if it is still wanted then.
    """

    def __init__(
        self,
        close_below: float = CLOSE_BELOW,
        open_above: float = OPEN_ABOVE,
        debounce_ticks: int = DEBOUNCE_TICKS,
        min_interval_s: float = MIN_INTERVAL_S,
    ) -> None:
        if not 0 <= close_below <= open_above <= 1:
            raise ValueError(
                f"gripper thresholds must satisfy 0 <= close_below <= open_above <= 1; got close_below = {close_below} "
                f"and open_above = {open_above}"
            )
        if debounce_ticks < 1:
            raise ValueError(f"debounce_ticks must be at least 1; got {debounce_ticks}")
        self._close_below = close_below
        self._open_above = open_above
        self._debounce_ticks = debounce_ticks
        self._min_interval_s = min_interval_s
        self._commanded_s: float | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the last command: somebody else may have moved the gripper since."""
        self._commanded: bool | None = None
        self._wanted: bool | None = None
        self._wanted_ticks = 0

    def update(self, opening: float, now_s: float, following: float | None = None) -> float | None:
        """Take one tick's opening; return 0.0 or 1.0 if the gripper must change now.

        Args:
            opening: Planned for this tick, in [0 closed, 1 open].
            now_s: On a steady clock.
            following: Planned for the next tick, if it is planned yet.
        """
        wanted = self._decide(opening)
        wanted = self._commanded if wanted is None else wanted
        self._wanted_ticks = self._wanted_ticks + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        if wanted is None or wanted == self._commanded:
            return None
        if self._wanted_ticks + (following is not None and self._decide(following) == wanted) < self._debounce_ticks:
            return None
        if self._commanded_s is not None and 0.0 <= now_s - self._commanded_s < self._min_interval_s:
            return None
        self._commanded, self._commanded_s = wanted, now_s
        return float(wanted)

    def _decide(self, opening: float) -> bool | None:
        """Return whether to open; None in between."""
        return True if opening > self._open_above else False if opening < self._close_below else None
