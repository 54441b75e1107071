# SPDX-License-Identifier: Apache-2.0
"""Strings and tables in MCAP records (https://mcap.dev/spec); struct.error and ValueError for damaged ones."""

from __future__ import annotations

import struct


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
