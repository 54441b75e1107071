# SPDX-License-Identifier: Apache-2.0
"""TFRecord files and the `tf.train.Example` in each record, read without TensorFlow.

The framing: length (8 bytes), masked CRC-32C of it (4), the record, masked CRC-32C of that (4), little endian. A record
is a protocol buffer: a map from a name to a list of bytes, of floats, or of integers.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import SourceError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_MASK = 0xFFFFFFFF
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3  # the kinds of a Feature, by field number
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def records(path: Path) -> Iterator[memoryview]:
    """Yield the records of a TFRecord file.

    Raises:
        SourceError: the file is damaged or cut off, the message says at which record; or the disk does not give it.
    """
    records = _records(path)
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except OSError as error:
            raise SourceError(f"{path} can't be read: {error}") from None
        yield record


def _records(path: Path) -> Iterator[memoryview]:
    size = path.stat().st_size
    with path.open("rb") as file:
        index = 0
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            if len(header) < 12 or struct.unpack("<I", header[8:])[0] != _masked_crc(header[:8]):
                raise SourceError(f"{path} is damaged at record {index}: its length is not what its checksum says")
            if file.tell() + length + 4 > size:
                raise SourceError(f"{path} is cut off in record {index}; copy it again")
            data = file.read(length)
            if struct.unpack("<I", file.read(4))[0] != _masked_crc(data):
                raise SourceError(f"{path} is damaged: record {index} is not what its checksum says; copy it again")
            yield memoryview(data)
            index += 1


class Example:
    """The features of a record by name; a list is decoded when it is asked for."""

    def __init__(self, record: memoryview) -> None:
        """Raise ValueError where `record` is no Example."""
        self._features: dict[str, memoryview] = {}
        for features in _children(record, 1):
            for entry in _children(features, 1):
                names, values = _children(entry, 1), _children(entry, 2)
                if len(names) != 1 or len(values) > 1:
                    raise ValueError("a feature without a name")
                self._features[bytes(names[0]).decode("utf-8")] = values[0] if values else memoryview(b"")

    def __contains__(self, name: str) -> bool:
        return name in self._features

    def bytes_list(self, name: str) -> list[memoryview]:
        """Return a list of bytes. Raises KeyError without the feature, ValueError where it is of another kind."""
        return _children(self._list(name, _BYTES), 1)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a list of floats or integers as (n,) floats. Raises as `bytes_list`."""
        kinds = [field for field, _, _ in _fields(self._features[name])]
        if kinds == [_INTEGERS]:
            return np.array(_integers(self._list(name, _INTEGERS)), np.float64)
        parts = []
        for field, wire, value in _fields(self._list(name, _FLOATS)):
            if field != 1 or wire not in (_LENGTH, _FIXED32) or len(value) % 4:
                raise ValueError(f"{name} is no list of floats")
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
            raise ValueError(f"wire type {wire}")
        if length > len(data) - position:
            raise ValueError("a field that is longer than its message")
        yield tag >> 3, wire, data[position : position + length]
        position += length


def _children(data: memoryview, number: int) -> list[memoryview]:
    return [value for field, wire, value in _fields(data) if field == number and wire == _LENGTH]


def _integers(data: memoryview) -> list[int]:
    values = []
    for field, wire, value in _fields(data):
        if field != 1 or wire not in (_LENGTH, _VARINT):
            raise ValueError("a list of other things than integers")
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            values.append(number - (1 << 64) if number >> 63 else number)
    return values


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if position >= len(data):
            raise ValueError("a number that is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number of more than 64 bits")


def _masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & _MASK


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`.

    Long data are taken in lanes that numpy runs side by side: the checksum is linear, so what a lane contributes can be
    shifted past the lanes after it.
    """
    lanes = int(len(data) ** 0.5)
    crc, done = _MASK, 0
    if lanes >= 64:
        length = len(data) // lanes
        done = length * lanes
        rows = np.frombuffer(data, np.uint8, done).reshape(lanes, length)
        # 32 more lanes of zeros, one for each bit, say how the checksum is shifted past a lane.
        columns = np.concatenate([rows, np.zeros((32, length), np.uint8)]).T.astype(np.uint32)
        state = np.concatenate([np.zeros(lanes, np.uint32), np.uint32(1) << np.arange(32, dtype=np.uint32)])
        table = _table()
        for column in columns:
            state = table[(state ^ column) & 0xFF] ^ (state >> 8)
        shift = [int(value) for value in state[lanes:]]
        for lane in state[:lanes]:
            crc = _shifted(crc, shift) ^ int(lane)
    entries = _table_list()
    for byte in data[done:]:
        crc = entries[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _MASK


def _shifted(crc: int, shift: list[int]) -> int:
    result = 0
    while crc:
        low = crc & -crc
        result ^= shift[low.bit_length() - 1]
        crc ^= low
    return result


@functools.cache
def _table_list() -> list[int]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return entries


@functools.cache
def _table() -> NDArray[np.uint32]:
    return np.array(_table_list(), np.uint32)
