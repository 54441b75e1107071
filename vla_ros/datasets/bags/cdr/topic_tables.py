# SPDX-License-Identifier: Apache-2.0
"""What is known of all messages of a topic without reading them one by one: stamps, and a few numbers of each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.cdr.batch_reader import KINDS, RegularReader
from vla_ros.datasets.bags.cdr.fast_readers import common_reader
from vla_ros.datasets.bags.cdr.typestore import types_of
from vla_ros.datasets.bags.message_refs import Places
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.storage.entries import Damage, Piece, StoredTopic

# Pieces are small where chunks are; so many bytes of messages are looked at together.
_READ_AT_ONCE = 1 << 19
# Which numbers of each message to keep, given the first message.
Columns = Callable[[Any], "tuple[int, ...]"]


@dataclasses.dataclass(frozen=True)
class TopicTable:
    """The messages of a topic that are built like its first one, in the order of receipt.

    places (n,); stamp_ns (n,): header stamps; numbers (n, k): the `columns` that were asked for. All others have to be
    read one by one. pixels: where an image's pixels begin in a message, 0 for other types.
    """

    first: Any
    columns: tuple[int, ...]
    pixels: int
    places: Places
    stamp_ns: NDArray[np.int64]
    numbers: NDArray[np.float64]


def read_tables(recording: Recording, columns: Mapping[str, Columns]) -> dict[str, TopicTable]:
    """Return the tables of topics, by name; without those whose type or first message is not regular."""
    known: dict[str, TopicTable | None] = recording.tables
    missing = {
        name: wanted
        for name, wanted in columns.items()
        if name not in known or ((table := known[name]) is not None and table.columns != wanted(table.first))
    }
    if missing:
        with tables_read(recording, missing):
            pass
    return {name: table for name in columns if (table := known[name]) is not None}


@contextlib.contextmanager
def tables_read(recording: Recording, columns: Mapping[str, Columns], kept: Collection[str] = ()) -> Iterator[None]:
    """Read tables, for `read_tables` to return, in the one pass over the recording in which `kept` are read."""
    builders = {name: _Builder(wanted) for name, wanted in columns.items() if recording.topics[name].type in KINDS}

    def see(file: int, topic: StoredTopic, piece: Piece) -> None:
        builders[topic.name].add(file, topic, piece)

    with recording.kept(kept, builders, see):
        recording.tables.update(dict.fromkeys(columns))
        recording.tables.update({name: one.table(recording.places([name])) for name, one in builders.items()})
        yield


class _Builder:
    """Collects a table piece by piece."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._reader: RegularReader | None = None
        self._topic: StoredTopic | None = None
        self._first: Any = None
        self._wanted: tuple[int, ...] = ()
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []
        self._bytes = 0
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []

    def add(self, file: int, topic: StoredTopic, piece: Piece) -> None:
        if self._reader is None:
            self._start(topic, piece)
        if self._reader is None or topic != self._topic:  # another file of the bag may define the type otherwise
            return
        length = piece.stop - piece.start
        fits = self._reader.fits(length)
        rows = self._reader.rows(piece, fits)
        entry = piece.entry[fits]
        self._waiting.append((np.full(len(entry), file), entry, length[fits], rows))
        self._bytes += rows.size
        if self._bytes > _READ_AT_ONCE:
            self._read()

    def _read(self) -> None:
        assert self._reader is not None
        file, entry, length, rows = (np.concatenate(column) for column in zip(*self._waiting))
        self._waiting, self._bytes = [], 0
        read = self._reader.read(rows, length)
        self._parts.append((file[read.which], entry[read.which], read.stamp_ns, read.numbers[:, list(self._wanted)]))

    def table(self, places: Places) -> TopicTable | None:
        """The table, in the order of `places`, which are those of all messages of the topic."""
        if self._waiting:
            self._read()
        if not self._parts or self._reader is None:
            return None
        file, entry, stamp_ns, numbers = (np.concatenate(column) for column in zip(*self._parts))
        span = int(places.entry.max()) + 1
        row = np.full(span * (int(places.file.max()) + 1), -1, np.int64)
        row[file * span + entry] = np.arange(len(entry))
        chosen = row[places.file * span + places.entry]
        regular = chosen >= 0
        chosen = chosen[regular]
        return TopicTable(
            first=self._first,
            columns=self._wanted,
            pixels=self._reader.pixels,
            places=places.chosen(regular),
            stamp_ns=stamp_ns[chosen],
            numbers=numbers[chosen],
        )

    def _start(self, topic: StoredTopic, piece: Piece) -> None:
        """Learn from the first message how they are built, if it is regular."""
        try:
            read = common_reader(types_of(topic), topic.type)
        except Damage:
            return  # told by who reads them one by one
        data = piece.data[int(piece.start[0]) : int(piece.stop[0])]
        first = read(data) if read is not None else None
        if first is None:
            return
        self._reader, self._topic, self._first = RegularReader(topic.type, data), topic, first
        self._wanted = self._columns(first)
