# SPDX-License-Identifier: Apache-2.0
"""What an MCAP file has and where: its topics and messages, up to where it is cut off.

A whole file is indexed from its message index records, without decompressing anything; one without its end, chunk by
chunk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.storage.entries import MAX_TIME_NS, Damage, Entries, StoredTopic
from vla_ros.datasets.bags.storage.inflate import MAX_BYTES
from vla_ros.datasets.bags.storage.mcap_chunks import Chunk, ChunkedFile
from vla_ros.datasets.bags.storage.mcap_fields import (
    CHANNEL,
    CHUNK,
    CHUNK_HEAD,
    FOOTER,
    MAGIC,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    METADATA,
    RECORD,
    SCHEMA,
    STATISTICS,
    read_map,
    read_text,
)

THE_FILE = -1  # the block of messages that lie in no chunk


class McapIndex:
    """The topics, entries, damage and metadata of an MCAP file, as `Container` has them. Chunks are added to `file`.

    Raises:
        Damage: it is no MCAP file.
        OSError: it can't be read.
    """

    def __init__(self, file: ChunkedFile) -> None:
        self.topics: dict[int, StoredTopic] = {}
        self.damage: list[str] = []
        self.metadata = ""
        self._file = file
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._indices: list[list[tuple[int, bytes]]] = []  # of each chunk: channel, its times and offsets
        self._loose: list[tuple[int, int, int, int]] = []  # messages outside chunks
        self._announced: int | None = None
        if file.bytes_at(0, len(MAGIC)) != MAGIC:
            raise Damage("it does not begin as an MCAP file")
        whole = self._scan()
        self.entries = self._index(whole)
        self._check_count(whole)

    def _scan(self) -> bool:
        """Walk over the records of the file, jumping over the chunks' contents; return whether it has its end."""
        at = len(MAGIC)
        while True:
            head = self._file.bytes_at(at, RECORD.size)
            if len(head) < RECORD.size:
                return self._cut_off(at)
            opcode, length = RECORD.unpack(head)
            start, stop = at + RECORD.size, at + RECORD.size + length
            if opcode == 0:  # what a crash of the whole computer leaves: blocks of zeros
                return self._cut_off(at)
            if stop > self._file.size:
                if opcode == CHUNK:
                    with contextlib.suppress(struct.error, ValueError):  # of a damaged head nothing can be used
                        self._add_chunk(start, length)
                return self._cut_off(at)
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
            channel, _, time_ns, _ = MESSAGE_HEAD.unpack(self._file.bytes_at(start, MESSAGE_HEAD.size))
            if time_ns < MAX_TIME_NS:
                self._loose.append((channel, time_ns, THE_FILE, at))
        elif opcode in (SCHEMA, CHANNEL, MESSAGE_INDEX, METADATA, STATISTICS) and length <= MAX_BYTES:
            content = self._file.bytes_at(start, length)
            if opcode == MESSAGE_INDEX:
                self._add_index(content)
            elif opcode == METADATA:
                self._add_metadata(content)
            elif opcode == STATISTICS:
                (self._announced,) = struct.unpack_from("<Q", content)
            else:
                self._declare(opcode, content)

    def _cut_off(self, at: int) -> bool:
        self.damage.append(f"it is cut off after {at} of {self._file.size} bytes")
        return False

    def _index(self, whole: bool) -> Entries:
        """Index all messages, by the index records where they can be trusted, else by walking through the chunks."""
        parts = [np.array(self._loose, np.int64).reshape(-1, 4)]
        known = {channel for index in self._indices for channel, pairs in index if pairs} <= self.topics.keys()
        indexed = [number for number, index in enumerate(self._indices) if whole and known and index]
        parts.append(self._indexed(indexed))
        for number in sorted(set(range(len(self._indices))) - {*indexed}):
            parts += self._walked(number)
        entries = Entries.sort(parts)
        undeclared = ~np.isin(entries.topic, list(self.topics))
        if undeclared.any():
            self.damage.append(f"{undeclared.sum()} messages are of topics that it does not declare")
            entries = Entries(*(column[~undeclared] for column in dataclasses.astuple(entries)))
        return entries

    def _indexed(self, numbers: list[int]) -> NDArray[np.int64]:
        """The messages in the index records of chunks."""
        records = [(channel, number, pairs) for number in numbers for channel, pairs in self._indices[number]]
        channel, number, length = np.array(
            [(channel, number, len(pairs) // 16) for channel, number, pairs in records], np.int64
        ).reshape(-1, 3).T  # fmt: skip
        pairs = np.frombuffer(b"".join(pairs for *_, pairs in records), "<u8").reshape(-1, 2)
        usable = np.flatnonzero((pairs < MAX_TIME_NS).all(axis=1))
        time_ns, offset = pairs[usable].astype(np.int64).T
        return np.stack([channel.repeat(length)[usable], time_ns, number.repeat(length)[usable], offset], axis=1)

    def _walked(self, number: int) -> list[NDArray[np.int64]]:
        """Find the messages of a chunk in its contents, up to where it is damaged."""
        chunk = self._file.chunks[number]
        try:
            data = self._file.block(number)
        except Damage as error:
            if chunk.there == chunk.length:
                self.damage.append(f"the chunk at byte {chunk.at}: {error}")
            return []
        rows = []
        for opcode, at, content in _records(data):
            try:
                if opcode == MESSAGE:
                    channel, _, time_ns, _ = MESSAGE_HEAD.unpack_from(data, content)
                    if time_ns < MAX_TIME_NS:
                        rows.append((channel, time_ns, number, at))
                elif opcode in (SCHEMA, CHANNEL):
                    (length,) = struct.unpack_from("<Q", data, at + 1)
                    self._declare(opcode, data[content : content + length])
            except (struct.error, ValueError) as error:
                self.damage.append(f"a record in the chunk at byte {chunk.at} is damaged ({error})")
        return [np.array(rows, np.int64).reshape(-1, 4)]

    def _check_count(self, whole: bool) -> None:
        if whole and self._announced is not None and self._announced != len(self.entries):
            self.damage.append(f"its statistics count {self._announced} messages, it has {len(self.entries)}")

    def _add_chunk(self, start: int, length: int) -> None:
        """Note a chunk whose content of `length` bytes begins at `start`."""
        fixed = self._file.bytes_at(start, CHUNK_HEAD.size + 4)
        if len(fixed) < CHUNK_HEAD.size + 4:
            return
        _, _, size, crc = CHUNK_HEAD.unpack_from(fixed)
        (name_length,) = struct.unpack_from("<I", fixed, CHUNK_HEAD.size)
        if name_length > 32:
            raise ValueError(f"the name of its compression has {name_length} bytes")
        rest = self._file.bytes_at(start + len(fixed), name_length + 8)
        if len(rest) < name_length + 8:
            return
        compression = rest[:name_length].decode(errors="replace")
        (packed,) = struct.unpack_from("<Q", rest, name_length)
        at = start + len(fixed) + len(rest)
        if at + packed > start + length:
            raise ValueError("its data reaches beyond it")
        self._file.chunks.append(Chunk(at, packed, max(0, min(packed, self._file.size - at)), compression, size, crc))
        self._indices.append([])

    def _add_index(self, content: bytes) -> None:
        """Take the index record of one channel in the newest chunk."""
        channel, length = struct.unpack_from("<HI", content)
        if len(content) != 6 + length or length % 16 or not self._file.chunks:
            raise ValueError("a message index of a wrong length, or of no chunk")
        self._indices[-1].append((channel, content[6:]))

    def _add_metadata(self, content: bytes) -> None:
        name, at = read_text(content, 0)
        values = read_map(content, at)
        if name == "rosbag2":
            self.metadata = values.get("serialized_metadata", self.metadata)

    def _declare(self, opcode: int, content: bytes) -> None:
        """Take a schema or a channel; both come in chunks and again at the end of the file."""
        (number,) = struct.unpack_from("<H", content)
        if opcode == SCHEMA:
            name, at = read_text(content, 2)
            encoding, at = read_text(content, at)
            self._schemas[number] = (name, encoding, read_text(content, at)[0])
            return
        (schema,) = struct.unpack_from("<H", content, 2)
        topic, at = read_text(content, 4)
        encoding, at = read_text(content, at)
        kind, definition_format, definition = self._schemas.get(schema, ("", "", ""))
        qos = read_map(content, at).get("offered_qos_profiles", "")
        self.topics[number] = StoredTopic(topic, kind, encoding, definition_format, definition, qos)


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, where the record begins, where its content begins) of the whole records in a chunk."""
    at = 0
    while at + RECORD.size <= len(data):
        opcode, length = RECORD.unpack_from(data, at)
        content = at + RECORD.size
        if opcode == 0 or content + length > len(data):
            return
        yield opcode, at, content
        at = content + length
