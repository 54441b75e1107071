# SPDX-License-Identifier: Apache-2.0
"""What recordings say about themselves against what a contract states: no policy is asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from vla_ros.contract import PolicyContract
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.recording import Recording
from vla_ros.observations.messages import observation_value
from vla_ros.robot import Robot, match_topic

RESOLUTION, RATE = "resolution", "control rate"
# A camera a little slower than the control rate skips a frame now and then; at two thirds every third is an old one.
_SLOWEST = 0.75


@dataclasses.dataclass(frozen=True)
class Declared:
    """A mismatch by name and in words."""

    name: str
    detail: str


def declared_mismatches(bag: Path, robot: Robot, contract: PolicyContract) -> list[Declared]:
    """Compare the cameras of a bag with the contract: pictures too small, or too few a second.

    A topic that the bag lacks is not told here; reading the bag says so.
    """
    found = []
    with open_bag(bag) as recording:
        times_ns = recording.receive_times_ns()
        for camera in contract.cameras:
            stream = robot.cameras.get(camera.name)
            topic = match_topic(stream.topic, recording.topics) if stream is not None else None
            if topic is None or len(times_ns[topic]) < 2:
                continue
            rate_hz = 1e9 / float(np.median(np.diff(times_ns[topic])))
            if rate_hz < _SLOWEST * contract.timing.control_hz:
                wanted = f"the policy acts at {contract.timing.control_hz:g} Hz"
                found.append(
                    Declared(RATE, f"{bag.name}: camera {camera.name} gives {rate_hz:.1f} pictures/s, {wanted}")
                )
            size = _size(recording, robot, camera.name, topic)
            if size is not None and (size[0] < camera.height or size[1] < camera.width):
                wanted = f"the policy sees {camera.width} x {camera.height}"
                found.append(
                    Declared(RESOLUTION, f"{bag.name}: camera {camera.name} has {size[1]} x {size[0]} pixels, {wanted}")
                )
    return found


def _size(recording: Recording, robot: Robot, camera: str, topic: str) -> tuple[int, int] | None:
    """Height and width of the camera's first picture that can be decoded."""
    for _, _, message in recording.messages([topic]):
        try:
            height, width = observation_value(message, robot, camera).rgb().shape[:2]
        except ValueError:  # told by whoever reads the episodes
            continue
        return int(height), int(width)
    return None
