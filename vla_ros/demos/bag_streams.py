# SPDX-License-Identifier: Apache-2.0
"""The streams of an observation in a recording, read by the code that reads them on the robot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vla_ros.demos.errors import BagError
from vla_ros.demos.recording import Recording
from vla_ros.robot import TRANSFORMS, Robot
from vla_ros.stream_reader import Samples, StreamReader


class BagStream:
    """The stream `name` of the robot's file in a recording, where its `topic` is called so; `topics` are all of its.

    Transforms that never change count from the recording's start, as on the robot, where they are latched: wherever in
    the bag they are, because a recorder hears them when it has found their publisher.

    Raises:
        BagError: no transforms in the recording lead from the robot's base frame to its tool.
    """

    def __init__(self, recording: Recording, robot: Robot, name: str, topic: str) -> None:
        self.name = name
        self._recording = recording
        self._topic = topic
        self._reader = StreamReader(robot, name)
        self.topics = [topic]
        if self._reader.static_topic is not None:
            self._add_static(robot, f"{topic}_static")

    @property
    def faults(self) -> list[str]:
        """What was wrong with some of the messages that were read until now."""
        return [f"{self._topic}: {fault}" for fault in self._reader.faults]

    def read(self, topic: str, message: Any, receive_ns: int) -> Samples:
        """Return the samples that a message of one of the topics completes: (time of the event, value) of each.

        Raises:
            BagError: the message is not what the robot's file says.
        """
        try:
            if topic != self._topic:
                return self._reader.read_static(message)
            return self._reader.read(message, receive_ns)
        except (ValueError, IndexError) as error:
            raise BagError(f"bag {self._recording.path}, {topic}: {error}") from None

    def samples(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (receive time, time of the event, value) of all samples; raises BagError as `read`."""
        for topic, receive_ns, message in self._recording.messages(self.topics):
            for time_ns, value in self.read(topic, message, receive_ns):
                yield receive_ns, time_ns, value

    def _add_static(self, robot: Robot, topic: str) -> None:
        found = self._recording.topics.get(topic)
        latched: list[Any] = []
        if found is not None and found.type == TRANSFORMS:
            self.topics.append(topic)
            latched = [message for _, _, message in self._recording.messages([topic])]
        first = StreamReader(robot, self._reader.name)  # only to see whether there is a chain
        for message in latched:
            self._reader.prime(message)
            first.prime(message)
        for _, receive_ns, message in self._recording.messages([self._topic]):
            if first.read(message, receive_ns):
                return
        hint = "" if latched else f"; the bag has no topic {topic}, where transforms of parts that don't move are"
        raise BagError(
            f"bag {self._recording.path}, {self._topic}: {first.problem}{hint}. Record all of {self._topic} and "
            f"{topic}, or correct base_frame and ee_pose.ee_frame in the robot's file"
        )


def bag_streams(recording: Recording, robot: Robot, names: list[str]) -> dict[str, list[BagStream]]:
    """Return which streams each topic of the recording belongs to.

    Raises:
        BagError: the recording lacks a topic, or one has another type than the robot's file says; or as `BagStream`.
    """
    streams = {name: robot.stream(name) for name in names}
    topics = recording.find({name: (stream.topic, stream.type) for name, stream in streams.items()})
    found: dict[str, list[BagStream]] = {}
    for name, topic in topics.items():
        stream = BagStream(recording, robot, name, topic)
        for each in stream.topics:
            found.setdefault(each, []).append(stream)
    return found
