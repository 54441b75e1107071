# SPDX-License-Identifier: Apache-2.0
"""One control tick: the action that is due, through governor and gripper switch, becomes a command."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.safety.governor import Position, SafetyGovernor, State
from vla_ros.runtime.safety.interlocks import ManualCommand
from vla_ros.runtime.stats import RecentValues

CLOSE_BELOW, OPEN_ABOVE = 0.4, 0.6
# More would cost ticks in which the arm already moves on, and leaves before the gripper holds.
DEBOUNCE_TICKS = 1
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

    Opens after `debounce_ticks` openings in a row above `open_above`, closes after as many below `close_below`, and
    otherwise stays. The first decision after `reset` is always a command. Two commands are `min_interval_s` apart; one
    that comes sooner waits, if it is still wanted then.
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

    def update(self, opening: float, now_s: float) -> float | None:
        """Take one tick's `opening` in [0 closed, 1 open]; return 0.0 or 1.0 if the gripper must change now."""
        wanted = self._commanded
        if opening > self._open_above:
            wanted = True
        elif opening < self._close_below:
            wanted = False
        self._wanted_ticks = self._wanted_ticks + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        if wanted is None or wanted == self._commanded or self._wanted_ticks < self._debounce_ticks:
            return None
        if self._commanded_s is not None and 0.0 <= now_s - self._commanded_s < self._min_interval_s:
            return None
        self._commanded, self._commanded_s = wanted, now_s
        return float(wanted)


class ControlLoop:
    """Turns ticks of the control grid (tick k at k * period_ns) into commands. Call it from one thread at a time.

    Attributes:
        ticks_total: ticks under the policy's control.
        ticks_missed: those of them without an action, and those that the timer skipped or served more than half a
            period late.
        taken_over: a person moves the arm.
        plan_age_ms: from the tick of the oldest contributing observation to the twist.
    """

    def __init__(
        self, timeline: ActionTimeline, governor: SafetyGovernor, gripper: GripperSwitch, *, period_ns: int
    ) -> None:
        self.timeline = timeline
        self.governor = governor
        self.gripper = gripper
        self.period_ns = period_ns
        self.ticks_total = 0
        self.ticks_missed = 0
        self.taken_over = False
        self.plan_age_ms = RecentValues()
        self._last_tick: int | None = None

    def tick(
        self, now_ns: int, reason: str | None, ee_position: Position | None, manual: ManualCommand | None = None
    ) -> Command:
        """Act for the grid tick nearest to `now_ns`.

        Args:
            now_ns: time on the grid's clock.
            reason: why the arm must not move, if it must not.
            ee_position: (3,) of the tool in the base frame [m], None if unknown.
            manual: command of a person who has taken over; replaces the policy's. Limits and stops apply to both, to
                the gripper as well. After hand-back the arm stops before the policy moves it again.
        """
        tick = (now_ns + self.period_ns // 2) // self.period_ns
        if self._last_tick is not None and tick <= self._last_tick:
            if tick >= self._last_tick - 1:
                return SILENCE  # served already: the timer was early
            self.restart()
        skipped = 0 if self._last_tick is None else tick - self._last_tick - 1
        self._last_tick = tick
        was_running = self.governor.state is State.RUNNING and not self.taken_over
        action = self.timeline.pop(tick)
        if manual is not None:
            return self._tick_manually(manual, reason, ee_position)
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
            # A plan from before the stop must not move the arm after it.
            self.timeline.clear(observed_from=tick)
        if was_running:
            starved = action is None and reason is None
            self.ticks_total += skipped + (running or starved)
            self.ticks_missed += skipped + starved
        elif running:
            self.ticks_total += 1
            self.gripper.reset()  # somebody else may have moved it meanwhile
        return Command(twist, self._opening(action, now_ns) if running else None)

    def _opening(self, action: NDArray[np.float64] | None, now_ns: int) -> float | None:
        return None if action is None else self.gripper.update(float(action[6]), now_ns / 1e9)

    def _tick_manually(self, manual: ManualCommand, reason: str | None, ee_position: Position | None) -> Command:
        self.taken_over = True
        self.timeline.acted(False)
        unused_opening = 0.5  # the governor looks at the twist only
        twist = self.governor.tick(np.append(manual.twist, unused_opening), reason, ee_position)
        return Command(twist, manual.opening if self.governor.state is State.RUNNING else None)

    def halt(self, reason: str) -> Command:
        """Do one step of a stop outside the grid: the clock stands still, or the node is shutting down."""
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
