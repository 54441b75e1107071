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

_IDL_SEPARATOR = "=" * 80 + "\n"
START = 4  # after how the message is encoded; alignments count from here
PADDING = 3  # bytes that may follow a message
LENGTH = struct.Struct("<I")
_LITTLE_ENDIAN = b"\x00\x01"
_HEAD = struct.Struct("<iII")  # stamp: seconds, nanoseconds; length of the frame_id
_SIZE = struct.Struct("<II")


@functools.cache
def typestore() -> Typestore:
    """Return the definitions of ROS 2's common interfaces (the same in Jazzy and Kilted)."""
    return get_typestore(Stores.ROS2_JAZZY)


def decoder(topic: StoredTopic) -> Reader:
    """Return a function that deserializes the messages of `topic` and raises Damage for any other bytes.

    Bags from before Iron (2023) contain no definitions; they are read with those of ROS 2's common interfaces.

    Raises:
        Damage: The messages are not CDR, or the type's definition is missing or can't be read.
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
    make = _FAST_READERS.get(kind)
    if make is None or not _is_standard(types):
        return None
    read = make(types)

    def guarded(data: bytes) -> Any:
        try:
            return read(data) if data[:2] == _LITTLE_ENDIAN else None
        except (_Irregular, struct.error, UnicodeDecodeError):
            return None

    return guarded


def _is_standard(types: Typestore) -> bool:
    standard = typestore()
    return types is standard or all(
        name in standard.fielddefs and standard.fielddefs[name][1] == fields
        for name, (_, fields) in types.fielddefs.items()
    )


class _Irregular(Exception):
    """Bytes for the general reader."""


def _header(types: Typestore) -> Callable[[bytes], tuple[Any, int]]:
    """Return a reader of the header at the start of messages: it returns that and where the next field may begin."""
    header, time = types.types["std_msgs/msg/Header"], types.types["builtin_interfaces/msg/Time"]
    decoded: dict[bytes, str] = {}  # a topic has one frame_id, or a few

    def read(data: bytes) -> tuple[Any, int]:
        seconds, nanoseconds, length = _HEAD.unpack_from(data, START)
        at = START + _HEAD.size
        raw = data[at : at + length]
        frame = decoded.get(raw)
        if frame is None:
            frame = _text(data, at, length)
            if len(decoded) < 16:
                decoded[raw] = frame
        return header(stamp=time(sec=seconds, nanosec=nanoseconds), frame_id=frame), at + length

    return read


def _text(data: bytes, at: int, length: int) -> str:
    stop = at + length
    if length < 1 or stop > len(data) or data[stop - 1]:
        raise _Irregular
    return data[at : stop - 1].decode()


def aligned(at: int, size: int) -> int:
    """Return the next position at which a value of `size` bytes may begin."""
    return (at - START + size - 1) // size * size + START


def _array(data: bytes, at: int, kind: str, size: int) -> tuple[Any, int]:
    """Read a length-prefixed sequence; return it and where the next field may begin."""
    at = aligned(at, 4)
    (length,) = LENGTH.unpack_from(data, at)
    at += 4
    if length:
        at = aligned(at, size)
    stop = at + length * size
    if stop > len(data):
        raise _Irregular
    return np.frombuffer(data, kind, length, at if length else 0), stop


def _check_end(data: bytes, stop: int) -> None:
    if not stop <= len(data) <= stop + PADDING:
        raise _Irregular


def _compressed_image(types: Typestore) -> Reader:
    header, image = _header(types), types.types["sensor_msgs/msg/CompressedImage"]

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = aligned(at, 4)
        (length,) = LENGTH.unpack_from(data, at)
        encoding = _text(data, at + 4, length)
        pixels, stop = _array(data, at + 4 + length, "u1", 1)
        _check_end(data, stop)
        return image(header=head, format=encoding, data=pixels)

    return read


def _image(types: Typestore) -> Reader:
    header, image = _header(types), types.types["sensor_msgs/msg/Image"]

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = aligned(at, 4)
        height, width = _SIZE.unpack_from(data, at)
        (length,) = LENGTH.unpack_from(data, at + 8)
        encoding = _text(data, at + 12, length)
        at += 12 + length
        endian = data[at : at + 1]
        at = aligned(at + 1, 4)
        (step,) = LENGTH.unpack_from(data, at)
        pixels, stop = _array(data, at + 4, "u1", 1)
        _check_end(data, stop)
        shape = {"height": height, "width": width, "encoding": encoding, "is_bigendian": endian[0], "step": step}
        return image(header=head, **shape, data=pixels)

    return read


def _stamped_doubles(types: Typestore, count: int, build: Callable[..., Any]) -> Reader:
    """Return a reader of messages with a header and `count` doubles."""
    header, doubles = _header(types), struct.Struct(f"<{count}d")

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = aligned(at, 8)
        numbers = doubles.unpack_from(data, at)
        _check_end(data, at + doubles.size)
        return build(head, *numbers)

    return read


def _pose_stamped(types: Typestore) -> Reader:
    names = ("PoseStamped", "Pose", "Point", "Quaternion")
    stamped, pose, point, quaternion = (types.types[f"geometry_msgs/msg/{name}"] for name in names)

    def build(head: Any, x: float, y: float, z: float, qx: float, qy: float, qz: float, qw: float) -> Any:
        turned = quaternion(x=qx, y=qy, z=qz, w=qw)
        return stamped(header=head, pose=pose(position=point(x=x, y=y, z=z), orientation=turned))

    return _stamped_doubles(types, 7, build)


def _twist_stamped(types: Typestore) -> Reader:
    names = ("TwistStamped", "Twist", "Vector3")
    stamped, twist, vector = (types.types[f"geometry_msgs/msg/{name}"] for name in names)

    def build(head: Any, x: float, y: float, z: float, wx: float, wy: float, wz: float) -> Any:
        return stamped(header=head, twist=twist(linear=vector(x=x, y=y, z=z), angular=vector(x=wx, y=wy, z=wz)))

    return _stamped_doubles(types, 6, build)


def _joint_state(types: Typestore) -> Reader:
    header, state = _header(types), types.types["sensor_msgs/msg/JointState"]
    known: tuple[int, bytes, list[str]] = (-1, b"", [])  # where the last names were, and their bytes

    def names(data: bytes, at: int) -> tuple[list[str], int]:
        nonlocal known
        begin, raw, found = known
        if begin == at and raw and data.startswith(raw, at):
            return list(found), at + len(raw)
        begin = at
        (count,) = LENGTH.unpack_from(data, at)
        at += 4
        found = []
        for _ in range(count):
            at = aligned(at, 4)
            (length,) = LENGTH.unpack_from(data, at)
            found.append(_text(data, at + 4, length))
            at += 4 + length
        known = (begin, data[begin:at], found)
        return list(found), at

    def read(data: bytes) -> Any:
        head, at = header(data)
        joints, at = names(data, aligned(at, 4))
        position, at = _array(data, at, "<f8", 8)
        velocity, at = _array(data, at, "<f8", 8)
        effort, stop = _array(data, at, "<f8", 8)
        _check_end(data, stop)
        return state(header=head, name=joints, position=position, velocity=velocity, effort=effort)

    return read


_FAST_READERS: dict[str, Callable[[Typestore], Reader]] = {
    "sensor_msgs/msg/CompressedImage": _compressed_image,
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/JointState": _joint_state,
    "geometry_msgs/msg/PoseStamped": _pose_stamped,
    "geometry_msgs/msg/TwistStamped": _twist_stamped,
}
