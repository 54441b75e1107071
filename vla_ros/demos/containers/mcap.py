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


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Where a chunk's compressed records lie, `there` of `length` bytes where the file is cut off in them."""

    at: int
    length: int
    there: int
    compression: str
    size: int
    crc: int


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
        self._indices: list[list[NDArray[np.int64]]] = []  # of each chunk, tables (m, 4) as Entries.sort takes them
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
        """As `Container.pieces`: chunk by chunk, all of a chunk's messages at once."""
        block = self.entries.block[entry]
        by_block = np.argsort(block, kind="stable")
        cuts = np.flatnonzero(np.diff(block[by_block])) + 1
        for chosen in np.split(entry[by_block], cuts) if len(entry) else ():
            number = int(self.entries.block[chosen[0]])
            if number == _THE_FILE:
                yield from read_pieces(self, chosen)
                continue
            try:
                data = self._block(number)
            except Damage:
                continue
            yield self._found(chosen, data)

    def _found(self, entry: NDArray[np.int64], data: bytes) -> Piece:
        """The messages among entries of one chunk, given its records, for which `read` would find nothing wrong."""
        at = self.entries.offset[entry]
        there = at + _MESSAGE_RECORD.size <= len(data)
        entry, at = entry[there], at[there]
        heads = byte_rows(data, at, _MESSAGE_RECORD.size).view(_HEAD_COLUMNS)[:, 0]
        start = at + _MESSAGE_RECORD.size
        length = np.minimum(heads["length"], len(data)).astype(np.int64)  # a damaged one may be any number
        stop = at + _RECORD.size + length
        good = (heads["opcode"] == _MESSAGE) & (heads["channel"] == self.entries.topic[entry])
        good &= (heads["logged"] == self.entries.time_ns[entry].astype(np.uint64)) & (stop >= start)
        return Piece(entry, data, start, stop).chosen(good & (stop <= len(data)))

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
        channels = {int(table[0, 0]) for index in self._indices for table in index if len(table)}
        known = channels <= self.topics.keys()
        for number, index in enumerate(self._indices):
            parts += index if whole and known and index else self._walked(number)
        entries = Entries.sort(parts)
        undeclared = ~np.isin(entries.topic, list(self.topics))
        if undeclared.any():
            self.damage.append(f"{undeclared.sum()} messages are of topics that it does not declare")
            entries = Entries(*(column[~undeclared] for column in dataclasses.astuple(entries)))
        return entries

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
        pairs = np.frombuffer(content, "<u8", offset=6).reshape(-1, 2)
        pairs = pairs[(pairs < MAX_TIME_NS).all(axis=1)].astype(np.int64)
        table = np.empty((len(pairs), 4), np.int64)
        table[:, 0], table[:, 1], table[:, 2], table[:, 3] = channel, pairs[:, 0], len(self._chunks) - 1, pairs[:, 1]
        self._indices[-1].append(table)

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
            if chunk.crc and not cut_off and chunk.at not in self._checked:
                if zlib.crc32(data) != chunk.crc:
                    raise Damage(f"the checksum of the chunk at byte {chunk.at} is wrong")
                self._checked.add(chunk.at)
        except Damage as error:
            return error
        return data

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
