# SPDX-License-Identifier: Apache-2.0
"""One control tick: the action that is due, past the governor and the gripper switch, as a command."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.runtime.execution.gripper import GripperSwitch
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.safety.governor import Position, SafetyGovernor, State
from vla_ros.runtime.stats import RecentValues


@dataclass(frozen=True)
class Command:
    """What to publish now: `twist` (6,) or None for silence, `opening` in [0, 1] or None when the gripper stays."""

    twist: NDArray[np.float64] | None
    opening: float | None


SILENCE = Command(None, None)


@dataclass(frozen=True)
class ByHand:
    """What somebody who has taken over commands: `twist` (6,) [m/s, rad/s], `opening` in [0, 1] or None: it stays."""

    twist: NDArray[np.float64]
    opening: float | None = None


class ControlLoop:
    """Turns ticks of the control grid (tick k is at k * period_ns) into commands. Call it from one thread at a time.

    It counts `ticks_total`, the ticks while the arm was under the policy's control, and among them `ticks_missed`:
    those without an action, and those that the timer skipped or came to more than half a period late.
    """

    def __init__(
        self, timeline: ActionTimeline, governor: SafetyGovernor, gripper: GripperSwitch, *, period_ns: int
    ) -> None:
        self.timeline = timeline
        self.governor = governor
        self.gripper = gripper
        self.ticks_total = 0
        self.ticks_missed = 0
        self.period_ns = period_ns
        self.taken_over = False
        # From the tick of the (oldest) observation that a twist answers to that twist.
        self.plan_age_ms = RecentValues()
        self._last_tick: int | None = None

    def tick(
        self, now_ns: int, reason: str | None, ee_position: Position | None, by_hand: ByHand | None = None
    ) -> Command:
        """Act for the grid tick nearest to `now_ns`.

        Args:
            reason: what speaks against moving, by name, or None.
            ee_position: (3,) the tool in the base frame [m], or None when it is not known.
            by_hand: of somebody who has taken over; the policy's action is dropped then. The limits hold for both, and
                so does what stops them, the gripper included. When it is handed back the arm stops before the policy
                moves it again.
        """
        tick = (now_ns + self.period_ns // 2) // self.period_ns
        if self._last_tick is not None and tick <= self._last_tick:
            if tick >= self._last_tick - 1:
                return SILENCE  # this tick was acted for already: the timer came early
            self.restart()
        skipped = 0 if self._last_tick is None else tick - self._last_tick - 1
        self._last_tick = tick
        was_running = self.governor.state is State.RUNNING and not self.taken_over
        action = self.timeline.pop(tick)
        if by_hand is not None:
            return self._tick_by_hand(by_hand, reason, ee_position)
        if self.taken_over:
            self.taken_over = False
            self.timeline.clear(observed_from=tick)
            action, reason = None, reason or "handed_back"
        twist = self.governor.tick(action, reason, ee_position)
        running = self.governor.state is State.RUNNING
        scale = self.governor.scale
        self.timeline.acted(running, None if twist is None or not scale else twist / scale)
        if running and (answered_tick := self.timeline.answered_tick) is not None:
            self.plan_age_ms.add((now_ns - answered_tick * self.period_ns) / 1e6)
        if was_running and not running:
            # What was planned from before the stop must not move the arm after it.
            self.timeline.clear(observed_from=tick)
        if was_running:
            starved = action is None and reason is None
            self.ticks_total += skipped + (running or starved)
            self.ticks_missed += skipped + starved
        elif running:
            self.ticks_total += 1
            # Somebody else may have moved the gripper while the policy did not run.
            self.gripper.reset()
        return Command(twist, self.gripper.update(float(action[6])) if running and action is not None else None)

    def _tick_by_hand(self, by_hand: ByHand, reason: str | None, ee_position: Position | None) -> Command:
        self.taken_over = True
        self.timeline.acted(False)
        unused_opening = 0.5  # the governor looks at the twist
        twist = self.governor.tick(np.append(by_hand.twist, unused_opening), reason, ee_position)
        return Command(twist, by_hand.opening if self.governor.state is State.RUNNING else None)

    def halt(self, reason: str) -> Command:
        """One tick of stopping without a tick of the grid: the clock stands still, or the node is going down."""
        was_running = self.governor.state is State.RUNNING
        twist = self.governor.tick(None, reason, None)
        self.timeline.acted(False)
        if was_running:
            self.timeline.clear(observed_from=None if self._last_tick is None else self._last_tick + 1)
        return Command(twist, None)

    def restart(self) -> None:
        """Forget the past: the clock was set back."""
        self._last_tick = None
        self.timeline.restart()
