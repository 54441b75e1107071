# SPDX-License-Identifier: Apache-2.0
"""Which of the planned actions is the one for a tick. Chunks are laid out by absolute ticks; no time, no threads.

Twists are velocities for one tick each, so chunks that were planned at different times may replace each other, or be
averaged, tick by tick; that would not hold for poses relative to where a chunk began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Planned(NamedTuple):
    """An `action` (7,), and the tick of the oldest observation that has a say in it."""

    action: Array
    observed_tick: int


class Executor(Protocol):
    """Keeps chunks and says what to do at a tick; ticks are asked for in rising order.

    What it keeps is replaced and never changed in place by `take`, so that a shallow copy can look ahead.
    """

    @property
    def tells_policy(self) -> bool:
        """Whether the policy is told what will be carried out while it computes (`runtime.commitment`)."""
        ...

    @property
    def follows_path(self) -> bool:
        """Whether chunks are made to lead back to where they were going (`runtime.path_following`)."""
        ...

    def offer(self, first_tick: int, chunk: Array) -> None:
        """Take `chunk` (N, 7), whose row i is for `first_tick` + i; it has a row for a tick that is still to come."""
        ...

    def take(self, tick: int) -> Planned | None:
        """What is planned for `tick`, or None."""
        ...

    def clear(self) -> None:
        """Forget all chunks."""
        ...


class FullChunk:
    """Always the newest chunk, to its end: the next one replaces the whole future as soon as it is there.

    Where the policy is told what is carried out meanwhile, the next one goes on from there, and where its path is
    followed it leads on from there to where it was going; else the arm may jerk, and ends up beside the path.
    """

    def __init__(self, *, tells_policy: bool = False, follows_path: bool = False) -> None:
        self.tells_policy = tells_policy
        self.follows_path = follows_path
        self.clear()

    def offer(self, first_tick: int, chunk: Array) -> None:
        self._first_tick, self._chunk = first_tick, chunk

    def take(self, tick: int) -> Planned | None:
        return _row(self._first_tick, self._chunk, tick)

    def clear(self) -> None:
        self._first_tick, self._chunk = 0, np.empty((0, 7))


class RecedingHorizon:
    """At most `horizon` actions of a chunk, from the tick at which it is taken up; then the newest one that is there.

    With a horizon of 1, only ever the first action that is still to come. Actions beyond the horizon are not trusted:
    where no newer chunk has come in time, there is no action.
    """

    tells_policy = follows_path = False

    def __init__(self, horizon: int) -> None:
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}; expected at least 1")
        self._horizon = horizon
        self._current: tuple[int, Array] | None = None
        self._newest: tuple[int, Array] | None = None
        self._until_tick = 0

    def offer(self, first_tick: int, chunk: Array) -> None:
        self._newest = (first_tick, chunk)

    def take(self, tick: int) -> Planned | None:
        if tick >= self._until_tick or self._row_of_current(tick) is None:
            self._current, self._newest = self._newest, None
            self._until_tick = tick + self._horizon
        return self._row_of_current(tick)

    def _row_of_current(self, tick: int) -> Planned | None:
        return None if self._current is None else _row(*self._current, tick)

    def clear(self) -> None:
        self._current = self._newest = None
        self._until_tick = 0


class TemporalEnsemble:
    """The average of what all chunks say about a tick, the i-th oldest weighted by exp(-decay i) (ACT, 2304.13705).

    It damps what changes from chunk to chunk, and averages across what is not meant to be averaged: two ways round an
    obstacle make one way through it.
    """

    tells_policy = follows_path = False

    def __init__(self, decay: float = 0.01) -> None:
        self._decay = decay
        self._chunks: list[tuple[int, Array]] = []

    def offer(self, first_tick: int, chunk: Array) -> None:
        self._chunks.append((first_tick, chunk))

    def take(self, tick: int) -> Planned | None:
        self._chunks = [(first, chunk) for first, chunk in self._chunks if tick < first + len(chunk)]
        rows = [row for first, chunk in self._chunks if (row := _row(first, chunk, tick)) is not None]
        if not rows:
            return None
        weights = np.exp(-self._decay * np.arange(len(rows)))
        action = weights @ np.array([row.action for row in rows]) / weights.sum()
        return Planned(action, rows[0].observed_tick)

    def clear(self) -> None:
        self._chunks = []


def _row(first_tick: int, chunk: Array, tick: int) -> Planned | None:
    index = tick - first_tick
    return Planned(chunk[index], first_tick) if 0 <= index < len(chunk) else None


# Made with the horizon of receding_horizon and the decay of temporal_ensemble.
EXECUTORS: dict[str, Callable[[int, float], Executor]] = {
    "full_chunk": lambda horizon, decay: FullChunk(),
    "first_action": lambda horizon, decay: RecedingHorizon(1),
    "receding_horizon": lambda horizon, decay: RecedingHorizon(horizon),
    "temporal_ensemble": lambda horizon, decay: TemporalEnsemble(decay),
    "path_following": lambda horizon, decay: FullChunk(follows_path=True),
    "delay_aware": lambda horizon, decay: FullChunk(tells_policy=True),
}


def make_executor(name: str, *, horizon: int, decay: float) -> Executor:
    """The executor called `name`; `horizon` is of receding_horizon, `decay` of temporal_ensemble.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in EXECUTORS:
        raise ValueError(f"executor is {name!r}; allowed: {', '.join(EXECUTORS)}")
    return EXECUTORS[name](horizon, decay)
