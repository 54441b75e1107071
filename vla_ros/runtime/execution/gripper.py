# SPDX-License-Identifier: Apache-2.0
"""From an opening probability every tick to a command when it changes."""

from __future__ import annotations

# The node's and the evaluation's. A tick more is a tick in which the arm already goes on: it leaves before it holds.
DEBOUNCE_TICKS = 1


class GripperSwitch:
    """Hysteresis and debounce: grippers take commands on edges, and a policy in doubt must not make one chatter.

    Opens after `debounce_ticks` openings in a row above `open_above`, closes after as many below `close_below`; in
    between it stays. The first decision after `reset` is a change.
    """

    def __init__(self, close_below: float = 0.4, open_above: float = 0.6, debounce_ticks: int = DEBOUNCE_TICKS) -> None:
        if not 0 <= close_below <= open_above <= 1:
            raise ValueError(
                f"the gripper's thresholds are close_below = {close_below} and open_above = {open_above}; "
                "expected 0 <= close_below <= open_above <= 1"
            )
        if debounce_ticks < 1:
            raise ValueError(f"debounce_ticks is {debounce_ticks}; expected at least 1")
        self._close_below = close_below
        self._open_above = open_above
        self._debounce_ticks = debounce_ticks
        self.reset()

    def reset(self) -> None:
        """Forget what was commanded, for instance because somebody else may have moved the gripper since."""
        self._commanded: bool | None = None
        self._wanted: bool | None = None
        self._wanted_ticks = 0

    def update(self, opening: float) -> float | None:
        """Take one tick's `opening` in [0 closed, 1 open]; returns 0.0 or 1.0 when the gripper has to change."""
        wanted: bool | None
        if opening > self._open_above:
            wanted = True
        elif opening < self._close_below:
            wanted = False
        else:
            wanted = self._commanded
        self._wanted_ticks = self._wanted_ticks + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        if wanted is None or wanted == self._commanded or self._wanted_ticks < self._debounce_ticks:
            return None
        self._commanded = wanted
        return float(wanted)
