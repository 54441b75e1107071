# SPDX-License-Identifier: Apache-2.0
"""A chunk as a path: what it says of ticks that are over when it comes is where the arm should be by now.

Chunks are velocities. Of one that comes late the first rows are skipped, and the others start from wherever the chunk
before has brought the arm meanwhile. Chunks of positions do not have that flaw, so that policies which give them stand
delays of several ticks (Diffusion Policy, arXiv:2303.04137). Velocities can be read so, too: their sum is a position.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Within so many ticks the arm is back on the path. One is as good and jerks more; three leave it too late.
CATCH_UP_TICKS = 2


def follow_path(chunk: NDArray[np.float64], done: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `chunk` (N, 7), its rows after the first D changed so that they lead back to where it was going.

    The difference between the motion of its first D rows and that of `done` is added to the next `CATCH_UP_TICKS` rows,
    in equal parts; with fewer rows left the arm does not hurry, but stays behind. Rotation vectors are added up,
    which is right for what an arm turns in some ticks. The gripper's opening stays.

    Args:
        chunk: twists in m/s and rad/s, opening.
        done: (D, 7) what the arm was given at the first D ticks instead, D < N.
    """
    over = len(done)
    followed = chunk.copy()
    catching_up = followed[over : over + CATCH_UP_TICKS, :6]
    catching_up += (chunk[:over, :6] - done[:, :6]).sum(axis=0) / CATCH_UP_TICKS
    return followed
