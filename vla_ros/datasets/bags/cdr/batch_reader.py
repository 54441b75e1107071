# SPDX-License-Identifier: Apache-2.0
"""All messages of a topic at once: numpy reads what differs between them, their stamps and numbers.

Messages of a topic nearly always have the same layout: the same texts and lengths, with other stamps, numbers and
pixels. Those that do not are left to whoever reads messages one by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.cdr.messages import FIELDS, LENGTH, PADDING, aligned, fast_reader, types_of
from vla_ros.datasets.bags.recording import MessageRefs, Recording
from vla_ros.datasets.bags.storage.container import Damage, MessageBatch, StoredTopic, byte_rows

# Batches are small in files with small chunks; this many bytes of messages are read together.
_TOGETHER_BYTES = 1 << 19
_STAMP = slice(4, 12)
_FRAME = 12

# Given a topic's first message, returns which numbers of each message to keep.
Columns = Callable[[Any], "tuple[int, ...]"]


@dataclasses.dataclass(frozen=True)
class TopicTable:
    """Those messages of a topic that have the layout of its first one, in order of receipt."""

    first: Any
    columns: tuple[int, ...]  # which numbers of each message `numbers` contains
    pixels: int  # where an image's pixels begin in a message, 0 for other types
    refs: MessageRefs
    stamp_ns: NDArray[np.int64]  # header stamps (n,)
    numbers: NDArray[np.float64]  # (n, k)


def read_tables(recording: Recording, columns: Mapping[str, Columns]) -> dict[str, TopicTable]:
    """Return the tables of topics, by name, except for topics of other types or without a regular first message."""
    known: dict[str, TopicTable | None] = recording.tables
    missing = {
        name: wanted
        for name, wanted in columns.items()
        if name not in known or ((table := known[name]) is not None and table.columns != wanted(table.first))
    }
    if missing:
        with preloaded(recording, missing):
            pass
    return {name: table for name in columns if (table := known[name]) is not None}


@contextlib.contextmanager
def preloaded(recording: Recording, columns: Mapping[str, Columns], topics: Collection[str] = ()) -> Iterator[None]:
    """Read tables, for `read_tables`, and preload the messages of `topics`, all in one pass over the recording."""
    builders = {
        name: _TableBuilder(wanted) for name, wanted in columns.items() if recording.topics[name].type in FIELDS
    }
    with recording.preloaded(topics, builders, lambda file, topic, batch: builders[topic.name].add(file, topic, batch)):
        recording.tables.update(dict.fromkeys(columns))
        recording.tables.update({name: one.table(recording.refs([name])) for name, one in builders.items()})
        yield


class BatchValues(NamedTuple):
    """What was read of m messages: which (m,) have the layout, and of those (r,) the stamps and (r, k) the numbers."""

    which: NDArray[np.bool_]
    stamp_ns: NDArray[np.int64]
    numbers: NDArray[np.float64]


class BatchReader:
    """Reads messages with the layout of `first`, a message that `fast_reader` can read."""

    def __init__(self, kind: str, first: bytes) -> None:
        walk = _LayoutWalk(first)
        walk.text()
        found = [walk.field(field) for field in FIELDS[kind].values()]
        self._numbers = next((numbers for numbers in found if numbers is not None), (0, 0))  # where, and how many
        self.pixels = walk.at if kind.endswith("Image") else 0  # where an image's begin
        self._bytes = self.pixels or len(first)
        self._first = np.frombuffer(first, np.uint8, self._bytes)
        self._fixed = np.zeros(self._bytes, np.uint8)
        for begin, end in walk.ranges:
            self._fixed[begin:end] = 0xFF

    def fits(self, length: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which messages of these lengths (m,) may have the layout."""
        return length >= self._bytes if self.pixels else length == self._bytes

    def rows(self, batch: MessageBatch, which: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Copy the bytes that `read` needs, (m, bytes), from those messages of a batch whose length fits."""
        return byte_rows(batch.data, batch.start[which], self._bytes)

    def read(self, rows: NDArray[np.uint8], length: NDArray[np.int64]) -> BatchValues:
        """Read those messages (m,), given by `rows` and their lengths, that have the layout."""
        which: NDArray[np.bool_] = np.logical_not(((rows ^ self._first) & self._fixed).any(axis=1))
        if self.pixels:
            stop = self.pixels + _columns(rows, self.pixels - LENGTH.size, "<u4", 1)[:, 0].astype(np.int64)
            which &= (stop <= length) & (length <= stop + PADDING)
        rows = rows[which]
        seconds = _columns(rows, _STAMP.start, "<i4", 1)[:, 0].astype(np.int64)
        nanoseconds = _columns(rows, _STAMP.start + 4, "<u4", 1)[:, 0].astype(np.int64)
        numbers = _columns(rows, self._numbers[0], "<f8", self._numbers[1])
        return BatchValues(which, seconds * 1_000_000_000 + nanoseconds, numbers)


class _LayoutWalk:
    """Walks through a regular message and collects the ranges of bytes that are part of its layout."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = _FRAME
        self.ranges = [(0, 2)]

    def field(self, kind: str) -> tuple[int, int] | None:
        """Step over a field, but not over the content of a uint8[]; return where its doubles are, and how many."""
        if kind == "string":
            self.text()
        elif kind == "string[]":
            for _ in range(self._count()):
                self.text()
        elif kind in ("uint8", "uint32"):
            self._fixed(4 if kind == "uint32" else 1)
        elif kind == "uint8[]":
            self.at = aligned(self.at, LENGTH.size) + LENGTH.size
        else:
            count = {"Pose": 7, "Twist": 6}.get(kind) or self._count()
            begin = aligned(self.at, 8) if count else self.at
            self.at = begin + 8 * count
            return begin, count
        return None

    def text(self) -> None:
        length = self._count()
        self.ranges.append((self.at, self.at + length))
        self.at += length

    def _count(self) -> int:
        self._fixed(LENGTH.size)
        return int(LENGTH.unpack_from(self._data, self.at - LENGTH.size)[0])

    def _fixed(self, size: int) -> None:
        self.at = aligned(self.at, size)
        self.ranges.append((self.at, self.at + size))
        self.at += size


def _columns(rows: NDArray[np.uint8], at: int, kind: str, count: int) -> NDArray[Any]:
    """Return numbers (m, count) of rows (m, bytes), from column `at` on."""
    if not count:
        return np.zeros((len(rows), 0), kind)
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, at : at + size * count]).view(kind).reshape(len(rows), count)


class _TableBuilder:
    """Builds a table batch by batch."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._reader: BatchReader | None = None
        self._topic: StoredTopic | None = None
        self._first: Any = None
        self._wanted: tuple[int, ...] = ()
        # File, entry, length and bytes; then file, entry, stamp and numbers.
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []
        self._bytes = 0
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []

    def add(self, file: int, topic: StoredTopic, batch: MessageBatch) -> None:
        if self._reader is None:
            self._start(topic, batch)
        if self._reader is None or topic != self._topic:  # another file of the bag may define the type otherwise
            return
        length = batch.stop - batch.start
        fits = self._reader.fits(length)
        rows = self._reader.rows(batch, fits)
        entry = batch.entry[fits]
        self._waiting.append((np.full(len(entry), file), entry, length[fits], rows))
        self._bytes += rows.size
        if self._bytes > _TOGETHER_BYTES:
            self._read()

    def _read(self) -> None:
        assert self._reader is not None
        file, entry, length, rows = (np.concatenate(column) for column in zip(*self._waiting))
        self._waiting, self._bytes = [], 0
        read = self._reader.read(rows, length)
        self._parts.append((file[read.which], entry[read.which], read.stamp_ns, read.numbers[:, list(self._wanted)]))

    def table(self, refs: MessageRefs) -> TopicTable | None:
        """Return the table, in the order of `refs`, which are those of all messages of the topic."""
        if self._waiting:
            self._read()
        if not self._parts or self._reader is None:
            return None
        file, entry, stamp_ns, numbers = (np.concatenate(column) for column in zip(*self._parts))
        span = int(refs.entry.max()) + 1
        row = np.full(span * (int(refs.file.max()) + 1), -1, np.int64)
        row[file * span + entry] = np.arange(len(entry))
        found = row[refs.file * span + refs.entry]
        regular = found >= 0
        found = found[regular]
        return TopicTable(
            self._first, self._wanted, self._reader.pixels, refs.select(regular), stamp_ns[found], numbers[found]
        )

    def _start(self, topic: StoredTopic, batch: MessageBatch) -> None:
        """Learn the layout from the first message, if that is regular."""
        try:
            read = fast_reader(types_of(topic), topic.type)
        except Damage:
            return  # reported when its messages are read one by one
        data = batch.data[int(batch.start[0]) : int(batch.stop[0])]
        first = read(data) if read is not None else None
        if first is None:
            return
        self._reader, self._topic, self._first = BatchReader(topic.type, data), topic, first
        self._wanted = self._columns(first)
