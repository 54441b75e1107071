# SPDX-License-Identifier: Apache-2.0
"""The timeline: planned actions, keyed by the control tick at which each is due.

The engine posts chunks, the control loop pops one action a tick. A chunk starts at the tick of its observation, so what
is over by the time it arrives is skipped by counting consumed ticks, never by estimating latency (such an estimate
makes arms jump: huggingface/lerobot PR 4223).
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.actions import integrate_twist
from vla_ros.runtime.execution.executors import Executor, FullChunk, PathFollower, Planned

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TimelineStatistics:
    """Counts since the start.

    Attributes:
        popped: ticks requested while there was a plan.
        starved: those of them without an action.
        posted: chunks accepted.
        expired: chunks refused because all their ticks were over.
        discarded: chunks refused because of a `clear` after their observation.
    """

    popped: int = 0
    starved: int = 0
    posted: int = 0
    expired: int = 0
    discarded: int = 0


class ActionTimeline:
    """Thread-safe plan of actions (7,) by absolute control tick; the executor chooses among chunks."""

    def __init__(self, executor: Executor | None = None) -> None:
        self._lock = threading.Lock()
        self._executor = executor or FullChunk()
        self._path = PathFollower()
        self._newest: tuple[int, Array] | None = None
        self._last_popped: int | None = None
        self._popped: Planned | None = None  # at that tick
        self._observed_from: int | None = None
        self._counts = dict.fromkeys(TimelineStatistics.__dataclass_fields__, 0)

    def post(self, first_tick: int, actions: ArrayLike, *, replace_all: bool = False) -> bool:
        """Plan `actions` (N, 7), predicted from the observation of `first_tick`, for that tick and those after it.

        With an executor that follows paths, a chunk observed at rest starts with the arm's first motion: until then,
        nothing changes.

        `replace_all` drops earlier chunks, which were for another command and must not be averaged in. Returns False,
        without any change, if all its ticks are over or the observation predates the last `clear`.
        """
        chunk = np.asarray(actions, dtype=np.float64)
        if chunk.ndim != 2 or chunk.shape[1] != 7:
            raise ValueError(f"a chunk must have shape (N, 7); got {chunk.shape}")
        with self._lock:
            if self._observed_from is not None and first_tick < self._observed_from:
                self._counts["discarded"] += 1
                return False
            next_tick = first_tick if self._last_popped is None else self._last_popped + 1
            if first_tick + len(chunk) <= next_tick:
                self._counts["expired"] += 1
                return False
            if replace_all:
                self._executor.clear()
            if self._executor.follows_path:
                chunk = self._path.follow(first_tick, next_tick, chunk)
            self._executor.offer(first_tick, chunk)
            self._newest = first_tick, chunk
            self._counts["posted"] += 1
            return True

    def pop(self, tick: int) -> Array | None:
        """Return the action (7,) for `tick`, if any; this tick and those before it are over. Call in ascending order.

        Raises:
            ValueError: `tick` is over already.
        """
        with self._lock:
            if self._last_popped is not None and tick <= self._last_popped:
                raise ValueError(
                    f"tick {tick} was popped after tick {self._last_popped}; call restart() when the clock is set back"
                )
            self._last_popped = tick
            self._popped = planned = self._executor.take(tick)
            if self._newest is not None:
                self._counts["popped"] += 1
                self._counts["starved"] += planned is None
            return None if planned is None else planned.action

    def peek(self, tick: int) -> Array | None:
        """Return the action (7,) planned by now for the coming `tick`, if any."""
        with self._lock:
            planned = copy.copy(self._executor).take(tick)
            return None if planned is None else planned.action

    def acted(self, moved: bool, twist: ArrayLike | None = None) -> None:
        """Report whether the action popped last `moved` the arm, as opposed to rest or a takeover.

        `twist` (6,) is what was executed, as limited, before the speed scale; None: as planned.
        """
        with self._lock:
            if not moved:
                self._path.forget()
            elif self._popped is not None and self._last_popped is not None:
                executed = self._popped.action[:6] if twist is None else np.asarray(twist, np.float64)
                self._path.executed(self._last_popped, executed)

    def clear(self, observed_from: int | None = None) -> None:
        """Drop the plan; with `observed_from`, refuse chunks from earlier observations from now on."""
        with self._lock:
            self._drop_plan()
            lower_bounds = [tick for tick in (self._observed_from, observed_from) if tick is not None]
            self._observed_from = max(lower_bounds, default=None)

    def restart(self) -> None:
        """Drop the plan and forget all ticks: the clock was set back, so they will come again."""
        with self._lock:
            self._drop_plan()
            self._last_popped = self._popped = self._observed_from = None
            self._path.forget()

    def _drop_plan(self) -> None:
        self._executor.clear()
        self._newest = None

    def ticks_over(self, first_tick: int) -> int:
        """Return how many ticks from `first_tick` on are over."""
        last = self._last_popped
        return 0 if last is None else max(0, last + 1 - first_tick)

    @property
    def plan_tick(self) -> int | None:
        """Tick of the observation that the newest chunk answers; None without a plan."""
        newest = self._newest
        return None if newest is None else newest[0]

    def plan(self, tick: int) -> Array | None:
        """Return the newest chunk's actions (n, 7) from `tick` on; None without a plan."""
        newest = self._newest
        return None if newest is None else newest[1][max(0, tick - newest[0]) :]

    @property
    def answered_tick(self) -> int | None:
        """Tick of the oldest observation that contributed to the action popped last; None without an action."""
        popped = self._popped
        return None if popped is None else popped.observed_tick

    def statistics(self) -> TimelineStatistics:
        with self._lock:
            return TimelineStatistics(**self._counts)


def predicted_path(pose: Array, plan: Array, period_s: float) -> Array:
    """Return the tool's poses (N + 1, 7) if `plan` (N, 7) is executed from `pose` (7,) [m, quaternion xyzw] on.

    Everything is in the base frame; each action lasts `period_s`.
    """
    position, quaternion = pose[:3], pose[3:]
    poses = [np.concatenate([position, quaternion])]
    for action in plan:
        position, quaternion = integrate_twist(position, quaternion, action[:6], period_s)
        poses.append(np.concatenate([position, quaternion]))
    return np.array(poses)
