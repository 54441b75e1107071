# SPDX-License-Identifier: Apache-2.0
"""History windows and action chunks over episodes: index arithmetic, no data.

A policy that starts cold has seen one frame, then two, and so on up to W. The windows of an episode of T frames
therefore start at s = -(W - 1) .. T - 1 and hold the frames max(0, s) .. min(T, s + W) - 1, placed first and padded on
the right. So histories of every length 1 .. W are there, and each frame is in exactly W windows: none counts more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


def windows(lengths: Sequence[int], history: int) -> Indices:
    """List the windows of episodes with the given `lengths` (in frames).

    Returns:
        (M, 3): episode, first frame, frame after the last; M = sum of (length + history - 1).

    Raises:
        ValueError: `history` or a length is less than 1.
    """
    _require_positive("history", history)
    rows = []
    for episode, length in enumerate(lengths):
        _require_positive(f"lengths[{episode}]", length)
        starts = np.arange(1 - history, length)
        first, stop = np.maximum(starts, 0), np.minimum(starts + history, length)
        rows.append(np.stack([np.full_like(starts, episode), first, stop], axis=1))
    return np.concatenate(rows).astype(np.int64) if rows else np.empty((0, 3), np.int64)


def window_frames(first: Indices, stop: Indices, history: int) -> tuple[Indices, Mask]:
    """Expand windows [first, stop) of any shape (...) to frames (..., W) and the mask of those that are not padding.

    Padding repeats the window's last frame, so that the indices can be used before they are masked.
    """
    first, stop = np.asarray(first)[..., None], np.asarray(stop)[..., None]
    frames = first + np.arange(history)
    return np.minimum(frames, stop - 1), frames < stop


def chunk_frames(frames: Indices, length: Indices | int, chunk: int) -> tuple[Indices, Mask]:
    """Expand frames (...) to the frames (..., N) whose actions are the chunk of each: t .. t + N - 1.

    `length` is the episode's, broadcast against `frames`. Past its end the index stays on the last frame and the mask
    is False: what the robot would have done after the demonstration is unknown.
    """
    _require_positive("chunk", chunk)
    wanted = np.asarray(frames)[..., None] + np.arange(chunk)
    end = np.asarray(length)[..., None]
    return np.minimum(wanted, end - 1), wanted < end


def _require_positive(what: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{what} is {value}; it must be at least 1")
