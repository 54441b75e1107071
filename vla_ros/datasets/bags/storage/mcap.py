# SPDX-License-Identifier: Apache-2.0
"""MCAP files (https://mcap.dev/spec), complete or cut off anywhere: everything before the cut is read.

rosbags reads only files that have their footer. A complete file is indexed from its message index records, without
decompressing anything; one that is cut off, chunk by chunk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.storage.container import (
    MAX_BYTES,
    MAX_TIME_NS,
    Damage,
    MessageBatch,
    MessageIndex,
    StoredTopic,
    byte_rows,
    read_batches,
)
from vla_ros.datasets.bags.storage.mcap_chunks import RECORD, Chunk, ChunkedFile

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
STATISTICS, METADATA, DATA_END = 0x0B, 0x0C, 0x0F

_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence number, log time, publish time
_MESSAGE_RECORD = struct.Struct("<BQHIQQ")  # RECORD and _MESSAGE_HEAD
_HEAD_COLUMNS = np.dtype(
    [("opcode", "u1"), ("length", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("logged", "<u8"), ("sent", "<u8")]
)
# First and last log time, uncompressed size, its crc or 0, length of the compression's name.
_CHUNK_HEAD = struct.Struct("<QQQII")
_THE_FILE = -1  # the block of messages outside any chunk


class McapFile:
    """An open MCAP file; see `StorageFile`.

    Raises:
        Damage: It is not an MCAP file.
        OSError: It can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[int, StoredTopic] = {}
        self.damage: list[str] = []
        self.metadata = ""
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._chunk_indices: list[list[tuple[int, bytes]]] = []  # per chunk: channel, its times and offsets
        self._loose: list[tuple[int, int, int, int]] = []  # messages outside chunks
        self._announced: int | None = None
        self._file = ChunkedFile(path)
        try:
            if self._file.bytes_at(0, len(MAGIC)) != MAGIC:
                raise Damage("it does not begin like an MCAP file")
            complete = self._scan()
            self.index = self._index(complete)
        except BaseException:
            self._file.close()
            raise
        if complete and self._announced is not None and self._announced != len(self.index):
            self.damage.append(f"its statistics count {self._announced} messages, but it has {len(self.index)}")

    def close(self) -> None:
        self._file.close()

    def read(self, topic: int, time_ns: int, block: int, offset: int) -> bytes:
        """Return the serialized message of a row of the index. Raises Damage."""
        data, at = (self._file.record(offset), 0) if block == _THE_FILE else (self._file.block(block), offset)
        start = at + _MESSAGE_RECORD.size
        if start > len(data):
            raise Damage("its index points beyond its chunk")
        opcode, length, channel, _, logged_ns, _ = _MESSAGE_RECORD.unpack_from(data, at)
        stop = at + RECORD.size + length
        if opcode != MESSAGE or channel != topic or logged_ns != time_ns or stop < start:
            raise Damage("its index points to something else")
        if stop > len(data):
            raise Damage("it extends beyond its chunk")
        return data[start:stop]

    def batches(self, entry: NDArray[np.int64]) -> Iterator[MessageBatch]:
        """Yield all messages of a chunk, or of several adjacent chunks, at once; see `StorageFile.batches`."""
        entry = entry[np.argsort(self.index.block[entry], kind="stable")]
        block = self.index.block[entry]
        yield from read_batches(self, entry[block == _THE_FILE])
        for chunks in self._file.neighbours(np.unique(block[block != _THE_FILE]).tolist()):
            data, spans = self._file.records_of(chunks)
            span_of = np.zeros((chunks[-1] - chunks[0] + 1, 2), np.int64)  # empty for damaged chunks
            for number, span in spans.items():
                span_of[number - chunks[0]] = span
            selected = slice(*np.searchsorted(block, [chunks[0], chunks[-1] + 1]))
            start, stop = span_of[block[selected] - chunks[0]].T
            yield self._valid(entry[selected], data, start, stop)

    def _valid(
        self, entry: NDArray[np.int64], data: bytes, start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> MessageBatch:
        """Return the messages, in chunks at data[start:stop], in which `read` would find nothing wrong."""
        at = start + self.index.offset[entry]
        complete = at + _MESSAGE_RECORD.size <= stop
        entry, at, stop = entry[complete], at[complete], stop[complete]
        heads = byte_rows(data, at, _MESSAGE_RECORD.size).view(_HEAD_COLUMNS)[:, 0]
        begin = at + _MESSAGE_RECORD.size
        length = np.minimum(heads["length"], len(data)).astype(np.int64)  # if damaged, it may be any number
        end = at + RECORD.size + length
        good = (heads["opcode"] == MESSAGE) & (heads["channel"] == self.index.topic[entry])
        good &= (heads["logged"] == self.index.time_ns[entry].astype(np.uint64)) & (begin <= end) & (end <= stop)
        return MessageBatch(entry, data, begin, end).select(good)

    def _scan(self) -> bool:
        """Walk over the file's records, skipping the chunks' contents; return whether the file has its footer."""
        at = len(MAGIC)
        while True:
            head = self._file.bytes_at(at, RECORD.size)
            # A crash of the whole computer leaves blocks of zeros.
            opcode, length = RECORD.unpack(head) if len(head) == RECORD.size else (0, 0)
            start, stop = at + RECORD.size, at + RECORD.size + length
            if opcode == 0 or stop > self._file.size:
                if opcode == CHUNK:
                    with contextlib.suppress(struct.error, ValueError):  # a damaged head makes the chunk useless
                        self._add_chunk(start, length)
                self.damage.append(f"it is cut off after {at} of {self._file.size} bytes")
                return False
            try:
                self._take(opcode, at, start, length)
            except (struct.error, ValueError) as error:
                self.damage.append(f"the record at byte {at} is damaged ({error})")
            if opcode == FOOTER:
                return True
            at = stop

    def _take(self, opcode: int, at: int, start: int, length: int) -> None:
        if opcode == CHUNK:
            self._add_chunk(start, length)
        elif opcode == MESSAGE:
            channel, _, time_ns, _ = _MESSAGE_HEAD.unpack(self._file.bytes_at(start, _MESSAGE_HEAD.size))
            if time_ns < MAX_TIME_NS:
                self._loose.append((channel, time_ns, _THE_FILE, at))
        elif opcode in (SCHEMA, CHANNEL, MESSAGE_INDEX, METADATA, STATISTICS) and length <= MAX_BYTES:
            content = self._file.bytes_at(start, length)
            if opcode == MESSAGE_INDEX:  # of one channel in the latest chunk
                channel, size = struct.unpack_from("<HI", content)
                if len(content) != 6 + size or size % 16 or not self._chunk_indices:
                    raise ValueError("a message index has the wrong length, or no chunk")
                self._chunk_indices[-1].append((channel, content[6:]))
            elif opcode == METADATA:
                name, values_at = _read_text(content, 0)
                if name == "rosbag2":
                    self.metadata = _read_map(content, values_at).get("serialized_metadata", self.metadata)
            elif opcode == STATISTICS:
                (self._announced,) = struct.unpack_from("<Q", content)
            else:
                self._declare(opcode, content)

    def _index(self, complete: bool) -> MessageIndex:
        """Index all messages from the index records if they can be trusted, else by walking through the chunks."""
        parts = [np.array(self._loose, np.int64).reshape(-1, 4)]
        known = {channel for index in self._chunk_indices for channel, pairs in index if pairs} <= self.topics.keys()
        indexed = [number for number, index in enumerate(self._chunk_indices) if complete and known and index]
        walked = [self._walked(number) for number in sorted(set(range(len(self._chunk_indices))) - {*indexed})]
        index = MessageIndex.sort([*parts, self._indexed(indexed), *walked])
        undeclared = ~np.isin(index.topic, list(self.topics))
        if undeclared.any():
            self.damage.append(f"{undeclared.sum()} messages belong to topics that it does not declare")
            index = MessageIndex(*(column[~undeclared] for column in dataclasses.astuple(index)))
        return index

    def _indexed(self, numbers: list[int]) -> NDArray[np.int64]:
        """Return the messages (m, 4) in the index records of some chunks."""
        records = [(channel, number, pairs) for number in numbers for channel, pairs in self._chunk_indices[number]]
        sizes = [(channel, number, len(pairs) // 16) for channel, number, pairs in records]
        channel, number, length = np.array(sizes, np.int64).reshape(-1, 3).T
        pairs = np.frombuffer(b"".join(pairs for *_, pairs in records), "<u8").reshape(-1, 2)
        usable = np.flatnonzero((pairs < MAX_TIME_NS).all(axis=1))
        time_ns, offset = pairs[usable].astype(np.int64).T
        return np.stack([channel.repeat(length)[usable], time_ns, number.repeat(length)[usable], offset], axis=1)

    def _walked(self, number: int) -> NDArray[np.int64]:
        """Return the messages (m, 4) found in a chunk's contents, up to where it is damaged."""
        chunk = self._file.chunks[number]
        rows: list[tuple[int, int, int, int]] = []
        try:
            data = self._file.block(number)
        except Damage as error:
            if chunk.available == chunk.length:
                self.damage.append(f"the chunk at byte {chunk.at}: {error}")
            data = b""
        for opcode, at, content in _records(data):
            try:
                if opcode == MESSAGE:
                    channel, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(data, content)
                    if time_ns < MAX_TIME_NS:
                        rows.append((channel, time_ns, number, at))
                elif opcode in (SCHEMA, CHANNEL):
                    (length,) = struct.unpack_from("<Q", data, at + 1)
                    self._declare(opcode, data[content : content + length])
            except (struct.error, ValueError) as error:
                self.damage.append(f"a record in the chunk at byte {chunk.at} is damaged ({error})")
        return np.array(rows, np.int64).reshape(-1, 4)

    def _add_chunk(self, start: int, length: int) -> None:
        """Add a chunk whose content of `length` bytes begins at `start`."""
        fixed = self._file.bytes_at(start, _CHUNK_HEAD.size)
        if len(fixed) < _CHUNK_HEAD.size:
            return
        _, _, size, crc, name_length = _CHUNK_HEAD.unpack(fixed)
        if name_length > 32:
            raise ValueError(f"the name of its compression has {name_length} bytes")
        rest = self._file.bytes_at(start + len(fixed), name_length + 8)
        if len(rest) < name_length + 8:
            return
        compression = rest[:name_length].decode(errors="replace")
        (packed,) = struct.unpack_from("<Q", rest, name_length)
        at = start + len(fixed) + len(rest)
        if at + packed > start + length:
            raise ValueError("its data extends beyond it")
        available = max(0, min(packed, self._file.size - at))
        self._file.chunks.append(Chunk(at, packed, available, compression, size, crc))
        self._chunk_indices.append([])

    def _declare(self, opcode: int, content: bytes) -> None:
        """Add a schema or a channel; both come in chunks and again at the end of the file."""
        (number,) = struct.unpack_from("<H", content)
        if opcode == SCHEMA:
            name, at = _read_text(content, 2)
            encoding, at = _read_text(content, at)
            self._schemas[number] = (name, encoding, _read_text(content, at)[0])
            return
        (schema,) = struct.unpack_from("<H", content, 2)
        topic, at = _read_text(content, 4)
        encoding, at = _read_text(content, at)
        kind, definition_format, definition = self._schemas.get(schema, ("", "", ""))
        qos = _read_map(content, at).get("offered_qos_profiles", "")
        self.topics[number] = StoredTopic(topic, kind, encoding, definition_format, definition, qos)


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, where the record begins, where its content begins) of the complete records in a chunk."""
    at = 0
    while at + RECORD.size <= len(data):
        opcode, length = RECORD.unpack_from(data, at)
        content = at + RECORD.size
        if opcode == 0 or content + length > len(data):
            return
        yield opcode, at, content
        at = content + length


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    """Read a length-prefixed string; return it and where the next value begins. Raises struct.error, ValueError."""
    (length,) = struct.unpack_from("<I", data, at)
    stop = at + 4 + length
    if stop > len(data):
        raise ValueError("a text extends beyond its record")
    return data[at + 4 : stop].decode(errors="replace"), stop


def _read_map(data: bytes, at: int) -> dict[str, str]:
    """Read a map of strings, prefixed by its length in bytes. Raises struct.error, ValueError."""
    (length,) = struct.unpack_from("<I", data, at)
    at, stop = at + 4, min(at + 4 + length, len(data))
    values = {}
    while at < stop:
        key, at = _read_text(data, at)
        values[key], at = _read_text(data, at)
    return values
