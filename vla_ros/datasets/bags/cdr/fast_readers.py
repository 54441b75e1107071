# SPDX-License-Identifier: Apache-2.0
"""The messages that bags are full of, read straight out of their bytes: several times faster than generated code.

Only bytes that are regular in all respects (little-endian CDR, OMG DDS-XTypes 7.4.3) are read here. For all others the
answer is None: what is wrong with them is for the general reader to say.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from rosbags.typesys.store import Typestore

from vla_ros.datasets.bags.writer import typestore

Reader = Callable[[bytes], Any]  # the message, or None where the bytes are not regular

_START = 4  # before it, how the message is encoded; alignments count from here
_LITTLE_ENDIAN = b"\x00\x01"
_HEAD = struct.Struct("<iII")  # stamp: seconds, nanoseconds; length of the frame_id
_LENGTH = struct.Struct("<I")
_SIZE = struct.Struct("<II")
_POSE = struct.Struct("<7d")
_TWIST = struct.Struct("<6d")
_PADDING = 3  # bytes that may follow a message


def common_reader(types: Typestore, kind: str) -> Reader | None:
    """Return what reads messages of type `kind` of `types`, None for one that is not common or defined otherwise.

    The messages are equal to those of `types.deserialize_cdr`; arrays are read-only views of the bytes.
    """
    make = _READERS.get(kind)
    return make(types) if make is not None and _defined_as_usual(types) else None


def _defined_as_usual(types: Typestore) -> bool:
    usual = typestore()
    return types is usual or all(
        name in usual.fielddefs and usual.fielddefs[name][1] == fields for name, (_, fields) in types.fielddefs.items()
    )


class _Irregular(Exception):
    """Bytes for the general reader."""


def _guarded(read: Reader) -> Reader:
    def guarded(data: bytes) -> Any:
        try:
            return read(data) if data[:2] == _LITTLE_ENDIAN else None
        except (_Irregular, struct.error, UnicodeDecodeError):
            return None

    return guarded


def _header(types: Typestore) -> Callable[[bytes], tuple[Any, int]]:
    """Return what reads the header that messages begin with: it, and where the next field may begin."""
    header, time = types.types["std_msgs/msg/Header"], types.types["builtin_interfaces/msg/Time"]
    decoded: dict[bytes, str] = {}  # a topic has one frame_id, or a few

    def read(data: bytes) -> tuple[Any, int]:
        seconds, nanoseconds, length = _HEAD.unpack_from(data, _START)
        at = _START + _HEAD.size
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


def _aligned(at: int, size: int) -> int:
    return (at - _START + size - 1) // size * size + _START


def _array(data: bytes, at: int, kind: str, size: int) -> tuple[Any, int]:
    """Read a sequence with its length before it; return it and where the next field may begin."""
    at = _aligned(at, 4)
    (length,) = _LENGTH.unpack_from(data, at)
    at += 4
    if length:
        at = _aligned(at, size)
    stop = at + length * size
    if stop > len(data):
        raise _Irregular
    return np.frombuffer(data, kind, length, at if length else 0), stop


def _check_end(data: bytes, stop: int) -> None:
    if not stop <= len(data) <= stop + _PADDING:
        raise _Irregular


def _compressed_image(types: Typestore) -> Reader:
    header, image = _header(types), types.types["sensor_msgs/msg/CompressedImage"]

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = _aligned(at, 4)
        (length,) = _LENGTH.unpack_from(data, at)
        encoding = _text(data, at + 4, length)
        pixels, stop = _array(data, at + 4 + length, "u1", 1)
        _check_end(data, stop)
        return image(header=head, format=encoding, data=pixels)

    return _guarded(read)


def _image(types: Typestore) -> Reader:
    header, image = _header(types), types.types["sensor_msgs/msg/Image"]

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = _aligned(at, 4)
        height, width = _SIZE.unpack_from(data, at)
        (length,) = _LENGTH.unpack_from(data, at + 8)
        encoding = _text(data, at + 12, length)
        at += 12 + length
        big_endian = data[at : at + 1]
        at = _aligned(at + 1, 4)
        (step,) = _LENGTH.unpack_from(data, at)
        pixels, stop = _array(data, at + 4, "u1", 1)
        _check_end(data, stop)
        return image(header=head, height=height, width=width, encoding=encoding, is_bigendian=big_endian[0], step=step,
                     data=pixels)  # fmt: skip

    return _guarded(read)


def _pose_stamped(types: Typestore) -> Reader:
    header, stamped, pose, point, quaternion = _header(types), *(
        types.types[f"geometry_msgs/msg/{name}"] for name in ("PoseStamped", "Pose", "Point", "Quaternion")
    )  # fmt: skip

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = _aligned(at, 8)
        x, y, z, qx, qy, qz, qw = _POSE.unpack_from(data, at)
        _check_end(data, at + _POSE.size)
        turned = quaternion(x=qx, y=qy, z=qz, w=qw)
        return stamped(header=head, pose=pose(position=point(x=x, y=y, z=z), orientation=turned))

    return _guarded(read)


def _twist_stamped(types: Typestore) -> Reader:
    header, stamped, twist, vector = _header(types), *(
        types.types[f"geometry_msgs/msg/{name}"] for name in ("TwistStamped", "Twist", "Vector3")
    )  # fmt: skip

    def read(data: bytes) -> Any:
        head, at = header(data)
        at = _aligned(at, 8)
        x, y, z, wx, wy, wz = _TWIST.unpack_from(data, at)
        _check_end(data, at + _TWIST.size)
        return stamped(header=head, twist=twist(linear=vector(x=x, y=y, z=z), angular=vector(x=wx, y=wy, z=wz)))

    return _guarded(read)


def _joint_state(types: Typestore) -> Reader:
    header, state = _header(types), types.types["sensor_msgs/msg/JointState"]
    known: tuple[int, bytes, list[str]] = (-1, b"", [])  # where names were, their bytes, they: seldom others next time

    def names(data: bytes, at: int) -> tuple[list[str], int]:
        nonlocal known
        begin, raw, found = known
        if begin == at and raw and data.startswith(raw, at):
            return list(found), at + len(raw)
        begin = at
        (count,) = _LENGTH.unpack_from(data, at)
        at += 4
        found = []
        for _ in range(count):
            at = _aligned(at, 4)
            (length,) = _LENGTH.unpack_from(data, at)
            found.append(_text(data, at + 4, length))
            at += 4 + length
        known = (begin, data[begin:at], found)
        return list(found), at

    def read(data: bytes) -> Any:
        head, at = header(data)
        joints, at = names(data, _aligned(at, 4))
        position, at = _array(data, at, "<f8", 8)
        velocity, at = _array(data, at, "<f8", 8)
        effort, stop = _array(data, at, "<f8", 8)
        _check_end(data, stop)
        return state(header=head, name=joints, position=position, velocity=velocity, effort=effort)

    return _guarded(read)


_READERS: dict[str, Callable[[Typestore], Reader]] = {
    "sensor_msgs/msg/CompressedImage": _compressed_image,
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/JointState": _joint_state,
    "geometry_msgs/msg/PoseStamped": _pose_stamped,
    "geometry_msgs/msg/TwistStamped": _twist_stamped,
}
