# SPDX-License-Identifier: Apache-2.0
"""Many messages of one topic at once: what of them differs from the first one is read with numpy.

Messages of a topic are nearly always built alike: the same texts and lengths, other stamps, numbers and pixels. Of
those the stamps and numbers are read here, all that lie in one piece of memory in a few steps; all others are left to
who reads messages one by one.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.storage.entries import Piece, byte_rows

KINDS = (
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/JointState",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/TwistStamped",
)

_START = 4  # before it, how the message is encoded; alignments count from here
_STAMP = slice(4, 12)
_FRAME = 12
_LENGTH = struct.Struct("<I")
_PADDING = 3  # bytes that may follow a message


class Read(NamedTuple):
    """Messages that are built like the first one: which (m,), and of those (r,) the stamps and (r, k) the numbers."""

    which: NDArray[np.bool_]
    stamp_ns: NDArray[np.int64]
    numbers: NDArray[np.float64]


class RegularReader:
    """Reads messages that are built like `first`, a message of a type in KINDS that `common_reader` can read.

    pixels: where an image's pixels begin, 0 for other types.
    """

    def __init__(self, kind: str, first: bytes) -> None:
        walk = _Walk(first)
        walk.header()
        self.pixels = 0
        self._numbers = (walk.at, 0)  # where they begin, and how many
        name = kind.rpartition("/")[2]
        if name == "PoseStamped":
            self._numbers = walk.numbers(7)
        elif name == "TwistStamped":
            self._numbers = walk.numbers(6)
        elif name == "JointState":
            for _ in range(walk.count()):
                walk.text()
            self._numbers = walk.numbers(walk.count())
            for _ in ("velocity", "effort"):
                walk.numbers(walk.count())
        elif name == "CompressedImage":
            walk.text()
        else:
            walk.aligned(4)
            walk.alike(8)  # height, width
            walk.text()
            walk.alike(1)
            walk.aligned(4)
            walk.alike(4)  # step
        if name.endswith("Image"):
            walk.aligned(4)
            self.pixels = walk.at + _LENGTH.size
        self._bytes = self.pixels or len(first)
        self._first = np.frombuffer(first, np.uint8, self._bytes)
        self._alike = np.zeros(self._bytes, np.uint8)
        for begin, end in walk.ranges:
            self._alike[begin:end] = 0xFF

    def fits(self, length: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which messages, of these lengths (m,), may be built like the first one."""
        return length >= self._bytes if self.pixels else length == self._bytes

    def rows(self, piece: Piece, which: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Copy from some of a piece's messages, of a length that fits, the bytes that `read` looks at: (m, bytes)."""
        return byte_rows(piece.data, piece.start[which], self._bytes)

    def read(self, rows: NDArray[np.uint8], length: NDArray[np.int64]) -> Read:
        """Read those of the messages (m,), given by `rows` and their lengths, that are built like the first one."""
        which: NDArray[np.bool_] = np.logical_not(((rows ^ self._first) & self._alike).any(axis=1))
        if self.pixels:
            stop = self.pixels + _columns(rows, self.pixels - _LENGTH.size, "<u4", 1)[:, 0].astype(np.int64)
            which &= (stop <= length) & (length <= stop + _PADDING)
        rows = rows[which]
        seconds = _columns(rows, _STAMP.start, "<i4", 1)[:, 0].astype(np.int64)
        nanoseconds = _columns(rows, _STAMP.start + 4, "<u4", 1)[:, 0].astype(np.int64)
        numbers = _columns(rows, self._numbers[0], "<f8", self._numbers[1])
        return Read(which, seconds * 1_000_000_000 + nanoseconds, numbers)


class _Walk:
    """Goes through a message that is known to be regular; `ranges` are bytes in which messages must be alike."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = _START
        self.ranges = [(0, 2)]

    def header(self) -> None:
        self.at = _FRAME
        self.text()

    def aligned(self, size: int) -> None:
        self.at = (self.at - _START + size - 1) // size * size + _START

    def alike(self, size: int) -> None:
        self.ranges.append((self.at, self.at + size))
        self.at += size

    def count(self) -> int:
        self.aligned(_LENGTH.size)
        (count,) = _LENGTH.unpack_from(self._data, self.at)
        self.alike(_LENGTH.size)
        return int(count)

    def text(self) -> None:
        self.alike(self.count())

    def numbers(self, count: int) -> tuple[int, int]:
        """Step over doubles; return where they begin, and how many there are."""
        if count:
            self.aligned(8)
        begin = self.at
        self.at += 8 * count
        return begin, count


def _columns(rows: NDArray[np.uint8], at: int, kind: str, count: int) -> NDArray:
    """Numbers (m, count) of each of the rows (m, bytes), from column `at` on."""
    if not count:
        return np.zeros((len(rows), 0), kind)
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, at : at + size * count]).view(kind).reshape(len(rows), count)
