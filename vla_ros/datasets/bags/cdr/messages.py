# SPDX-License-Identifier: Apache-2.0
"""Serialized messages (CDR) to objects, with the type definitions that the bag itself contains.

The message types that fill bags are read straight from their bytes, several times faster than by rosbags' generated
code. Those readers accept only perfectly regular bytes (little-endian CDR, OMG DDS-XTypes 7.4.3) and return None for
all others, so that rosbags' general reader says what is wrong with them.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.datasets.bags.storage.container import Damage, StoredTopic

Reader = Callable[[bytes], Any]
FieldReader = Callable[[bytes, int], tuple[Any, int]]  # data, position -> value, position after it

# The fields after the header of the message types that are read fast.
FIELDS: dict[str, dict[str, str]] = {
    "sensor_msgs/msg/CompressedImage": {"format": "string", "data": "uint8[]"},
    "sensor_msgs/msg/Image": {
        "height": "uint32", "width": "uint32", "encoding": "string", "is_bigendian": "uint8", "step": "uint32",
        "data": "uint8[]",
    },
    "sensor_msgs/msg/JointState": {
        "name": "string[]", "position": "float64[]", "velocity": "float64[]", "effort": "float64[]",
    },
    "geometry_msgs/msg/PoseStamped": {"pose": "Pose"},
    "geometry_msgs/msg/TwistStamped": {"twist": "Twist"},
}  # fmt: skip

_IDL_SEPARATOR = "=" * 80 + "\n"
START = 4  # after how the message is encoded; alignments count from here
PADDING = 3  # bytes that may follow a message
LENGTH = struct.Struct("<I")
_LITTLE_ENDIAN = b"\x00\x01"
_HEAD = struct.Struct("<iII")  # stamp: seconds, nanoseconds; length of the frame_id
_POSE = struct.Struct("<7d")
_TWIST = struct.Struct("<6d")


@functools.cache
def typestore() -> Typestore:
    """Return the definitions of ROS 2's common interfaces (the same in Jazzy and Kilted)."""
    return get_typestore(Stores.ROS2_JAZZY)


def decoder(topic: StoredTopic) -> Reader:
    """Return a function that deserializes the messages of `topic` and raises Damage for any other bytes.

    Bags from before Iron (2023) contain no definitions; they are read with those of ROS 2's common interfaces. Raises
    Damage if the messages are not CDR, or the type's definition is missing or can't be read.
    """
    types = types_of(topic)
    read_fast = fast_reader(types, topic.type)

    def decode(data: bytes) -> Any:
        if read_fast is not None and (message := read_fast(data)) is not None:
            return message
        try:
            return types.deserialize_cdr(data, topic.type)
        except MemoryError:  # says nothing about the bytes
            raise
        except Exception as error:  # generated code on foreign bytes
            raise Damage(f"{type(error).__name__}: {error}") from None

    return decode


def types_of(topic: StoredTopic) -> Typestore:
    """Return the definitions for the messages of `topic`. Raises Damage, as `decoder`."""
    if topic.encoding != "cdr":
        raise Damage(f"its messages are serialized as {topic.encoding!r}; only ROS 2's 'cdr' is supported")
    types = _types(topic.type, topic.definition_format, topic.definition)
    for name, (_, fields) in types.fielddefs.items():
        known = typestore().fielddefs.get(name, ((), ()))[1]
        missing = {field for field, _ in known} - {field for field, _ in fields}
        if missing:  # the text is damaged
            raise Damage(f"the bag's definition of {name} lacks {', '.join(sorted(missing))}")
    return types


def definitions(topics: list[StoredTopic]) -> Typestore:
    """Return the definitions of all types of `topics` together, for writing another bag. Raises Damage."""
    merged = get_typestore(Stores.EMPTY)
    for topic in topics:
        known = _types(topic.type, topic.definition_format, topic.definition).fielddefs
        merged.register({name: fields for name, fields in known.items() if name not in merged.fielddefs})
    return merged


@functools.lru_cache(maxsize=256)
def _types(kind: str, definition_format: str, definition: str) -> Typestore:
    if not definition:
        if kind not in typestore().types:
            raise Damage(f"the bag lacks the definition of {kind}; `ros2 bag convert` on a machine that has it adds it")
        return typestore()
    types = get_typestore(Stores.EMPTY)
    try:
        types.register(_parse(kind, definition_format, definition))
    except MemoryError:
        raise
    except Exception as error:  # a parser on foreign text
        raise Damage(f"the bag's definition of {kind} can't be read ({type(error).__name__}: {error})") from None
    if kind not in types.fielddefs:
        raise Damage(f"the bag's definition of {kind} is of another type")
    return types


def _parse(kind: str, definition_format: str, definition: str) -> dict[str, Any]:
    if definition_format == "ros2msg":
        return dict(get_types_from_msg(definition, kind))
    if definition_format != "ros2idl":
        raise ValueError(f"unknown format {definition_format!r}")
    if not definition.startswith(_IDL_SEPARATOR + "IDL: "):
        return dict(get_types_from_idl(definition))
    types: dict[str, Any] = {}
    for part in definition.split(_IDL_SEPARATOR)[1:]:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))  # the first line names the type
    return types


def fast_reader(types: Typestore, kind: str) -> Reader | None:
    """Return a fast reader of messages of type `kind`, None if there is none for this type and definition.

    It returns the message that `types.deserialize_cdr` would, with arrays as read-only views of the bytes, or None if
    the bytes are irregular.
    """
    standard = typestore().fielddefs
    regular = all(name in standard and standard[name][1] == found[1] for name, found in types.fielddefs.items())
    if kind not in FIELDS or not regular:
        return None
    message, header = types.types[kind], _header(types)
    fields = [_FIELD_READERS[field](types) for field in FIELDS[kind].values()]

    def read(data: bytes) -> Any:
        if data[:2] != _LITTLE_ENDIAN:
            return None
        try:
            value, at = header(data, START)
            values = [value]
            for read_field in fields:
                value, at = read_field(data, at)
                values.append(value)
        except (_Irregular, struct.error, UnicodeDecodeError):
            return None
        return message(*values) if at <= len(data) <= at + PADDING else None

    return read


class _Irregular(Exception):
    """Bytes for the general reader."""


def _header(types: Typestore) -> FieldReader:
    header, time = types.types["std_msgs/msg/Header"], types.types["builtin_interfaces/msg/Time"]
    decoded: dict[bytes, str] = {}  # a topic has one frame_id, or a few

    def read(data: bytes, at: int) -> tuple[Any, int]:
        seconds, nanoseconds, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        raw = data[at : at + length]
        frame = decoded.get(raw)
        if frame is None:
            frame = _text(data, at, length)
            if len(decoded) < 16:
                decoded[raw] = frame
        return header(time(seconds, nanoseconds), frame), at + length

    return read


def aligned(at: int, size: int) -> int:
    """Return the next position at which a value of `size` bytes may begin."""
    return (at - START + size - 1) // size * size + START


def _text(data: bytes, at: int, length: int) -> str:
    stop = at + length
    if length < 1 or stop > len(data) or data[stop - 1]:
        raise _Irregular
    return data[at : stop - 1].decode()


def _string(data: bytes, at: int) -> tuple[str, int]:
    at = aligned(at, 4)
    (length,) = LENGTH.unpack_from(data, at)
    return _text(data, at + 4, length), at + 4 + length


def _strings(types: Typestore) -> FieldReader:
    known: tuple[int, bytes, list[str]] = (-1, b"", [])  # where the last ones were, and their bytes: they seldom change

    def read(data: bytes, at: int) -> tuple[list[str], int]:
        nonlocal known
        begin, raw, found = known
        at = aligned(at, 4)
        if begin != at or not raw or not data.startswith(raw, at):
            begin, found = at, []
            (count,) = LENGTH.unpack_from(data, at)
            at += 4
            for _ in range(count):
                text, at = _string(data, at)
                found.append(text)
            raw = data[begin:at]
            known = begin, raw, found
        return list(found), begin + len(raw)

    return read


def _number(code: str) -> FieldReader:
    number = struct.Struct(f"<{code}")

    def read(data: bytes, at: int) -> tuple[Any, int]:
        at = aligned(at, number.size)
        return number.unpack_from(data, at)[0], at + number.size

    return read


def _array(dtype: str) -> FieldReader:
    size = np.dtype(dtype).itemsize

    def read(data: bytes, at: int) -> tuple[Any, int]:
        at = aligned(at, 4)
        (length,) = LENGTH.unpack_from(data, at)
        at = aligned(at + 4, size) if length else at + 4
        stop = at + length * size
        if stop > len(data):
            raise _Irregular
        return np.frombuffer(data, dtype, length, at if length else 0), stop

    return read


def _pose(types: Typestore) -> FieldReader:
    pose, point, quaternion = (types.types[f"geometry_msgs/msg/{name}"] for name in ("Pose", "Point", "Quaternion"))

    def read(data: bytes, at: int) -> tuple[Any, int]:
        at = aligned(at, 8)
        x, y, z, qx, qy, qz, qw = _POSE.unpack_from(data, at)
        return pose(point(x, y, z), quaternion(qx, qy, qz, qw)), at + _POSE.size

    return read


def _twist(types: Typestore) -> FieldReader:
    twist, vector = (types.types[f"geometry_msgs/msg/{name}"] for name in ("Twist", "Vector3"))

    def read(data: bytes, at: int) -> tuple[Any, int]:
        at = aligned(at, 8)
        x, y, z, wx, wy, wz = _TWIST.unpack_from(data, at)
        return twist(vector(x, y, z), vector(wx, wy, wz)), at + _TWIST.size

    return read


_FIELD_READERS: dict[str, Callable[[Typestore], FieldReader]] = {
    "string": lambda types: _string,
    "string[]": _strings,
    "uint8": lambda types: _number("B"),
    "uint32": lambda types: _number("I"),
    "uint8[]": lambda types: _array("u1"),
    "float64[]": lambda types: _array("<f8"),
    "Pose": _pose,
    "Twist": _twist,
}
