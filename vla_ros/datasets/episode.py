# SPDX-License-Identifier: Apache-2.0
"""Demonstrations sampled on the control grid: episodes, windows of their ticks, and random access to their images.

A deployed policy has seen one frame after its reset, then two, and so on up to the history W. The windows of an episode
of T frames therefore start at s = -(W - 1) .. T - 1 and hold the frames max(0, s) .. min(T, s + W) - 1, padded on the
right. Histories of every length 1 .. W occur, and each frame is in exactly W windows, so that none counts more.
"""

from __future__ import annotations

import dataclasses
import mmap
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

OUTCOMES = ("success", "failure", "unknown")

# Mapped pages that were read count as this process's memory until they are released. They stay in the page cache, so
# reading them again is cheap.
RELEASE_AFTER_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class Episode:
    """T consecutive control ticks under one command: what was seen at each, and what was done from it on.

    Attributes:
        images: camera -> (T, h, w, 3) uint8 RGB at the network's size; cameras in the contract's order.
        proprioception: (T, P) float32 in physical units; P = 0 if the contract has none.
        actions: (T, 7) float64, [vx vy vz wx wy wz] in m/s and rad/s, averaged over the control period that begins at
            the tick, in the robot's base frame; and the gripper opening in [0 closed, 1 open].
        task: the task's name; the command if no other is known.
        outcome: one of `OUTCOMES`; "unknown" if nobody recorded it.
        source: the recording and the episode in it. Pieces of one recorded episode share it, so split by it.
        start_ns: time of the first tick.
        ticks: (T,) int64, absolute numbers of the control grid.
        phrasings: ways to word the command, itself among them; empty if there is only one.

    Raises:
        ValueError: an array has the wrong shape, type or length, a number is not finite, or the ticks have a gap.
    """

    images: Mapping[str, NDArray[np.uint8]]
    proprioception: NDArray[np.float32]
    actions: NDArray[np.float64]
    command: str
    task: str
    outcome: str
    source: str
    start_ns: int
    ticks: Indices
    phrasings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        length = len(self.ticks)
        _require(length > 0, "ticks", self.ticks.shape, "at least one tick")
        for camera, images in self.images.items():
            valid = images.dtype == np.uint8 and images.ndim == 4 and images.shape[::3] == (length, 3)
            _require(valid, f"images[{camera!r}]", (images.shape, images.dtype), f"({length}, h, w, 3) uint8")
        _require_numbers("proprioception", self.proprioception, np.float32, (length, self.proprioception.shape[-1]))
        _require_numbers("actions", self.actions, np.float64, (length, 7))
        opening = self.actions[:, 6]
        _require(bool(((opening >= 0) & (opening <= 1)).all()), "gripper opening", opening, "0 (closed) to 1 (open)")
        _require(bool((np.diff(self.ticks) == 1).all()), "ticks", self.ticks, "consecutive numbers")
        known = not self.phrasings or self.command in self.phrasings
        _require(known, "phrasings", self.phrasings, f"none, or {self.command!r} among them")
        _require(self.outcome in OUTCOMES, "outcome", self.outcome, OUTCOMES)

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def commands(self) -> tuple[str, ...]:
        """All ways to word the command, the one in force first."""
        return (self.command, *(text for text in self.phrasings if text != self.command))


class Frames:
    """One camera's frames of many episodes: `images[e][camera]` is the array (T, h, w, 3) of episode e, all one size.

    The mapping is looked up for each read, because a store maps only as many files at once as a process may open.
    """

    def __init__(self, images: Sequence[Mapping[str, NDArray[np.uint8]]], camera: str) -> None:
        self._images = images
        self._camera = camera
        self._used: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._used_bytes = 0

    def gather(self, episodes: Indices, frames: Indices) -> NDArray[np.uint8]:
        """Return the frames (B, W, h, w, 3) at `frames` (B, W) of `episodes` (B,)."""
        size = self._images[int(episodes[0])][self._camera].shape[1:]
        result = np.empty((*frames.shape, *size), np.uint8)
        for window, (episode, rows) in enumerate(zip(episodes, frames)):
            array = self._images[episode][self._camera]
            # Rows are in range; "clip" spares the copy in which numpy would check them.
            np.take(array, rows, axis=0, out=result[window], mode="clip")
            mapping = mapping_of(array)
            if mapping is not None:
                self._used.add(mapping)
        self._used_bytes += result.nbytes
        if self._used_bytes > RELEASE_AFTER_BYTES:
            for used in self._used:
                used.madvise(mmap.MADV_DONTNEED)
            self._used.clear()
            self._used_bytes = 0
        return result


def mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the mapped file that `array` is a view of, or None."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def windows(lengths: Sequence[int], history: int) -> Indices:
    """List the windows of episodes with the given `lengths` in frames: (M, 3).

    A row is episode, first frame, and frame after the last; M = sum of (length + history - 1).
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

    Padding repeats the window's last frame, so that the indices are valid before they are masked.
    """
    first, stop = np.asarray(first)[..., None], np.asarray(stop)[..., None]
    frames = first + np.arange(history)
    return np.minimum(frames, stop - 1), frames < stop


def chunk_frames(frames: Indices, length: Indices | int, chunk: int) -> tuple[Indices, Mask]:
    """Expand frames (...) to the frames (..., N) whose actions are the chunk of each: t .. t + N - 1.

    `length` is the episode's, broadcast against `frames`. Beyond it the index stays on the last frame and the mask is
    False: nobody knows what the robot would have done after the demonstration.
    """
    _require_positive("chunk", chunk)
    wanted = np.asarray(frames)[..., None] + np.arange(chunk)
    end = np.asarray(length)[..., None]
    return np.minimum(wanted, end - 1), wanted < end


def _require_numbers(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    valid = array.dtype == dtype and array.shape == shape
    _require(valid, name, (array.shape, array.dtype), f"{shape} {np.dtype(dtype).name}")
    _require(bool(np.isfinite(array).all()), name, "a number that is not finite", "finite numbers")


def _require(condition: bool, name: str, value: object, expected: object) -> None:
    if not condition:
        raise ValueError(f"episode {name}: got {value}; expected {expected}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; must be at least 1")
