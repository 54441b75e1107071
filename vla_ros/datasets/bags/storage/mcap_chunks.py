# SPDX-License-Identifier: Apache-2.0
"""The bytes of an MCAP file, and the records in its chunks, decompressed and verified against their checksums.

The last few chunks are cached, and so are a few bytes ahead of each read: most access follows the file's order.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from vla_ros.datasets.bags.storage.container import MAX_BYTES, Damage, inflate

RECORD = struct.Struct("<BQ")  # opcode, length of the content
_KEPT_CHUNKS = 4
_AHEAD_BYTES = 8192
_TOGETHER_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Where a chunk's compressed records lie; fewer bytes are `available` than its `length` if the file is cut off."""

    at: int
    length: int
    available: int
    compression: str
    size: int
    crc: int

    @property
    def plain(self) -> bool:
        """Whether all records lie in the file uncompressed."""
        return self.compression == "" and self.available == self.length == self.size


class ChunkedFile:
    """An open file of `size` bytes; whoever finds a chunk in it adds it to `chunks`.

    Raises:
        OSError: It can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.chunks: list[Chunk] = []
        self._inflated: collections.OrderedDict[int, bytes | Damage] = collections.OrderedDict()
        self._verified: set[int] = set()  # chunks whose checksum was right
        self._ahead = (0, b"")  # the last bytes read between chunks, where records are small, and where they begin
        self._file = path.open("rb", buffering=0)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._inflated.clear()
        self._file.close()

    def bytes_at(self, at: int, length: int) -> bytes:
        """Return bytes of the file, fewer at its end. Raises OSError."""
        if length > _AHEAD_BYTES:
            return os.pread(self._file.fileno(), length, at)
        begin, ahead = self._ahead
        if not begin <= at <= at + length <= begin + len(ahead):
            begin, ahead = self._ahead = at, os.pread(self._file.fileno(), _AHEAD_BYTES, at)
        return ahead[at - begin : at - begin + length]

    def record(self, at: int) -> bytes:
        """Return one record of the file, with its head. Raises Damage, OSError."""
        head = self.bytes_at(at, RECORD.size)
        length = RECORD.unpack(head)[1] if len(head) == RECORD.size else 0
        if length > MAX_BYTES:
            raise Damage(f"it announces {length} bytes, more than the limit of {MAX_BYTES}")
        return self.bytes_at(at, RECORD.size + length)

    def block(self, number: int) -> bytes:
        """Return the records of a chunk. Raises Damage, OSError."""
        if number in self._inflated:
            self._inflated.move_to_end(number)
        else:
            self._inflated[number] = self._inflate(self.chunks[number])
            if len(self._inflated) > _KEPT_CHUNKS:
                self._inflated.popitem(last=False)
        found = self._inflated[number]
        if isinstance(found, Damage):
            raise found
        return found

    def neighbours(self, numbers: list[int]) -> Iterator[list[int]]:
        """Group chunks for `records_of`: plain ones together up to some size, all others alone."""
        run: list[int] = []
        for number in numbers:
            chunk = self.chunks[number]
            fits = chunk.plain and (not run or chunk.at + chunk.length - self.chunks[run[0]].at <= _TOGETHER_BYTES)
            if run and not fits:
                yield run
                run = []
            run.append(number)
            if not chunk.plain:
                yield run
                run = []
        if run:
            yield run

    def records_of(self, chunks: list[int]) -> tuple[bytes, dict[int, tuple[int, int]]]:
        """Return a buffer with the records of `neighbours`, and the span of each undamaged chunk in it."""
        first, last = self.chunks[chunks[0]], self.chunks[chunks[-1]]
        if not first.plain:
            try:
                data = self.block(chunks[0])
            except Damage:
                return b"", {}
            return data, {chunks[0]: (0, len(data))}
        data = self.bytes_at(first.at, last.at + last.length - first.at)
        spans = {}
        for number in chunks:
            chunk = self.chunks[number]
            start, stop = chunk.at - first.at, chunk.at + chunk.length - first.at
            if stop <= len(data) and self._verify(chunk, memoryview(data)[start:stop]):
                spans[number] = start, stop
        return data, spans

    def _inflate(self, chunk: Chunk) -> bytes | Damage:
        cut_off = chunk.available < chunk.length
        try:
            if chunk.length > MAX_BYTES:
                raise Damage(f"the chunk at byte {chunk.at} announces {chunk.length} bytes; the limit is {MAX_BYTES}")
            data = inflate(self.bytes_at(chunk.at, chunk.available), chunk.compression, chunk.size, cut_off=cut_off)
            if not cut_off and not self._verify(chunk, data):
                raise Damage(f"the checksum of the chunk at byte {chunk.at} is wrong")
        except Damage as error:
            return error
        return data

    def _verify(self, chunk: Chunk, data: bytes | memoryview) -> bool:
        """Compare the records of a chunk with its checksum, once per chunk."""
        if chunk.crc and chunk.at not in self._verified:
            if zlib.crc32(data) != chunk.crc:
                return False
            self._verified.add(chunk.at)
        return True
