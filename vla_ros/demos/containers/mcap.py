# SPDX-License-Identifier: Apache-2.0
"""MCAP files (https://mcap.dev/spec), whole or cut off anywhere: what lies before the cut is read.

A whole file is indexed from its message index records, without decompressing anything; one without its end, chunk by
chunk. rosbags reads only files that have their footer.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.demos.containers.entries import MAX_TIME_NS, Damage, Entries, Piece, StoredTopic, byte_rows, read_pieces
from vla_ros.demos.containers.inflate import MAX_BYTES, inflate
from vla_ros.demos.containers.mcap_fields import read_map, read_text

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
_STATISTICS, _METADATA, _DATA_END = 0x0B, 0x0C, 0x0F

_RECORD = struct.Struct("<BQ")  # opcode, length of the content
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence number, log time, publish time
_MESSAGE_RECORD = struct.Struct("<BQHIQQ")  # both
_HEAD_COLUMNS = np.dtype(
    [("opcode", "u1"), ("length", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("logged", "<u8"), ("sent", "<u8")]
)
_CHUNK_HEAD = struct.Struct("<QQQI")  # first and last log time, uncompressed size, its crc or 0

_THE_FILE = -1  # the block of messages that lie in no chunk
_KEPT_CHUNKS = 4
_AHEAD_BYTES = 8192
_TOGETHER_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Where a chunk's compressed records lie, `there` of `length` bytes where the file is cut off in them."""

    at: int
    length: int
    there: int
    compression: str
    size: int
    crc: int

    @property
    def plain(self) -> bool:
        """Whether the records lie in the file as they are, all of them."""
        return self.compression == "" and self.there == self.length == self.size


class McapFile:
    """An open MCAP file; see `Container`.

    Raises:
        Damage: it is no MCAP file.
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[int, StoredTopic] = {}
        self.damage: list[str] = []
        self.metadata = ""
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._chunks: list[_Chunk] = []
        self._indices: list[list[tuple[int, bytes]]] = []  # of each chunk: channel, its times and offsets
        self._loose: list[tuple[int, int, int, int]] = []  # messages outside chunks
        self._announced: int | None = None
        self._inflated: collections.OrderedDict[int, bytes | Damage] = collections.OrderedDict()
        self._checked: set[int] = set()  # chunks whose checksum was right when they were read first
        self._ahead = (0, b"")  # what was read last of the records between chunks, which are small, and where it begins
        self._file = path.open("rb", buffering=0)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            if self._bytes(0, len(MAGIC)) != MAGIC:
                raise Damage("it does not begin as an MCAP file")
            whole = self._scan()
            self.entries = self._index(whole)
        except BaseException:
            self._file.close()
            raise
        self._check_count(whole)

    def close(self) -> None:
        self._inflated.clear()
        self._file.close()

    def read(self, topic: int, time_ns: int, block: int, offset: int) -> bytes:
        """Return the serialised message of one of the `entries`. Raises Damage."""
        data, at = (self._record(offset), 0) if block == _THE_FILE else (self._block(block), offset)
        start = at + _MESSAGE_RECORD.size
        if start > len(data):
            raise Damage("its index points beyond its chunk")
        opcode, length, channel, _, logged_ns, _ = _MESSAGE_RECORD.unpack_from(data, at)
        stop = at + _RECORD.size + length
        if opcode != _MESSAGE or channel != topic or logged_ns != time_ns or stop < start:
            raise Damage("its index points to something else")
        if stop > len(data):
            raise Damage("it reaches beyond its chunk")
        return data[start:stop]

    def pieces(self, entry: NDArray[np.int64]) -> Iterator[Piece]:
        """As `Container.pieces`: all messages of a chunk at once, or of several chunks that lie beside each other."""
        entry = entry[np.argsort(self.entries.block[entry], kind="stable")]
        block = self.entries.block[entry]
        yield from read_pieces(self, entry[block == _THE_FILE])
        for chunks in self._neighbours(np.unique(block[block != _THE_FILE]).tolist()):
            data, spans = self._records_of(chunks)
            span_of = np.zeros((chunks[-1] - chunks[0] + 1, 2), np.int64)  # none where the chunk is damaged
            for number, span in spans.items():
                span_of[number - chunks[0]] = span
            chosen = slice(*np.searchsorted(block, [chunks[0], chunks[-1] + 1]))
            start, stop = span_of[block[chosen] - chunks[0]].T
            yield self._found(entry[chosen], data, start, stop)

    def _neighbours(self, numbers: list[int]) -> Iterator[list[int]]:
        """Yield the chunks that are read together: those that are not compressed, up to some size."""
        run: list[int] = []
        for number in numbers:
            chunk = self._chunks[number]
            fits = chunk.plain and (not run or chunk.at + chunk.length - self._chunks[run[0]].at <= _TOGETHER_BYTES)
            if run and not fits:
                yield run
                run = []
            run.append(number)
            if not chunk.plain:
                yield run
                run = []
        if run:
            yield run

    def _records_of(self, chunks: list[int]) -> tuple[bytes, dict[int, tuple[int, int]]]:
        """Return bytes with the records of chunks, and where in them those of each are that is not damaged."""
        first, last = self._chunks[chunks[0]], self._chunks[chunks[-1]]
        if not first.plain:
            try:
                data = self._block(chunks[0])
            except Damage:
                return b"", {}
            return data, {chunks[0]: (0, len(data))}
        data = self._bytes(first.at, last.at + last.length - first.at)
        spans = {}
        for number in chunks:
            chunk = self._chunks[number]
            start, stop = chunk.at - first.at, chunk.at + chunk.length - first.at
            if stop <= len(data) and self._is_right(chunk, memoryview(data)[start:stop]):
                spans[number] = start, stop
        return data, spans

    def _found(
        self, entry: NDArray[np.int64], data: bytes, start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> Piece:  # fmt: skip
        """The messages among entries, whose chunks are data[start:stop], for which `read` would find nothing wrong."""
        at = start + self.entries.offset[entry]
        there = at + _MESSAGE_RECORD.size <= stop
        entry, at, stop = entry[there], at[there], stop[there]
        heads = byte_rows(data, at, _MESSAGE_RECORD.size).view(_HEAD_COLUMNS)[:, 0]
        begin = at + _MESSAGE_RECORD.size
        end = (
            at + _RECORD.size + np.minimum(heads["length"], len(data)).astype(np.int64)
        )  # damaged, it may be any number
        good = (heads["opcode"] == _MESSAGE) & (heads["channel"] == self.entries.topic[entry])
        good &= (heads["logged"] == self.entries.time_ns[entry].astype(np.uint64)) & (begin <= end) & (end <= stop)
        return Piece(entry, data, begin, end).chosen(good)

    def _scan(self) -> bool:
        """Walk over the records of the file, jumping over the chunks' contents; return whether it has its end."""
        at = len(MAGIC)
        while True:
            head = self._bytes(at, _RECORD.size)
            if len(head) < _RECORD.size:
                return self._cut_off(at)
            opcode, length = _RECORD.unpack(head)
            start, stop = at + _RECORD.size, at + _RECORD.size + length
            if opcode == 0:  # what a crash of the whole computer leaves: blocks of zeros
                return self._cut_off(at)
            if stop > self._size:
                if opcode == _CHUNK:
                    with contextlib.suppress(struct.error, ValueError):  # of a damaged head nothing can be used
                        self._add_chunk(start, length)
                return self._cut_off(at)
            try:
                self._take(opcode, at, start, length)
            except (struct.error, ValueError) as error:
                self.damage.append(f"the record at byte {at} is damaged ({error})")
            if opcode == _FOOTER:
                return True
            at = stop

    def _take(self, opcode: int, at: int, start: int, length: int) -> None:
        if opcode == _CHUNK:
            self._add_chunk(start, length)
        elif opcode == _MESSAGE:
            channel, _, time_ns, _ = _MESSAGE_HEAD.unpack(self._bytes(start, _MESSAGE_HEAD.size))
            if time_ns < MAX_TIME_NS:
                self._loose.append((channel, time_ns, _THE_FILE, at))
        elif opcode in (_SCHEMA, _CHANNEL, _MESSAGE_INDEX, _METADATA, _STATISTICS) and length <= MAX_BYTES:
            content = self._bytes(start, length)
            if opcode == _MESSAGE_INDEX:
                self._add_index(content)
            elif opcode == _METADATA:
                self._add_metadata(content)
            elif opcode == _STATISTICS:
                (self._announced,) = struct.unpack_from("<Q", content)
            else:
                self._declare(opcode, content)

    def _cut_off(self, at: int) -> bool:
        self.damage.append(f"it is cut off after {at} of {self._size} bytes")
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
        chunk = self._chunks[number]
        try:
            data = self._block(number)
        except Damage as error:
            if chunk.there == chunk.length:
                self.damage.append(f"the chunk at byte {chunk.at}: {error}")
            return []
        rows = []
        for opcode, at, content in _records(data):
            try:
                if opcode == _MESSAGE:
                    channel, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(data, content)
                    if time_ns < MAX_TIME_NS:
                        rows.append((channel, time_ns, number, at))
                elif opcode in (_SCHEMA, _CHANNEL):
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
        fixed = self._bytes(start, _CHUNK_HEAD.size + 4)
        if len(fixed) < _CHUNK_HEAD.size + 4:
            return
        _, _, size, crc = _CHUNK_HEAD.unpack_from(fixed)
        (name_length,) = struct.unpack_from("<I", fixed, _CHUNK_HEAD.size)
        if name_length > 32:
            raise ValueError(f"the name of its compression has {name_length} bytes")
        rest = self._bytes(start + len(fixed), name_length + 8)
        if len(rest) < name_length + 8:
            return
        compression = rest[:name_length].decode(errors="replace")
        (packed,) = struct.unpack_from("<Q", rest, name_length)
        at = start + len(fixed) + len(rest)
        if at + packed > start + length:
            raise ValueError("its data reaches beyond it")
        self._chunks.append(_Chunk(at, packed, max(0, min(packed, self._size - at)), compression, size, crc))
        self._indices.append([])

    def _add_index(self, content: bytes) -> None:
        """Take the index record of one channel in the newest chunk."""
        channel, length = struct.unpack_from("<HI", content)
        if len(content) != 6 + length or length % 16 or not self._chunks:
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
        if opcode == _SCHEMA:
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

    def _block(self, number: int) -> bytes:
        """Return the records of a chunk; the last few chunks are kept."""
        if number in self._inflated:
            self._inflated.move_to_end(number)
        else:
            self._inflated[number] = self._inflate(self._chunks[number])
            if len(self._inflated) > _KEPT_CHUNKS:
                self._inflated.popitem(last=False)
        found = self._inflated[number]
        if isinstance(found, Damage):
            raise found
        return found

    def _inflate(self, chunk: _Chunk) -> bytes | Damage:
        cut_off = chunk.there < chunk.length
        try:
            if chunk.length > MAX_BYTES:
                raise Damage(f"the chunk at byte {chunk.at} announces {chunk.length} bytes, more than {MAX_BYTES}")
            data = inflate(self._bytes(chunk.at, chunk.there), chunk.compression, chunk.size, cut_off=cut_off)
            if not cut_off and not self._is_right(chunk, data):
                raise Damage(f"the checksum of the chunk at byte {chunk.at} is wrong")
        except Damage as error:
            return error
        return data

    def _is_right(self, chunk: _Chunk, data: bytes | memoryview) -> bool:
        """Whether the records of a chunk have its checksum; looked at once for each."""
        if chunk.crc and chunk.at not in self._checked:
            if zlib.crc32(data) != chunk.crc:
                return False
            self._checked.add(chunk.at)
        return True

    def _record(self, at: int) -> bytes:
        """Return one record of the file, with its head."""
        head = self._bytes(at, _RECORD.size)
        length = _RECORD.unpack(head)[1] if len(head) == _RECORD.size else 0
        if length > MAX_BYTES:
            raise Damage(f"it announces {length} bytes, more than {MAX_BYTES}")
        return self._bytes(at, _RECORD.size + length)

    def _bytes(self, at: int, length: int) -> bytes:
        if length > _AHEAD_BYTES:
            return os.pread(self._file.fileno(), length, at)
        begin, ahead = self._ahead
        if not begin <= at <= at + length <= begin + len(ahead):
            begin, ahead = self._ahead = at, os.pread(self._file.fileno(), _AHEAD_BYTES, at)
        return ahead[at - begin : at - begin + length]


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, where the record begins, where its content begins) of the whole records in a chunk."""
    at = 0
    while at + _RECORD.size <= len(data):
        opcode, length = _RECORD.unpack_from(data, at)
        content = at + _RECORD.size
        if opcode == 0 or content + length > len(data):
            return
        yield opcode, at, content
        at = content + length
