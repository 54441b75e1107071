# SPDX-License-Identifier: Apache-2.0
"""The actions that the policy has planned, by the control tick that each is meant for.

The engine posts chunks, the control loop pops one action a tick. A chunk is laid out from the tick whose observation it
answers, so what took effect meanwhile is skipped by the ticks that were really consumed, never by an estimate of the
latency (that estimate makes arms jump: huggingface/lerobot PR 4223).
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.runtime.execution.executors import Executor, FullChunk
from vla_ros.runtime.execution.path_following import REMEMBERED_TICKS, PathFollower, after_standing


@dataclass(frozen=True)
class TimelineStatistics:
    """Counts since the start: ticks asked for while a plan existed, those without an action, chunks by their fate."""

    popped: int = 0
    starved: int = 0
    posted: int = 0
    late: int = 0
    discarded: int = 0


class ActionTimeline:
    """Thread-safe plan of actions (7,) keyed by absolute control tick; the executor chooses among the chunks."""

    def __init__(self, executor: Executor | None = None) -> None:
        self._lock = threading.Lock()
        self._executor = executor or FullChunk()
        self._newest: tuple[int, NDArray[np.float64]] | None = None
        self._answered_tick: int | None = None
        self._last_popped: int | None = None
        self._observed_from: int | None = None
        self._fed = False
        # Whether the arm was given the action popped last, and those (tick, action) that it was given since it moves.
        self._moving = False
        self._carried_out: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=REMEMBERED_TICKS)
        self._path = PathFollower()
        # Whether the arm was not given an action that was there: it is unarmed, stopped or moved by hand.
        self._held = False
        # The tick of the observation whose chunk is being computed by a policy that was told what is planned.
        self._told_tick: int | None = None
        # The observation whose chunk is being computed, where it was taken of an arm that stands; and the tick from
        # which it is known to move, by what is planned already.
        self._seen_standing: tuple[int, int | None] | None = None
        self._counts = dict.fromkeys(TimelineStatistics.__dataclass_fields__, 0)

    def post(self, first_tick: int, actions: ArrayLike, *, anew: bool = False) -> bool:
        """Plan `actions` (N, 7), made from the observation of `first_tick`, for that tick and those after it.

        `anew`: what was planned until now was for another command, and must not be averaged in or be gone on with.
        Where the policy is told what the arm does meanwhile, or its path is followed, the chunk of an observation of an
        arm that stood still is for the ticks from its first motion on: until then everything stays as it was seen.
        Returns False, and changes nothing, when all of them are for ticks that are over, or when the observation is
        older than the last `clear` allows.
        """
        chunk = np.asarray(actions, dtype=np.float64)
        if chunk.ndim != 2 or chunk.shape[1] != 7:
            raise ValueError(f"a chunk has shape {chunk.shape}; expected (N, 7)")
        with self._lock:
            if self._observed_from is not None and first_tick < self._observed_from:
                self._counts["discarded"] += 1
                return False
            next_tick = first_tick if self._last_popped is None else self._last_popped + 1
            if first_tick + len(chunk) <= next_tick:
                self._counts["late"] += 1
                return False
            if anew:
                self._executor.clear()
            if self._executor.tells_policy:
                chunk = after_standing(chunk, self._stands(first_tick, next_tick))
            if self._executor.follows_path:
                chunk = self._path.follow(first_tick, next_tick, chunk)
            self._executor.offer(first_tick, chunk)
            self._newest = first_tick, chunk
            self._fed = True
            self._counts["posted"] += 1
            return True

    def _stands(self, first_tick: int, next_tick: int) -> int:
        """For how many ticks the arm that was observed at `first_tick` goes on standing, as was foreseen then."""
        if self._seen_standing is None or self._seen_standing[0] != first_tick:
            return 0
        moves_from = self._seen_standing[1]
        return max(0, (next_tick if moves_from is None else moves_from) - first_tick)

    def pop(self, tick: int) -> NDArray[np.float64] | None:
        """The action (7,) for `tick`, or None; ticks up to this one are over. Ticks are asked for in rising order."""
        with self._lock:
            if self._last_popped is not None and tick <= self._last_popped:
                raise ValueError(
                    f"tick {tick} was popped after tick {self._last_popped}; call restart() when the clock is set back"
                )
            self._last_popped = tick
            planned = self._executor.take(tick)
            if planned is None:
                self._carried_out.clear()
            else:
                self._carried_out.append((tick, planned.action))
            self._answered_tick = None if planned is None else planned.observed_tick
            if self._fed:
                self._counts["popped"] += 1
                self._counts["starved"] += planned is None
            return None if planned is None else planned.action

    def clear(self, observed_from: int | None = None) -> None:
        """Drop the plan. With `observed_from`, chunks from observations before that tick are refused from now on."""
        with self._lock:
            self._executor.clear()
            self._newest = None
            self._fed = False
            self._moving = False
            floors = [self._observed_from, observed_from]
            if self._told_tick is not None:  # a chunk that goes on from what is dropped here
                floors.append(self._told_tick + 1)
                self._told_tick = None
            self._observed_from = max((floor for floor in floors if floor is not None), default=None)

    def restart(self) -> None:
        """Forget ticks as well: the clock was set back, so ticks that were popped will come again."""
        with self._lock:
            self._executor.clear()
            self._newest = None
            self._fed = False
            self._last_popped = self._observed_from = self._told_tick = self._seen_standing = None
            self._moving = self._held = False
            self._carried_out.clear()
            self._path.forget()

    def acted(self, moved: bool, twist: ArrayLike | None = None) -> None:
        """Say whether the arm was given the action popped last, as opposed to standing still or being moved by hand.

        twist: (6,) what became of it within the robot's limits, before the speed scale; None: it was given as it is.
        """
        with self._lock:
            self._moving = moved
            self._held = not moved and self._answered_tick is not None
            if not moved:
                self._carried_out.clear()
                self._path.forget()
            elif self._carried_out:
                tick, action = self._carried_out[-1]
                self._path.gave(tick, action[:6] if twist is None else np.asarray(twist, np.float64))

    def committed(self, first_tick: int, count: int) -> NDArray[np.float64]:
        """What the arm does at `first_tick` and the up to `count` ticks from there, if no chunk comes: (n, 7).

        What it was given for ticks that are over, and what the executor will give then; as planned, before the robot's
        limits. It ends before the first tick that has no action. Of an arm that stands still it is what will move it
        before that many ticks are over, without the ticks before: none where nothing is planned, or does not move it.
        """
        with self._lock:
            start = first_tick if self._moving else max(first_tick, (self._last_popped or 0) + 1)
            actions = [] if self._held else self._foreseen(start, count - (start - first_tick))
            moves = not self._held and bool(self._foreseen(start, 1))
            self._seen_standing = None if self._moving else (first_tick, start if moves else None)
            self._told_tick = first_tick if actions else None
        return np.array(actions, dtype=np.float64).reshape(-1, 7)

    @property
    def stands_for(self) -> int:
        """For how many ticks an arm that stands goes on standing before it does what `committed` has returned last."""
        standing = self._seen_standing
        return 0 if standing is None or standing[1] is None else standing[1] - standing[0]

    def _foreseen(self, first_tick: int, count: int) -> list[NDArray[np.float64]]:
        by_tick = dict(self._carried_out)
        ahead, next_tick = copy.copy(self._executor), (self._last_popped or 0) + 1
        for tick in range(max(next_tick, first_tick - REMEMBERED_TICKS), first_tick + count):
            if (planned := ahead.take(tick)) is not None:
                by_tick[tick] = planned.action
        actions = []
        for tick in range(first_tick, first_tick + count):
            if tick not in by_tick:
                break
            actions.append(by_tick[tick])
        return actions

    def ticks_over(self, first_tick: int) -> int:
        """How many ticks from `first_tick` on are over."""
        last = self._last_popped
        return 0 if last is None else max(0, last + 1 - first_tick)

    @property
    def tells_policy(self) -> bool:
        """Whether the policy is to be told what is planned while it computes."""
        return self._executor.tells_policy

    @property
    def newest_tick(self) -> int | None:
        """The tick whose observation the newest plan answers; None without a plan."""
        newest = self._newest
        return None if newest is None else newest[0]

    def newest_plan(self, tick: int) -> NDArray[np.float64] | None:
        """What the newest chunk says (n, 7) of `tick` and the ticks after it; None without a plan."""
        newest = self._newest
        return None if newest is None else newest[1][max(0, tick - newest[0]) :]

    @property
    def answered_tick(self) -> int | None:
        """The tick of the oldest observation that had a say in the action popped last; None without an action."""
        return self._answered_tick

    def statistics(self) -> TimelineStatistics:
        with self._lock:
            return TimelineStatistics(**self._counts)
