# SPDX-License-Identifier: Apache-2.0
"""What MCAP files are made of (https://mcap.dev/spec): the heads of records, and the strings and tables in them.

Who reads damaged ones gets struct.error or ValueError.
"""

from __future__ import annotations

import struct

import numpy as np

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
STATISTICS, METADATA, DATA_END = 0x0B, 0x0C, 0x0F

RECORD = struct.Struct("<BQ")  # opcode, length of the content
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence number, log time, publish time
MESSAGE_RECORD = struct.Struct("<BQHIQQ")  # both
HEAD_COLUMNS = np.dtype(
    [("opcode", "u1"), ("length", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("logged", "<u8"), ("sent", "<u8")]
)
CHUNK_HEAD = struct.Struct("<QQQI")  # first and last log time, uncompressed size, its crc or 0


def read_text(data: bytes, at: int) -> tuple[str, int]:
    """Read a string with its length before it; return it and where the next value begins."""
    (length,) = struct.unpack_from("<I", data, at)
    stop = at + 4 + length
    if stop > len(data):
        raise ValueError("a text reaches beyond its record")
    return data[at + 4 : stop].decode(errors="replace"), stop


def read_map(data: bytes, at: int) -> dict[str, str]:
    """Read a table of strings with its length in bytes before it."""
    (length,) = struct.unpack_from("<I", data, at)
    at, stop = at + 4, min(at + 4 + length, len(data))
    values = {}
    while at < stop:
        key, at = read_text(data, at)
        values[key], at = read_text(data, at)
    return values
