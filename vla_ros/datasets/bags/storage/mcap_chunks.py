# SPDX-License-Identifier: Apache-2.0
"""The bytes of an MCAP file, and the records in its chunks: decompressed, and held against their checksums.

The last few chunks are kept, and so are a few bytes ahead of what was read: most is asked for in the file's order.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from vla_ros.datasets.bags.storage.entries import Damage
from vla_ros.datasets.bags.storage.inflate import MAX_BYTES, inflate
from vla_ros.datasets.bags.storage.mcap_fields import RECORD

_KEPT_CHUNKS = 4
_AHEAD_BYTES = 8192
_TOGETHER_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Chunk:
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


class ChunkedFile:
    """An open file; whoever finds a chunk in it adds it to its `chunks`. size: of the file, in bytes.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.chunks: list[Chunk] = []
        self._inflated: collections.OrderedDict[int, bytes | Damage] = collections.OrderedDict()
        self._checked: set[int] = set()  # chunks whose checksum was right when they were read first
        self._ahead = (0, b"")  # what was read last of the records between chunks, which are small, and where it begins
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
        """Return bytes of the file, fewer where it ends. Raises OSError."""
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
            raise Damage(f"it announces {length} bytes, more than {MAX_BYTES}")
        return self.bytes_at(at, RECORD.size + length)

    def block(self, number: int) -> bytes:
        """Return the records of a chunk, by its number. Raises Damage, OSError."""
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
        """Yield the chunks, given by their numbers, that `records_of` reads together: plain ones, up to some size."""
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
        """Return bytes with the records of `neighbours`, and where in them those of each are that is not damaged."""
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
            if stop <= len(data) and self._is_right(chunk, memoryview(data)[start:stop]):
                spans[number] = start, stop
        return data, spans

    def _inflate(self, chunk: Chunk) -> bytes | Damage:
        cut_off = chunk.there < chunk.length
        try:
            if chunk.length > MAX_BYTES:
                raise Damage(f"the chunk at byte {chunk.at} announces {chunk.length} bytes, more than {MAX_BYTES}")
            data = inflate(self.bytes_at(chunk.at, chunk.there), chunk.compression, chunk.size, cut_off=cut_off)
            if not cut_off and not self._is_right(chunk, data):
                raise Damage(f"the checksum of the chunk at byte {chunk.at} is wrong")
        except Damage as error:
            return error
        return data

    def _is_right(self, chunk: Chunk, data: bytes | memoryview) -> bool:
        """Whether the records of a chunk have its checksum; looked at once for each."""
        if chunk.crc and chunk.at not in self._checked:
            if zlib.crc32(data) != chunk.crc:
                return False
            self._checked.add(chunk.at)
        return True
