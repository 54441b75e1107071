# SPDX-License-Identifier: Apache-2.0
"""What every storage file gives: its topics, an index of its messages, and the bytes of one message."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

# Receive times beyond the year 2116 are damage; below, sums of times and durations fit in 64 bits.
MAX_TIME_NS = 1 << 62
_PIECE = 256


class Damage(Exception):
    """A message can't be read: the text says why. It costs that message, not the file.

    Always the fault of the bytes, for what is made of the rest is kept: a full disk or memory is no Damage.
    """


@dataclasses.dataclass(frozen=True)
class StoredTopic:
    """A topic as a file declares it.

    encoding: how messages are serialised ("cdr"); definition: the type's text in `definition_format` ("ros2msg",
    "ros2idl", "" for none); offered_qos: YAML of the publishers' QoS profiles, as rosbag2 writes it, or "".
    """

    name: str
    type: str
    encoding: str
    definition_format: str
    definition: str
    offered_qos: str


@dataclasses.dataclass(frozen=True)
class Entries:
    """The messages of a file in the order of their receive times; those of equal times as they were written.

    topic (n,): key into the file's `topics`; time_ns (n,): receive times; block, offset (n,): where the file finds it.
    """

    topic: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    block: NDArray[np.int32]
    offset: NDArray[np.int64]

    @classmethod
    def sort(cls, parts: Sequence[NDArray[np.int64]]) -> Entries:
        """From tables (m, 4) of topic, time, block, offset, in any order. Times must lie in [0, MAX_TIME_NS)."""
        table = np.concatenate([np.zeros((0, 4), np.int64), *parts])
        table = table[np.lexsort((table[:, 3], table[:, 2], table[:, 1]))]
        topic, time_ns, block, offset = table.T
        return cls(topic.astype(np.int32), time_ns.copy(), block.astype(np.int32), offset.copy())

    def __len__(self) -> int:
        return len(self.time_ns)


class Piece(NamedTuple):
    """Serialised messages that lie in one piece of memory.

    entry (m,): which of a file's entries they are; start, stop (m,): where in `data`.
    """

    entry: NDArray[np.int64]
    data: bytes
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def joined(cls, entry: NDArray[np.int64], messages: Sequence[bytes]) -> Piece:
        """Of messages that lie apart."""
        stop = np.cumsum([len(message) for message in messages], dtype=np.int64)
        start = np.concatenate([np.zeros(1, np.int64), stop[:-1]]) if len(messages) else stop
        return cls(entry, b"".join(messages), start, stop)

    def chosen(self, which: NDArray[np.bool_]) -> Piece:
        """Some of the messages; `which` (m,)."""
        return Piece(self.entry[which], self.data, self.start[which], self.stop[which])


class Container(Protocol):
    """An open storage file.

    damage: sentences about what of the file is lost; metadata: the text of metadata.yaml that the file itself holds.
    """

    path: Path
    topics: dict[int, StoredTopic]
    entries: Entries
    damage: list[str]
    metadata: str

    def read(self, topic: int, time_ns: int, block: int, offset: int) -> bytes:
        """Return the serialised message of one of the `entries`. Raises Damage, OSError, MemoryError."""

    def pieces(self, entry: NDArray[np.int64]) -> Iterator[Piece]:
        """Yield the serialised messages of many `entry` numbers, in the order of the file.

        Those that `read` raises Damage for are left out. Raises OSError, MemoryError.
        """
        ...

    def close(self) -> None: ...


def byte_rows(data: bytes, at: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    """Copy `length` bytes from each of `at` (m,) on: (m, length). All of them must lie in `data`."""
    if not len(at):
        return np.zeros((0, length), np.uint8)
    everywhere = np.ndarray((len(data) - length + 1,), f"V{length}", data, strides=(1,))
    return everywhere[at].view(np.uint8).reshape(len(at), length)


def read_pieces(container: Container, entry: NDArray[np.int64]) -> Iterator[Piece]:
    """Do what `Container.pieces` says by reading message by message."""
    table = container.entries
    for first in range(0, len(entry), _PIECE):
        found, messages = [], []
        for one in entry[first : first + _PIECE].tolist():
            try:
                place = (column[one] for column in (table.topic, table.time_ns, table.block, table.offset))
                messages.append(container.read(*map(int, place)))
            except Damage:
                continue
            found.append(one)
        yield Piece.joined(np.array(found, np.int64), messages)
