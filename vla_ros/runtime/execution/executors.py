# SPDX-License-Identifier: Apache-2.0
"""Executors: which planned action to execute at a control tick, given overlapping chunks keyed by absolute ticks.

Actions are velocities that hold for one tick, so chunks planned at different times can replace one another, or be
averaged, tick by tick. Poses relative to the start of a chunk could not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEFAULT_EXECUTOR = "path_following"
DEFAULT_HORIZON = 4  # ticks, of receding_horizon
DEFAULT_DECAY = 0.01  # of temporal_ensemble, as in ACT

# `PathFollower`: the correction is spread over this many ticks. One is as accurate but jerkier, three are too slow.
CORRECTION_TICKS = 2
# Share of a correction that counts as motion off the next chunk's path.
CORRECTION_SHARE = 0.5
# How far back executed actions are remembered: longer than any chunk is late.
REMEMBERED_TICKS = 64


class Planned(NamedTuple):
    """An `action` (7,), and the tick of the oldest observation that contributed to it."""

    action: Array
    observed_tick: int


class Executor(Protocol):
    """Keeps chunks and chooses the action for each tick; ticks are requested in ascending order.

    `take` replaces what it keeps and never changes it in place, so a shallow copy can look ahead.

    Attributes:
        follows_path: late chunks are corrected to rejoin their own path (`PathFollower`).
    """

    @property
    def follows_path(self) -> bool: ...

    def offer(self, first_tick: int, chunk: Array) -> None:
        """Add `chunk` (N, 7), whose row i is for tick `first_tick` + i; at least one of its ticks is still to come."""
        ...

    def take(self, tick: int) -> Planned | None:
        """Return the planned action for `tick`, if any."""
        ...

    def clear(self) -> None:
        """Forget all chunks."""
        ...


class FullChunk:
    """Execute the newest chunk to its end; a new chunk replaces the whole future on arrival.

    The arm may jerk when a chunk arrives, and end up beside its path; `follows_path` leads it back there.
    """

    def __init__(self, *, follows_path: bool = False) -> None:
        self.follows_path = follows_path
        self.clear()

    def offer(self, first_tick: int, chunk: Array) -> None:
        self._first_tick, self._chunk = first_tick, chunk

    def take(self, tick: int) -> Planned | None:
        return _row(self._first_tick, self._chunk, tick)

    def clear(self) -> None:
        self._first_tick, self._chunk = 0, np.empty((0, 7))


class RecedingHorizon:
    """Execute at most `horizon` actions of a chunk, then switch to the newest one.

    With a horizon of 1, only ever the first action that is still due. Actions beyond the horizon are not trusted: if no
    newer chunk has arrived in time, there is no action.
    """

    follows_path = False

    def __init__(self, horizon: int) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1; got {horizon}")
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
    """Average all chunks' actions for a tick, weighting the i-th oldest by exp(-decay i) (ACT, arXiv:2304.13705).

    It smooths what changes from chunk to chunk, but also averages distinct modes: two ways around an obstacle become
    one through it.
    """

    follows_path = False

    def __init__(self, decay: float = DEFAULT_DECAY) -> None:
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


EXECUTORS: dict[str, Callable[[int, float], Executor]] = {  # by horizon and decay
    "full_chunk": lambda horizon, decay: FullChunk(),
    "first_action": lambda horizon, decay: RecedingHorizon(1),
    "receding_horizon": lambda horizon, decay: RecedingHorizon(horizon),
    "temporal_ensemble": lambda horizon, decay: TemporalEnsemble(decay),
    "path_following": lambda horizon, decay: FullChunk(follows_path=True),
}


def make_executor(
    name: str = DEFAULT_EXECUTOR, *, horizon: int = DEFAULT_HORIZON, decay: float = DEFAULT_DECAY
) -> Executor:
    """Return a new executor; only receding_horizon uses `horizon` [ticks], only temporal_ensemble `decay`.

    Raises:
        ValueError: unknown name.
    """
    if name not in EXECUTORS:
        way_out = "; use path_following, which did better at most delays" if name == "delay_aware" else ""
        raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}; got {name!r}{way_out}")
    return EXECUTORS[name](horizon, decay)


class PathFollower:
    """Remembers what the arm executed, and corrects late chunks so that they rejoin their own path.

    The first rows of a late chunk are over when it arrives, and the rest would start from wherever the previous chunk
    has meanwhile taken the arm. Position chunks do not drift like this, which is why position policies tolerate delays
    of several ticks (Diffusion Policy, arXiv:2303.04137). Summed velocities are positions, so a velocity chunk can be
    read as a path as well: its rows for past ticks say where the arm should be by now.

    A path starts where the arm was observed, so a correction towards one chunk's path is an overshoot to the next chunk
    if that was observed before the correction. A policy that reacts to the observed position must be told about it; one
    that does not would undo the correction, then undo that, and so on. Counting half of each correction
    (`CORRECTION_SHARE`) makes this die out: at most half carries over to the next chunk.
    """

    def __init__(self) -> None:
        self._executed: deque[tuple[int, Array]] = deque(maxlen=REMEMBERED_TICKS)
        self._corrections: dict[int, Array] = {}  # tick -> twist added to the chunk's

    def executed(self, tick: int, twist: Array) -> None:
        """Record the twist (6,) [m/s, rad/s] executed at `tick`, before the speed scale."""
        self._executed.append((tick, twist))

    def forget(self) -> None:
        """Forget the past: the arm is at rest, or moved by a person."""
        self._executed.clear()
        self._corrections.clear()

    def follow(self, first_tick: int, next_tick: int, chunk: Array) -> Array:
        """Correct `chunk` (N, 7), planned from the observation of `first_tick`.

        A chunk observed at rest starts with the arm's first motion: until then, nothing changes.

        `next_tick` is the first that is not over. Returns actions (M, 7) from `first_tick` on, M >= N.
        """
        executed = dict(self._executed)
        over = range(first_tick, next_tick)
        if min(executed, default=first_tick) >= first_tick:  # it was at rest before
            at_rest = next((row for row, tick in enumerate(over) if tick in executed), len(over))
            chunk = delay_start(chunk, at_rest)
        done = [  # for ticks without a record, assume the chunk's own
            executed[tick] - (1 - CORRECTION_SHARE) * self._corrections.get(tick, 0.0) if tick in executed else row[:6]
            for tick, row in zip(over, chunk)
        ]
        followed = rejoin_path(chunk, np.array(done).reshape(-1, 6))
        self._corrections = {tick: added for tick, added in self._corrections.items() if tick in executed}
        for row in range(len(over), min(len(over) + CORRECTION_TICKS, len(chunk))):
            self._corrections[first_tick + row] = followed[row, :6] - chunk[row, :6]
        return followed


def rejoin_path(chunk: Array, executed: Array) -> Array:
    """Change the rows of `chunk` that are still due so that they lead back to its path.

    The motion missing from the first D ticks is added in equal parts to the next `CORRECTION_TICKS` rows. No row gets
    faster than the fastest of the chunk and of `executed`; if that, or the end of the chunk, cuts the correction short,
    the arm stays behind. Rotation vectors are summed, which is accurate for rotations over a few ticks. The gripper's
    opening is unchanged.

    Args:
        chunk: (N, 7), twists [m/s, rad/s] and opening; not changed in place.
        executed: (D, 6), twists executed at the chunk's first D ticks, D < N.
    """
    over = len(executed)
    followed = chunk.copy()
    rows = followed[over : over + CORRECTION_TICKS]
    rows[:, :6] += (chunk[:over, :6] - executed).sum(axis=0) / CORRECTION_TICKS
    for part in (slice(0, 3), slice(3, 6)):
        fastest = max(np.linalg.norm(twists[:, part], axis=1).max(initial=0.0) for twists in (chunk, executed))
        speeds = np.linalg.norm(rows[:, part], axis=1)
        rows[:, part] *= np.where(speeds > fastest, fastest / np.maximum(speeds, np.finfo(float).tiny), 1.0)[:, None]
    return followed


def delay_start(chunk: Array, ticks: int) -> Array:
    """Return `chunk` (N, 7) after `ticks` rows at rest, with the opening of its first row."""
    at_rest = np.zeros((ticks, 7))
    at_rest[:, 6] = chunk[0, 6]
    return np.concatenate([at_rest, chunk])
