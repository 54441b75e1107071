# SPDX-License-Identifier: Apache-2.0
"""Decompression with a known end: never more memory than announced, and as much of a cut-off piece as there is.

Damage is what is wrong with the data. That memory or the disk are full says nothing about them, and is passed on.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


from vla_ros.datasets.bags.storage.entries import Damage, Piece, byte_rows
from vla_ros.datasets.errors import BagError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# The largest message or chunk that is taken for real; a damaged length field may claim anything.
MAX_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20


def inflate(data: bytes, compression: str, size: int, *, cut_off: bool = False) -> bytes:
    """Decompress `data` ("", "zstd" or "lz4") to `size` bytes; of a piece that is `cut_off`, what there is.

    Raises:
        Damage: it is damaged, has another size, or the compression is another one.
    """
    if size > MAX_BYTES:
        raise Damage(f"a chunk announces {size} bytes, more than {MAX_BYTES}")
    if size == 0:
        return b""
    if compression == "":
        result = data
    elif compression in ("zstd", "lz4"):
        result = _run(_decompressor(compression), data, size, cut_off)
    else:
        raise Damage(f"a chunk is compressed with {compression!r}; known are zstd and lz4")
    if len(result) != size and not cut_off:
        raise Damage(f"a chunk has {len(result)} bytes instead of {size}")
    return result


def inflate_message(data: bytes) -> bytes:
    """Decompress a message of a bag with message compression, by its magic number; others pass.

    Whether a message is compressed needs no metadata: plain CDR begins with a zero byte.

    Raises:
        Damage: the compressed data is damaged.
    """
    if not data.startswith(ZSTD_MAGIC):
        return data
    return _run(_decompressor("zstd"), data, MAX_BYTES, cut_off=False)


def plain(piece: Piece) -> Piece:
    """The messages that are not compressed, told by the same number; without those that are too short to tell."""
    tell = piece.stop - piece.start >= len(ZSTD_MAGIC)
    first = byte_rows(piece.data, piece.start[tell], len(ZSTD_MAGIC)).view("<u4")[:, 0]
    tell[tell] = first != int.from_bytes(ZSTD_MAGIC, "little")
    return piece if tell.all() else piece.chosen(tell)


def inflate_file(source: Path, target: Path) -> str:
    """Decompress a zstd file; return what is wrong with it, or "". What could be decompressed is in `target`.

    Raises:
        BagError: the disk is too small for it.
    """
    room = shutil.disk_usage(target.parent).free
    written = 0
    with source.open("rb") as packed, target.open("wb") as plain:
        try:
            with zstd.open(packed, "rb") as stream:
                while piece := stream.read(_PIECE_BYTES):
                    written += len(piece)
                    if written > room:
                        raise BagError(
                            f"{source} does not fit on the disk of {target.parent} when it is decompressed "
                            f"({room / 1e9:.1f} GB free): decompress it elsewhere, or set TMPDIR to a larger disk"
                        )
                    plain.write(piece)
        except (zstd.ZstdError, EOFError) as error:
            return f"its zstd compression is damaged after {written} bytes ({error})"
    return ""


def _decompressor(compression: str) -> Any:
    if compression == "zstd":
        return zstd.ZstdDecompressor()
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor()


def _run(decompressor: Any, data: bytes, size: int, cut_off: bool) -> bytes:
    try:
        result = decompressor.decompress(data, max_length=size)
        # At `size` bytes the end mark may still be unread: one byte more shows whether more would come.
        if not cut_off and not decompressor.eof and len(result) == size and decompressor.decompress(b"", max_length=1):
            raise Damage(f"compressed data is longer than {size} bytes")
    except (zstd.ZstdError, RuntimeError, EOFError) as error:  # RuntimeError is lz4's
        raise Damage(f"compressed data is damaged ({error})") from None
    if not cut_off and not decompressor.eof:
        raise Damage("compressed data is cut off")
    return bytes(result)
