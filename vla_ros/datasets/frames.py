# SPDX-License-Identifier: Apache-2.0
"""Random access to the frames of many episodes, in memory or mapped from a store, at a bounded cost in memory."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.windows import Indices

# Mapped pages that were read count as memory of this process until they are handed back. They stay in the system's
# page cache, so that reading them again costs next to nothing.
KEPT_BYTES = 16 << 20


class Frames:
    """The frames of one camera: `images[e][camera]` is the array (T, h, w, 3) of episode e, all of one size.

    It is asked for anew each time: a store maps no more files at once than a process may open.
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
            # Rows are in range; "clip" keeps numpy from checking them in a copy of its own.
            np.take(array, rows, axis=0, out=result[window], mode="clip")
            mapping = mapping_of(array)
            if mapping is not None:
                self._used.add(mapping)
        self._used_bytes += result.nbytes
        if self._used_bytes > KEPT_BYTES:
            self._hand_back()
        return result

    def _hand_back(self) -> None:
        for mapping in self._used:
            mapping.madvise(mmap.MADV_DONTNEED)
        self._used.clear()
        self._used_bytes = 0


def mapping_of(array: NDArray) -> mmap.mmap | None:
    """Return the mapped file that an array is a view of, or None."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
