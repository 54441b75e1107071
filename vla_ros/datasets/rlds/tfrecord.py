# SPDX-License-Identifier: Apache-2.0
"""Read TFRecord files, and the `tf.train.Example` in each record, without TensorFlow.

A record is framed by its length (8 bytes), the masked CRC-32C of the length (4), and after it the masked CRC-32C of
the record (4), all little endian. It is a protocol buffer that maps names to lists of bytes, floats or integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import SourceError

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3  # the kinds of a Feature, by field number
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def records(path: Path) -> Iterator[memoryview]:
    """Yield the records of a TFRecord file.

    Raises:
        SourceError: the file is damaged or cut off, and the message says at which record; or it can't be read.
    """
    index = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while header := file.read(12):
                length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
                if len(header) < 12 or struct.unpack("<I", header[8:])[0] != _masked_crc(header[:8]):
                    raise SourceError(f"{path} is damaged: the length of record {index} fails its checksum")
                if file.tell() + length + 4 > size:
                    raise SourceError(f"{path} is cut off in record {index}; copy it again")
                data = file.read(length)
                if struct.unpack("<I", file.read(4))[0] != _masked_crc(data):
                    raise SourceError(f"{path} is damaged: record {index} fails its checksum; copy it again")
                yield memoryview(data)
                index += 1
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error}") from None


class Example:
    """The features of a record by name, each decoded on access.

    Raises:
        ValueError: the record is not an Example.
    """

    def __init__(self, record: memoryview) -> None:
        self._features: dict[str, memoryview] = {}
        for features in _children(record, 1):
            for entry in _children(features, 1):
                names, values = _children(entry, 1), _children(entry, 2)
                if len(names) != 1 or len(values) > 1:
                    raise ValueError("a feature has no name")
                self._features[bytes(names[0]).decode("utf-8")] = values[0] if values else memoryview(b"")

    def __contains__(self, name: str) -> bool:
        return name in self._features

    def bytes_list(self, name: str) -> list[memoryview]:
        """Return a list of bytes; raise KeyError if the feature is missing, ValueError if it is of another kind."""
        return _children(self._list(name, _BYTES), 1)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a list of floats or integers as (n,) floats; raise as `bytes_list` does."""
        kinds = [field for field, _, _ in _fields(self._features[name])]
        if kinds == [_INTEGERS]:
            return np.array(_integers(self._list(name, _INTEGERS)), np.float64)
        parts = []
        for field, wire, value in _fields(self._list(name, _FLOATS)):
            if field != 1 or wire not in (_LENGTH, _FIXED32) or len(value) % 4:
                raise ValueError(f"{name} is not a list of floats")
            parts.append(np.frombuffer(value, "<f4"))
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)

    def _list(self, name: str, kind: int) -> memoryview:
        found = list(_fields(self._features[name]))
        if not found:
            return memoryview(b"")
        field, wire, value = found[-1]
        if field != kind or wire != _LENGTH:
            raise ValueError(f"{name} is a list of another kind")
        return value


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (field number, wire type, bytes of the value) of a protocol buffer message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == _LENGTH:
            length, position = _varint(data, position)
        elif wire == _VARINT:
            length = _varint(data, position)[1] - position
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if length > len(data) - position:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, wire, data[position : position + length]
        position += length


def _children(data: memoryview, number: int) -> list[memoryview]:
    return [value for field, wire, value in _fields(data) if field == number and wire == _LENGTH]


def _integers(data: memoryview) -> list[int]:
    values = []
    for field, wire, value in _fields(data):
        if field != 1 or wire not in (_LENGTH, _VARINT):
            raise ValueError("a list of integers has other values")
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            values.append(number - (1 << 64) if number >> 63 else number)
    return values


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if position >= len(data):
            raise ValueError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number has more than 64 bits")


def _masked_crc(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
