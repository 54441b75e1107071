# SPDX-License-Identifier: Apache-2.0
"""The streams of an observation in a recording, read by the code that reads them on the robot."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.cdr.topic_tables import Columns, TopicTable
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.errors import BagError
from vla_ros.observations import messages
from vla_ros.observations.messages import LazyImage, Samples, StreamReader
from vla_ros.robot import TRANSFORMS, GripperCommand, GripperState, PoseStream, Robot, Stream


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

    @property
    def columns(self) -> Columns | None:
        """Which numbers of a message make a sample; None where that takes several messages."""
        return columns_of(self._reader.stream)

    def reads(self, table: TopicTable) -> bool:
        """Whether each message of the table is one sample; where not, its messages are for `read`."""
        try:
            return len(self._reader.read(table.first, 0)) == 1
        except (ValueError, IndexError):
            return False  # told by `read`

    def times_ns(self, table: TopicTable) -> NDArray[np.int64]:
        """The times of the events (n,) of the samples of a table."""
        return times_of(table, self._reader.stream)

    def value(self, table: TopicTable, numbers: NDArray[np.float64]) -> Any:
        """The value of a sample from the numbers of a row of the table."""
        stream = self._reader.stream
        if isinstance(stream, GripperState):
            return messages.measured_opening(SimpleNamespace(name=stream.joints, position=numbers.tolist()), stream)
        return numbers

    def picture(self, table: TopicTable, data: bytes) -> LazyImage:
        """The value of a sample from a serialised message of the table: as `read` makes it, without the rest."""
        begin = table.pixels
        stop = begin + int.from_bytes(data[begin - 4 : begin], "little")
        return self._reader.image(table.first, memoryview(data)[begin:stop])

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


def times_of(table: TopicTable, stream: Stream | GripperState | GripperCommand) -> NDArray[np.int64]:
    """Return when the events (n,) of a table of messages of a stream were, as `messages.message_time_ns`."""
    from_header = not isinstance(stream, GripperCommand) and stream.stamp == "header"
    times_ns = table.stamp_ns if from_header else table.places.receive_ns
    return times_ns - round(stream.latency_s * 1e9)


def columns_of(stream: Stream | GripperState) -> Columns | None:
    """Return which numbers of a stream's messages make a sample; None where that takes several messages."""
    if isinstance(stream, GripperState):
        return functools.partial(_positions, stream.joints)
    if isinstance(stream, PoseStream):
        return None if stream.static_topic is not None else _pose
    return _none


def _none(first: Any) -> tuple[int, ...]:
    return ()


def _pose(first: Any) -> tuple[int, ...]:
    return tuple(range(7))


def _positions(joints: Sequence[str], first: Any) -> tuple[int, ...]:
    """Where the positions of `joints` are in a JointState, as far as it has them."""
    found = [first.name.index(joint) for joint in joints if joint in first.name]
    return tuple(index for index in found if index < len(first.position))


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
