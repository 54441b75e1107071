# SPDX-License-Identifier: Apache-2.0
"""What every storage file provides: its topics, an index of its messages, and their bytes, decompressed.

`Damage` always means bad data. A full disk or memory says nothing about the data and is passed on as it is.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import BagError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Receive times after the year 2116 are damage; below, sums of times and durations fit into 64 bits.
MAX_TIME_NS = 1 << 62
# The largest message or chunk that is believed; a damaged length field may claim anything.
MAX_BYTES = 1 << 30
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BATCH_MESSAGES = 256
_INFLATE_BYTES = 1 << 20


class Damage(Exception):
    """A message can't be read; the text says why. It costs that message, not the file."""


@dataclasses.dataclass(frozen=True)
class StoredTopic:
    """A topic as a file declares it."""

    name: str
    type: str
    encoding: str  # how messages are serialized: "cdr"
    definition_format: str  # "ros2msg", "ros2idl", or "" for none
    definition: str  # of the type
    offered_qos: str  # YAML of the publishers' QoS profiles, as rosbag2 writes it, or ""


@dataclasses.dataclass(frozen=True)
class MessageIndex:
    """The messages of a file, all (n,), ordered by receive time and, if equal, as written."""

    topic: NDArray[np.int32]  # keys into the file's `topics`
    time_ns: NDArray[np.int64]
    block: NDArray[np.int32]  # with `offset`, where the file stores each message
    offset: NDArray[np.int64]

    @classmethod
    def sort(cls, parts: Sequence[NDArray[np.int64]]) -> MessageIndex:
        """Sort tables (m, 4) of topic, time, block and offset. Times must be in [0, MAX_TIME_NS)."""
        table = np.concatenate([np.zeros((0, 4), np.int64), *parts])
        table = table[np.lexsort((table[:, 3], table[:, 2], table[:, 1]))]
        topic, time_ns, block, offset = table.T
        return cls(topic.astype(np.int32), time_ns.copy(), block.astype(np.int32), offset.copy())

    def __len__(self) -> int:
        return len(self.time_ns)

    def stored_ns(self) -> NDArray[np.int64]:
        """Return the receive times (n,) in the order in which the file stores the messages."""
        return self.time_ns[np.lexsort((self.offset, self.block))]


class MessageBatch(NamedTuple):
    """Serialized messages that lie in one buffer."""

    entry: NDArray[np.int64]  # their rows (m,) in the file's index
    data: bytes
    start: NDArray[np.int64]  # where each begins in `data`, and where it ends (m,)
    stop: NDArray[np.int64]

    @classmethod
    def joined(cls, entry: NDArray[np.int64], messages: Sequence[bytes]) -> MessageBatch:
        """Copy separate messages into one buffer."""
        stop = np.cumsum([len(message) for message in messages], dtype=np.int64)
        start = np.concatenate([np.zeros(1, np.int64), stop[:-1]]) if len(messages) else stop
        return cls(entry, b"".join(messages), start, stop)

    def select(self, which: NDArray[np.bool_]) -> MessageBatch:
        """Return the messages for which `which` (m,) is set."""
        return MessageBatch(self.entry[which], self.data, self.start[which], self.stop[which])

    def uncompressed(self) -> MessageBatch:
        """Return the messages that are not compressed one by one, without those too short to tell."""
        tell = self.stop - self.start >= len(ZSTD_MAGIC)
        first = byte_rows(self.data, self.start[tell], len(ZSTD_MAGIC)).view("<u4")[:, 0]
        tell[tell] = first != int.from_bytes(ZSTD_MAGIC, "little")
        return self if tell.all() else self.select(tell)

    def by_entry(self) -> Iterator[tuple[int, bytes]]:
        """Yield the entry and the bytes of each message."""
        for entry, start, stop in zip(self.entry.tolist(), self.start.tolist(), self.stop.tolist()):
            yield entry, self.data[start:stop]


class StorageFile(Protocol):
    """An open storage file."""

    path: Path
    topics: dict[int, StoredTopic]
    index: MessageIndex
    damage: list[str]  # sentences about what is lost of the file
    metadata: str  # text of a metadata.yaml that the file itself contains, or ""

    def read(self, topic: int, time_ns: int, block: int, offset: int) -> bytes:
        """Return the serialized message of a row of the index. Raises Damage, OSError, MemoryError."""

    def batches(self, entry: NDArray[np.int64]) -> Iterator[MessageBatch]:
        """Yield the serialized messages of many rows of the index, in the file's order.

        Messages for which `read` would raise Damage are left out. Raises OSError, MemoryError.
        """
        ...

    def close(self) -> None: ...


def byte_rows(data: bytes, at: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    """Copy `length` bytes from each position `at` (m,), all within `data`: (m, length)."""
    if not len(at):
        return np.zeros((0, length), np.uint8)
    everywhere = np.ndarray((len(data) - length + 1,), f"V{length}", data, strides=(1,))
    return everywhere[at].view(np.uint8).reshape(len(at), length)


def read_batches(file: StorageFile, entry: NDArray[np.int64]) -> Iterator[MessageBatch]:
    """Implement `StorageFile.batches` by reading message by message."""
    index = file.index
    for first in range(0, len(entry), _BATCH_MESSAGES):
        found, messages = [], []
        for one in entry[first : first + _BATCH_MESSAGES].tolist():
            row = (int(column[one]) for column in (index.topic, index.time_ns, index.block, index.offset))
            try:
                messages.append(file.read(*row))
            except Damage:
                continue
            found.append(one)
        yield MessageBatch.joined(np.array(found, np.int64), messages)


def inflate(data: bytes, compression: str, size: int, *, cut_off: bool = False) -> bytes:
    """Decompress a chunk ("zstd", "lz4" or "") to the announced `size`, or as much of it as there is if `cut_off`.

    Raises:
        Damage: The data is damaged, has another size, or uses another compression.
    """
    if size > MAX_BYTES:
        raise Damage(f"a chunk announces {size} bytes, more than the limit of {MAX_BYTES}")
    if size == 0:
        return b""
    if compression not in ("", "zstd", "lz4"):
        raise Damage(f"a chunk is compressed with {compression!r}; only zstd and lz4 are supported")
    result = _decompress(compression, data, size, cut_off) if compression else data
    if len(result) != size and not cut_off:
        raise Damage(f"a chunk has {len(result)} bytes instead of {size}")
    return result


def inflate_message(data: bytes) -> bytes:
    """Decompress a message of a bag with message compression; return others unchanged. Raises Damage.

    The magic number tells, without any metadata: plain CDR begins with a zero byte.
    """
    return _decompress("zstd", data, MAX_BYTES, cut_off=False) if data.startswith(ZSTD_MAGIC) else data


def inflate_file(source: Path, target: Path) -> str:
    """Decompress as much of a zstd file as possible; return what is wrong with it, or "". Raises BagError."""
    free = shutil.disk_usage(target.parent).free
    written = 0
    with source.open("rb") as packed, target.open("wb") as unpacked:
        try:
            with zstd.open(packed, "rb") as stream:
                while data := stream.read(_INFLATE_BYTES):
                    written += len(data)
                    if written > free:
                        raise BagError(
                            f"{source}, decompressed, does not fit on the disk of {target.parent} "
                            f"({free / 1e9:.1f} GB free): decompress it elsewhere, or set TMPDIR to a larger disk"
                        )
                    unpacked.write(data)
        except (zstd.ZstdError, EOFError) as error:
            return f"its zstd compression is damaged after {written} bytes ({error})"
    return ""


def _decompress(compression: str, data: bytes, size: int, cut_off: bool) -> bytes:
    decompressor: Any
    if compression == "zstd":
        decompressor = zstd.ZstdDecompressor()
    else:
        import lz4.frame

        decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        result = decompressor.decompress(data, max_length=size)
        # At `size` bytes the end mark may still be unread: one more byte shows whether more would come.
        if not cut_off and not decompressor.eof and len(result) == size and decompressor.decompress(b"", max_length=1):
            raise Damage(f"compressed data is longer than {size} bytes")
    except (zstd.ZstdError, RuntimeError, EOFError) as error:  # RuntimeError is lz4's
        raise Damage(f"compressed data is damaged ({error})") from None
    if not cut_off and not decompressor.eof:
        raise Damage("compressed data is cut off")
    return bytes(result)
