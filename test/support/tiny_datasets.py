# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets in the formats of others, written with nothing but numpy, so that tests know what is in them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def picture(shade: int, height: int = 10, width: int = 12) -> np.ndarray:
    """A picture that is unlike its neighbours: a shade, and a gradient."""
    image = np.full((height, width, 3), shade % 256, np.uint8)
    image[:, :, 1] = np.arange(width, dtype=np.uint8) * 20
    return image


def calvin_frame(number: int, relative: np.ndarray, euler: np.ndarray, width_m: float = 0.04) -> dict[str, Any]:
    state = np.zeros(15)
    state[:3] = (0.1 * number, 0.2, 0.3)
    state[3:6] = euler
    state[6] = width_m
    return {
        "rgb_static": picture(number, 20, 20),
        "rgb_gripper": picture(number + 100, 9, 9),
        "depth_static": np.zeros((20, 20), np.float32),
        "actions": np.zeros(7),
        "rel_actions": relative,
        "robot_obs": state,
        "scene_obs": np.zeros(24),
    }


def write_calvin(
    split: Path,
    segments: Sequence[tuple[int, int, str, str]],
    relative: np.ndarray,
    euler: np.ndarray,
    first: int = 0,
    recordings: Sequence[tuple[int, int]] | None = None,
) -> Path:
    """Write a split with the frames first .. first + len(relative) - 1, and (start, stop, text, task) as segments."""
    (split / "lang_annotations").mkdir(parents=True)
    for number, (action, angles) in enumerate(zip(relative, euler, strict=True), first):
        np.savez_compressed(split / f"episode_{number:07d}.npz", **calvin_frame(number, action, angles))
    annotations = {
        "language": {
            "ann": [text for _, _, text, _ in segments],
            "task": [task for _, _, _, task in segments],
            "emb": np.zeros((len(segments), 1, 384), np.float32),
        },
        "info": {"episodes": [], "indx": [(start, stop) for start, stop, _, _ in segments]},
    }
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", annotations, allow_pickle=True)
    np.save(split / "ep_start_end_ids.npy", np.array(recordings or [(first, first + len(relative) - 1)]))
    return split


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def write_rlds(folder: Path, dataset: str, shards: Sequence[Sequence[dict[str, list]]]) -> Path:
    """Write the shards of a data set's training split: records are features by name, lists of bytes, floats or ints."""
    folder.mkdir(parents=True)
    for index, examples in enumerate(shards):
        name = f"{dataset}-train.tfrecord-{index:05d}-of-{len(shards):05d}"
        (folder / name).write_bytes(b"".join(framed(encoded(example)) for example in examples))
    (folder / "features.json").write_text("{}")
    return folder


def framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + checksum(length) + record + checksum(record)


def checksum(data: bytes) -> bytes:
    """The masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def encoded(example: dict[str, list]) -> bytes:
    """A tf.train.Example."""
    entries = b"".join(
        field(1, field(1, name.encode()) + field(2, feature(values))) for name, values in example.items()
    )
    return field(1, entries)


def feature(values: list) -> bytes:
    if all(isinstance(value, bytes) for value in values):
        return field(1, b"".join(field(1, value) for value in values))
    if all(isinstance(value, int) for value in values):
        return field(3, field(1, b"".join(varint(value) for value in values)))
    return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])
