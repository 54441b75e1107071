# SPDX-License-Identifier: Apache-2.0
"""Arrays in files that are mapped when they are looked at, and only so many at once as a process may open files."""

from __future__ import annotations

import collections
import dataclasses
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import StoreError

# A map holds on to its file, and a process may have 1024 files open, the usual limit, for all that it does.
MAPS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """A file that holds one array, row-major and without a header."""

    path: Path
    type: str
    shape: tuple[int, ...]


class MappedFiles:
    """Maps files as they are asked for, and forgets the one that was not for longest.

    What is forgotten stays mapped for as long as an array looks at it.
    """

    def __init__(self) -> None:
        self._maps: collections.OrderedDict[ArrayFile, NDArray[Any]] = collections.OrderedDict()

    def array(self, file: ArrayFile) -> NDArray[Any]:
        """Return the array, read-only.

        Raises:
            StoreError: the file is not there any more.
        """
        if file in self._maps:
            self._maps.move_to_end(file)
            return self._maps[file]
        if len(self._maps) >= MAPS_AT_ONCE:
            self._maps.popitem(last=False)
        self._maps[file] = array = _mapped(file)
        return array


class MappedImages(Mapping[str, NDArray[np.uint8]]):
    """The images of an episode: camera -> (T, h, w, 3), rows `rows` of that camera's file."""

    def __init__(self, files: MappedFiles, cameras: Mapping[str, ArrayFile], rows: slice) -> None:
        self._files, self._cameras, self._rows = files, cameras, rows

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        return self._files.array(self._cameras[camera])[self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)


def read_whole(file: ArrayFile) -> NDArray[Any]:
    """Return a small array, in memory and read-only. Raises StoreError where its file is not there any more."""
    try:
        array = np.fromfile(file.path, file.type).reshape(file.shape)
    except (OSError, ValueError) as error:
        raise _gone(file, error) from None
    array.flags.writeable = False
    return array


def _mapped(file: ArrayFile) -> NDArray[Any]:
    try:
        with file.path.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(file.shape, file.type, mapping)
    except (OSError, ValueError, TypeError) as error:  # the latter two: it has become shorter
        raise _gone(file, error) from None


def _gone(file: ArrayFile, error: Exception) -> StoreError:
    return StoreError(
        f"{file.path} can't be read any more ({error}): was the store cleaned or moved while it was in use? Run the "
        "same command again, a training with --resume; what is missing is decoded anew"
    )
