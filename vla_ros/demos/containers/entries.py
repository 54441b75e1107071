# SPDX-License-Identifier: Apache-2.0
"""What every storage file gives: its topics, an index of its messages, and the bytes of one message."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Receive times beyond the year 2116 are damage; below, sums of times and durations fit in 64 bits.
MAX_TIME_NS = 1 << 62


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

    def close(self) -> None: ...
