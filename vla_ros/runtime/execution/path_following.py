# SPDX-License-Identifier: Apache-2.0
"""A chunk as a path: what it says of ticks that are over when it comes is where the arm should be by now.

Chunks are velocities. Of one that comes late the first rows are skipped, and the others start from wherever the chunk
before has brought the arm meanwhile. Chunks of positions do not have that flaw, so that policies which give them stand
delays of several ticks (Diffusion Policy, arXiv:2303.04137). Velocities can be read so, too: their sum is a position.

A path begins where the arm was seen, so what brings the arm back to the path of one chunk is an overrun to the next,
which may have been seen before it. A policy that answers to where it sees the arm has to be told of that, and one that
does not would undo it, and undo that again, for ever where chunks take as many ticks as lie between them. So half of it
counts: of one chunk's correction at most half is left in the next.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Within so many ticks the arm is back on the path. One is as good and jerks more; three leave it too late.
CATCH_UP_TICKS = 2
# How much of what led back to the path before counts as motion beside the next one.
CATCHING_UP_COUNTS = 0.5
# Of which it is known what the arm was given: more ticks than a chunk is late.
REMEMBERED_TICKS = 64

_LINEAR, _ANGULAR = slice(0, 3), slice(3, 6)


class PathFollower:
    """Knows what the arm was given, and leads chunks that come late back to where they were going."""

    def __init__(self) -> None:
        self._given: deque[tuple[int, Array]] = deque(maxlen=REMEMBERED_TICKS)
        self._caught_up: dict[int, Array] = {}  # of each tick what was added to what a chunk said

    def gave(self, tick: int, twist: Array) -> None:
        """Note the twist (6,) that moved the arm at `tick`, as the policy would have had to say it [m/s, rad/s]."""
        self._given.append((tick, twist))

    def forget(self) -> None:
        """The arm stands, or is moved by somebody else: what it was given before says nothing of where it is."""
        self._given.clear()
        self._caught_up.clear()

    def follow(self, first_tick: int, next_tick: int, chunk: Array) -> Array:
        """Return what to do from `first_tick` on (M, 7), M >= N, for `chunk` (N, 7) from the observation of that tick.

        Of an arm that stood, from its first motion on: until then everything stays as it was seen.

        Args:
            next_tick: the first that is not over.
        """
        given = dict(self._given)
        over = range(first_tick, next_tick)
        if min(given, default=first_tick) >= first_tick:  # it did not move before
            chunk = after_standing(chunk, next((row for row, tick in enumerate(over) if tick in given), len(over)))
        # Where nobody knows, what the chunk says.
        done = [
            row[:6] if tick not in given else given[tick] - (1 - CATCHING_UP_COUNTS) * self._caught_up.get(tick, 0.0)
            for tick, row in zip(over, chunk)
        ]
        followed = follow_path(chunk, np.array(done).reshape(-1, 6))
        self._caught_up = {tick: added for tick, added in self._caught_up.items() if tick in given}
        for row in range(len(over), min(len(over) + CATCH_UP_TICKS, len(chunk))):
            self._caught_up[first_tick + row] = followed[row, :6] - chunk[row, :6]
        return followed


def follow_path(chunk: Array, done: Array) -> Array:
    """Return `chunk` (N, 7), its rows after the first D changed so that they lead back to where it was going.

    The difference between the motion of its first D rows and that of `done` is added to the next `CATCH_UP_TICKS` rows,
    in equal parts. Neither gets faster than the fastest of the rows and of `done`: then, or with fewer rows left, the
    arm stays behind. Rotation vectors are added up, which is right for what an arm turns in some ticks. The gripper's
    opening stays.

    Args:
        chunk: twists in m/s and rad/s, opening.
        done: (D, 6) what the arm was given at the first D ticks instead, D < N.
    """
    over = len(done)
    followed = chunk.copy()
    rows = followed[over : over + CATCH_UP_TICKS]
    rows[:, :6] += (chunk[:over, :6] - done).sum(axis=0) / CATCH_UP_TICKS
    for part in (_LINEAR, _ANGULAR):
        fastest = max(np.linalg.norm(twists[:, part], axis=1).max(initial=0.0) for twists in (chunk, done))
        speeds = np.linalg.norm(rows[:, part], axis=1)
        rows[:, part] *= np.where(speeds > fastest, fastest / np.maximum(speeds, np.finfo(float).tiny), 1.0)[:, None]
    return followed


def after_standing(chunk: Array, ticks: int) -> Array:
    """Put a row in front of `chunk` (N, 7) for each of the ticks for which the arm that was seen goes on standing."""
    still = np.zeros((ticks, 7))
    still[:, 6] = chunk[0, 6]
    return np.concatenate([still, chunk])
