# SPDX-License-Identifier: Apache-2.0
"""MCAP files (https://mcap.dev/spec), whole or cut off anywhere: what lies before the cut is read.

rosbags reads only files that have their footer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.storage.entries import Damage, Piece, byte_rows, read_pieces
from vla_ros.datasets.bags.storage.mcap_chunks import ChunkedFile
from vla_ros.datasets.bags.storage.mcap_fields import HEAD_COLUMNS, MESSAGE, MESSAGE_RECORD, RECORD
from vla_ros.datasets.bags.storage.mcap_index import THE_FILE, McapIndex


class McapFile:
    """An open MCAP file; see `Container`.

    Raises:
        Damage: it is no MCAP file.
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ChunkedFile(path)
        try:
            index = McapIndex(self._file)
        except BaseException:
            self._file.close()
            raise
        self.topics, self.entries = index.topics, index.entries
        self.damage, self.metadata = index.damage, index.metadata

    def close(self) -> None:
        self._file.close()

    def read(self, topic: int, time_ns: int, block: int, offset: int) -> bytes:
        """Return the serialised message of one of the `entries`. Raises Damage."""
        data, at = (self._file.record(offset), 0) if block == THE_FILE else (self._file.block(block), offset)
        start = at + MESSAGE_RECORD.size
        if start > len(data):
            raise Damage("its index points beyond its chunk")
        opcode, length, channel, _, logged_ns, _ = MESSAGE_RECORD.unpack_from(data, at)
        stop = at + RECORD.size + length
        if opcode != MESSAGE or channel != topic or logged_ns != time_ns or stop < start:
            raise Damage("its index points to something else")
        if stop > len(data):
            raise Damage("it reaches beyond its chunk")
        return data[start:stop]

    def pieces(self, entry: NDArray[np.int64]) -> Iterator[Piece]:
        """As `Container.pieces`: all messages of a chunk at once, or of several chunks that lie beside each other."""
        entry = entry[np.argsort(self.entries.block[entry], kind="stable")]
        block = self.entries.block[entry]
        yield from read_pieces(self, entry[block == THE_FILE])
        for chunks in self._file.neighbours(np.unique(block[block != THE_FILE]).tolist()):
            data, spans = self._file.records_of(chunks)
            span_of = np.zeros((chunks[-1] - chunks[0] + 1, 2), np.int64)  # none where the chunk is damaged
            for number, span in spans.items():
                span_of[number - chunks[0]] = span
            chosen = slice(*np.searchsorted(block, [chunks[0], chunks[-1] + 1]))
            start, stop = span_of[block[chosen] - chunks[0]].T
            yield self._found(entry[chosen], data, start, stop)

    def _found(
        self, entry: NDArray[np.int64], data: bytes, start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> Piece:  # fmt: skip
        """The messages among entries, whose chunks are data[start:stop], for which `read` would find nothing wrong."""
        at = start + self.entries.offset[entry]
        there = at + MESSAGE_RECORD.size <= stop
        entry, at, stop = entry[there], at[there], stop[there]
        heads = byte_rows(data, at, MESSAGE_RECORD.size).view(HEAD_COLUMNS)[:, 0]
        begin = at + MESSAGE_RECORD.size
        length = np.minimum(heads["length"], len(data)).astype(np.int64)  # damaged, it may be any number
        end = at + RECORD.size + length
        good = (heads["opcode"] == MESSAGE) & (heads["channel"] == self.entries.topic[entry])
        good &= (heads["logged"] == self.entries.time_ns[entry].astype(np.uint64)) & (begin <= end) & (end <= stop)
        return Piece(entry, data, begin, end).chosen(good)
