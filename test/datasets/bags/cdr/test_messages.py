# SPDX-License-Identifier: Apache-2.0
"""Frequent message types are read straight from their bytes, with the results of rosbags, damaged or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.datasets.bags.cdr.batch_reader import BatchReader
from vla_ros.datasets.bags.cdr.messages import fast_reader, typestore
from vla_ros.datasets.bags.storage.container import MessageBatch

TYPES = typestore()
KINDS = (
    "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState",
    "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TwistStamped",
)  # fmt: skip

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
numbers = st.floats(allow_nan=False, width=64)
small = st.integers(0, 255)


def make(name: str, /, **fields: Any) -> Any:
    return TYPES.types[name](**fields)


@st.composite
def messages(draw: st.DrawFn, kind: str) -> Any:
    time = make("builtin_interfaces/msg/Time", sec=draw(st.integers(-(2**31), 2**31 - 1)), nanosec=draw(small))
    header = make("std_msgs/msg/Header", stamp=time, frame_id=draw(texts))

    def parts(name: str, axes: str) -> Any:
        return make(f"geometry_msgs/msg/{name}", **{axis: draw(numbers) for axis in axes})

    def floats() -> np.ndarray:
        return np.array(draw(st.lists(numbers, max_size=4)), np.float64)

    pixels = np.frombuffer(draw(st.binary(max_size=20)), np.uint8)
    if kind.endswith("CompressedImage"):
        return make(kind, header=header, format=draw(texts), data=pixels)
    if kind.endswith("Image"):
        sizes = {"height": draw(small), "width": draw(small), "is_bigendian": draw(small), "step": draw(small)}
        return make(kind, header=header, encoding=draw(texts), data=pixels, **sizes)
    if kind.endswith("JointState"):
        names = draw(st.lists(texts, max_size=4))
        return make(kind, header=header, name=names, position=floats(), velocity=floats(), effort=floats())
    if kind.endswith("PoseStamped"):
        pose = make("geometry_msgs/msg/Pose", position=parts("Point", "xyz"), orientation=parts("Quaternion", "xyzw"))
        return make(kind, header=header, pose=pose)
    twist = make("geometry_msgs/msg/Twist", linear=parts("Vector3", "xyz"), angular=parts("Vector3", "xyz"))
    return make(kind, header=header, twist=twist)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_equal_those_that_rosbags_reads(kind: str) -> None:
    reader = fast_reader(TYPES, kind)
    assert reader is not None

    @settings(max_examples=60, deadline=None)
    @given(messages(kind))
    def check(message: Any) -> None:
        data = bytes(TYPES.serialize_cdr(message, kind))
        found = reader(data)
        assert found is not None and type(found) is TYPES.types[kind]
        assert bytes(TYPES.serialize_cdr(found, kind)) == data
        assert repr(found) == repr(TYPES.deserialize_cdr(data, kind))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_read_like_rosbags_or_left_to_it(kind: str) -> None:
    reader = fast_reader(TYPES, kind)
    assert reader is not None

    @settings(max_examples=150, deadline=None)
    @given(messages(kind), st.data())
    def check(message: Any, drawn: st.DataObject) -> None:
        data = bytearray(TYPES.serialize_cdr(message, kind))
        for _ in range(drawn.draw(st.integers(1, 3))):
            data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(small)
        cut = bytes(data[: drawn.draw(st.integers(0, len(data)))]) if drawn.draw(st.booleans()) else bytes(data)
        found = reader(cut)
        if found is not None:
            assert repr(found) == repr(TYPES.deserialize_cdr(cut, kind))

    check()


def test_big_endian_bytes_and_other_types_are_left_to_rosbags() -> None:
    header = make("std_msgs/msg/Header", stamp=make("builtin_interfaces/msg/Time", sec=1, nanosec=2), frame_id="base")
    image = make(KINDS[0], header=header, format="jpeg", data=np.zeros(4, np.uint8))
    reader = fast_reader(TYPES, KINDS[0])
    assert reader is not None and reader(bytes(TYPES.serialize_cdr(image, KINDS[0], little_endian=False))) is None
    assert fast_reader(TYPES, "std_msgs/msg/String") is None


def test_a_type_that_a_bag_defines_otherwise_is_left_to_rosbags() -> None:
    from rosbags.typesys import Stores, get_typestore

    other = get_typestore(Stores.EMPTY)
    known = TYPES.fielddefs
    other.register({
        "builtin_interfaces/msg/Time": known["builtin_interfaces/msg/Time"],
        "std_msgs/msg/Header": known["std_msgs/msg/Header"],
        KINDS[0]: ([], [*known[KINDS[0]][1], ("more", known[KINDS[0]][1][1][1])]),
    })  # fmt: skip
    assert fast_reader(other, KINDS[0]) is None


def in_one_piece(serialised: list[bytes]) -> MessageBatch:
    return MessageBatch.joined(np.arange(len(serialised)), serialised)


def doubles_of(message: Any, kind: str) -> list[float]:
    if kind.endswith("JointState"):
        return list(message.position)
    if kind.endswith("PoseStamped"):
        at, turned = message.pose.position, message.pose.orientation
        return [at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w]
    if kind.endswith("TwistStamped"):
        parts = message.twist.linear, message.twist.angular
        return [value for part in parts for value in (part.x, part.y, part.z)]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_read_like_single_messages(kind: str) -> None:
    """Messages built like the first, others, damaged and cut off ones, in one piece of memory."""
    reader = fast_reader(TYPES, kind)
    assert reader is not None

    @settings(max_examples=150, deadline=None)
    @given(messages(kind), st.lists(messages(kind), max_size=3), st.data())
    def check(first: Any, others: list[Any], drawn: st.DataObject) -> None:
        serialised = [bytes(TYPES.serialize_cdr(message, kind)) for message in (first, *others)]
        for _ in range(drawn.draw(st.integers(1, 5))):
            data = bytearray(serialised[0])
            for _ in range(drawn.draw(st.integers(0, 2))):
                data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(small)
            data += bytes(drawn.draw(st.integers(0, 6)))  # more than the padding that may follow
            serialised.append(
                bytes(data[: drawn.draw(st.integers(0, len(data) + 1))] if drawn.draw(small) < 60 else data)
            )
        regular = BatchReader(kind, serialised[0])
        piece = in_one_piece(serialised)
        fits = regular.fits(piece.stop - piece.start)
        rows, stamp_ns, found = regular.read(regular.rows(piece, fits), (piece.stop - piece.start)[fits])
        which = np.flatnonzero(fits)[rows].tolist()
        assert which[0] == 0 and len(which) == len(stamp_ns) == len(found)
        for number, stamp, values in zip(which, stamp_ns.tolist(), found, strict=True):
            message = reader(serialised[number])
            assert message is not None
            assert stamp == message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert values.tobytes() == np.array(doubles_of(message, kind), np.float64).tobytes()
            if regular.pixels:
                begin = regular.pixels
                assert serialised[number][begin : begin + len(message.data)] == message.data.tobytes()

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_messages_that_differ_only_in_stamp_and_numbers_are_read_together(kind: str) -> None:
    """Also where a publisher leaves in the gaps between values whatever was in its memory."""

    @settings(max_examples=40, deadline=None)
    @given(messages(kind), st.integers(-(2**31), 2**31 - 1))
    def check(message: Any, seconds: int) -> None:
        first = bytes(TYPES.serialize_cdr(message, kind))
        message.header.stamp.sec = seconds
        second = bytearray(TYPES.serialize_cdr(message, kind))
        frame_stop = 16 + int.from_bytes(second[12:16], "little")
        if kind.endswith(("PoseStamped", "TwistStamped")):
            second[frame_stop : -(-(frame_stop - 4) // 8) * 8 + 4] = b"\xff" * (-(frame_stop - 4) % 8)
        regular = BatchReader(kind, first)
        piece = in_one_piece([first, bytes(second)])
        fits = regular.fits(piece.stop - piece.start)
        assert regular.read(regular.rows(piece, fits), (piece.stop - piece.start)[fits]).which.all() and fits.all()

    check()
