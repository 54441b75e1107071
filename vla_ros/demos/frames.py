# SPDX-License-Identifier: Apache-2.0
"""Random access to the frames of many episodes, in memory or mapped from a store, at a bounded cost in memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.demos.windows import Indices

# Mapped pages that were read count as memory of this process until they are handed back. They stay in the system's
# page cache, so that reading them again costs next to nothing.
KEPT_BYTES = 64 << 20


class Frames:
    """The frames of one camera: `arrays` holds an array (T, h, w, 3) for each episode, all of one size."""

    def __init__(self, arrays: Sequence[NDArray[np.uint8]]) -> None:
        self._arrays = arrays
        self._mappings = [mapping_of(array) for array in arrays]
        self._used: dict[int, mmap.mmap] = {}
        self._used_bytes = 0

    def gather(self, episodes: Indices, frames: Indices) -> NDArray[np.uint8]:
        """Return the frames (B, W, h, w, 3) at `frames` (B, W) of `episodes` (B,)."""
        result = np.empty((*frames.shape, *self._arrays[0].shape[1:]), np.uint8)
        for window, (episode, rows) in enumerate(zip(episodes, frames)):
            # Rows are in range; "clip" keeps numpy from checking them in a copy of its own.
            np.take(self._arrays[episode], rows, axis=0, out=result[window], mode="clip")
            mapping = self._mappings[episode]
            if mapping is not None:
                self._used[id(mapping)] = mapping
        self._used_bytes += result.nbytes
        if self._used_bytes > KEPT_BYTES:
            self._hand_back()
        return result

    def _hand_back(self) -> None:
        for mapping in self._used.values():
            mapping.madvise(mmap.MADV_DONTNEED)
        self._used.clear()
        self._used_bytes = 0


def mapping_of(array: NDArray) -> mmap.mmap | None:
    """Return the mapped file that an array is a view of, or None."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
