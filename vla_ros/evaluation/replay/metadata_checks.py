# SPDX-License-Identifier: Apache-2.0
"""Compare the cameras of a recording with a contract; needs no policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from vla_ros.contract import PolicyContract
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.recording import Recording, match_topic
from vla_ros.observations.messages import observation_value
from vla_ros.robot import Robot

RESOLUTION, RATE = "resolution", "control rate"
# A camera slightly slower than the control rate skips a frame now and then; at two thirds, every third frame is stale.
_MIN_RATE = 0.75


@dataclasses.dataclass(frozen=True)
class MetadataMismatch:
    """What is wrong, by name and in words."""

    name: str
    detail: str


def check_metadata(bag: Path, robot: Robot, contract: PolicyContract) -> list[MetadataMismatch]:
    """Return cameras of a bag whose images are too small or too infrequent; missing ones are reported elsewhere."""
    found = []
    with open_bag(bag) as recording:
        times_ns = recording.receive_times_ns()
        for camera in contract.cameras:
            stream = robot.cameras.get(camera.name)
            topic = match_topic(stream.topic, recording.topics) if stream is not None else None
            if topic is None or len(times_ns[topic]) < 2:
                continue
            rate_hz = 1e9 / float(np.median(np.diff(times_ns[topic])))
            where = f"{bag.name}: camera {camera.name}"
            if rate_hz < _MIN_RATE * contract.timing.control_hz:
                detail = f"{where} runs at {rate_hz:.1f} Hz, but the policy at {contract.timing.control_hz:g} Hz"
                found.append(MetadataMismatch(RATE, detail))
            size = _image_size(recording, robot, camera.name, topic)
            if size is not None and (size[0] < camera.height or size[1] < camera.width):
                detail = f"{where} has {size[1]} x {size[0]} pixels, the policy sees {camera.width} x {camera.height}"
                found.append(MetadataMismatch(RESOLUTION, detail))
    return found


def _image_size(recording: Recording, robot: Robot, camera: str, topic: str) -> tuple[int, int] | None:
    """Return height and width of the first image that can be decoded."""
    for _, _, message in recording.messages([topic]):
        try:
            height, width = observation_value(message, robot, camera).rgb().shape[:2]
        except ValueError:  # reported when the bag is read
            continue
        return int(height), int(width)
    return None
