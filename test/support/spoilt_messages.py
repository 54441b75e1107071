# SPDX-License-Identifier: Apache-2.0
"""What becomes of a sensor's messages while something is wrong with it: each returns a function from one to another."""

from __future__ import annotations

import array
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from vla_ros.imaging import images

# compressed_depth_image_transport's configuration before the PNG: an enumerator and two floats.
COMPRESSED_DEPTH = array.array("B", struct.pack("<iff", 0, 0.0, 0.0) + b"\x89PNG\r\n\x1a\n" + bytes(40))


def shift(seconds: float) -> Callable[[Any], Any]:
    def shifted(message):
        stamp = message.header.stamp
        total_ns = stamp.sec * 10**9 + stamp.nanosec + round(seconds * 1e9)
        # A new one: the messages of one instant share theirs.
        message.header.stamp = type(stamp)(sec=total_ns // 10**9, nanosec=total_ns % 10**9)
        return message

    return shifted


def frozen_picture() -> Callable[[Any], Any]:
    first: list = []

    def frozen(message):
        first.append(message.data)
        message.data = first[0]
        return message

    return frozen


def frozen_stamp() -> Callable[[Any], Any]:
    first: list = []

    def frozen(message):
        first.append(message.header.stamp)
        message.header.stamp = first[0]
        return message

    return frozen


def swapped() -> Callable[[Any], Any]:
    """Each second message before the first: out of order by one."""
    held: list = []

    def swap(message):
        held.append(message)
        if len(held) < 2:
            return None
        pair = [held[1], held[0]]
        held.clear()
        return pair

    return swap


def changed(**fields: Any) -> Callable[[Any], Any]:
    def change(message):
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    return change


def truncated(message: Any) -> Any:
    message.data = message.data[: len(message.data) // 3]
    return message


def larger(message: Any) -> Any:
    pixels = np.random.default_rng(message.header.stamp.nanosec).integers(0, 255, (24, 40, 3), np.uint8)
    if hasattr(message, "encoding"):
        message.height, message.width, message.step, message.data = 24, 40, 120, array.array("B", pixels.tobytes())
    else:
        message.data = array.array("B", images.encode_jpeg(pixels))
    return message


def pose(x: float, frame: str = "base_link") -> Callable[[Any], Any]:
    def change(message):
        message.pose.position.x, message.header.frame_id = x, frame
        return message

    return change
