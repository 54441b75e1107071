# SPDX-License-Identifier: Apache-2.0
"""A recording played through the live node's observation buffer: frame t of a bag is frame t on the robot.

Messages are read by the same code as on the robot; those that no tick of the control grid uses are not read at all.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.batch_reader import Columns, TopicTable, read_tables
from vla_ros.datasets.bags.recording import MessageRef, MessageRefs, Recording
from vla_ros.datasets.errors import BagError
from vla_ros.grid import Grid
from vla_ros.imaging.images import FrameArena
from vla_ros.observations.messages import LazyImage, Samples, StreamReader, measured_opening
from vla_ros.observations.observation import KEPT_NS, KEPT_SAMPLES, Observation, ObservationBuffer, Refusal
from vla_ros.robot import Robot
from vla_ros.robot_streams import TRANSFORMS, GripperCommand, GripperState, PoseStream, Stream

Times = NDArray[np.int64]
Tick = tuple[int, Observation | Refusal | None]  # number of the tick, what the live node saw
Sample = tuple[int, str | None, int, Any]  # receive time, stream, time of the event, value
_OrderedSample = tuple[int, MessageRef, str | None, int, Any]

# If nothing at all was received for longer than this, no sample is fresh any more and ticks are skipped.
SILENCE_NS = 10_000_000_000


def observations(
    recording: Recording,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    commands: Sequence[tuple[int, str]] | None = None,
    ticks: Times | None = None,
) -> Iterator[Tick]:
    """Yield (absolute tick, what the live node saw at it) for the ticks that the recording covers.

    As on the robot, the snapshot of a tick is taken `timing.settle_s` after it, from the messages received by then: a
    message that was too late for the node is too late here.

    Args:
        commands: (time, text), ascending, instead of the language topic, if the episodes are described elsewhere.
        ticks: The only ticks that matter, ascending; None is yielded for all others, and less has to be read.

    Raises:
        BagError: The bag lacks a topic or a transform between base and tool, or a message contradicts the robot file.
    """
    names = [name for name in spec.streams if name != "language" or commands is None]
    if robot.observation.frozen_s is not None:
        ticks = None  # how long an image has not changed is only known if all of them are read
    samples = BagSamples(recording, bag_streams(recording, robot, names), ticks, timing)
    buffer = ObservationBuffer(spec, robot.observation, FrameArena())
    sampler = _GridSampler(
        buffer,
        timing.grid,
        timing.settle_ns,
        tick=timing.grid.first_from(recording.start_ns),
        skipped_ns=samples.skipped_ns,
        commands=collections.deque(commands or ()),
        ticks=None if ticks is None else set(ticks.tolist()),
    )
    last_ns = recording.start_ns
    for receive_ns, stream, time_ns, value in samples:
        if receive_ns > sampler.due_ns:
            yield from sampler.received(receive_ns)
        last_ns = receive_ns
        if stream is not None:
            buffer.push(stream, time_ns, value)
    last_ns = max([last_ns, *samples.skipped_ns[-1:]])
    yield from sampler.received(last_ns)
    yield from sampler.until(min(recording.end_ns, last_ns + SILENCE_NS) + 1)


@dataclasses.dataclass
class _GridSampler:
    """Takes the snapshots from `tick` on as the recording's time passes; see `observations`."""

    buffer: ObservationBuffer
    grid: Grid
    settle_ns: int
    tick: int
    skipped_ns: Sequence[int]
    commands: collections.deque[tuple[int, str]]
    ticks: set[int] | None

    @property
    def due_ns(self) -> int:
        """When the next tick has settled."""
        return self.grid.start_ns(self.tick) + self.settle_ns

    def received(self, receive_ns: int) -> Iterator[Tick]:
        """Yield the ticks that have settled when a message is received, whether that or an earlier, skipped one."""
        while receive_ns > self.due_ns:
            index = bisect.bisect_right(self.skipped_ns, self.due_ns)
            yield from self.until(min([receive_ns, *self.skipped_ns[index : index + 1]]))

    def until(self, time_ns: int) -> Iterator[Tick]:
        """Yield the ticks that settle before `time_ns`, except those deep in a silence."""
        silence_ns = time_ns - self.due_ns
        pause_tick = self.tick + SILENCE_NS // self.grid.period_ns if silence_ns > SILENCE_NS else None
        while self.due_ns < time_ns:
            if self.tick == pause_tick:
                self.tick = self.grid.first_from(time_ns - self.settle_ns)
                break
            tick_ns = self.grid.start_ns(self.tick)
            while self.commands and self.commands[0][0] <= tick_ns:
                self.buffer.push("language", *self.commands.popleft())
            asked = self.ticks is None or self.tick in self.ticks
            yield self.tick, self.buffer.snapshot(tick_ns) if asked else None
            self.tick += 1


class BagStream:
    """The stream `name` of a robot, recorded on `topic`; `topics` are all topics it takes.

    Static transforms hold from the recording's start, wherever in the bag they are: on the robot they are latched, and
    recorders receive them only when they discover the publisher.

    Raises:
        BagError: No transforms in the recording connect the robot's base frame with its tool.
    """

    def __init__(self, recording: Recording, robot: Robot, name: str, topic: str) -> None:
        self.name = name
        self._recording = recording
        self._topic = topic
        self._reader = StreamReader(robot, name)
        self.stream = self._reader.stream
        self.topics = [topic]
        if self._reader.static_topic is not None:
            self._prime(robot, f"{topic}_static")

    @property
    def faults(self) -> list[str]:
        """What was wrong with some of the messages read so far."""
        return [f"{self._topic}: {fault}" for fault in self._reader.faults]

    def read(self, topic: str, message: Any, receive_ns: int) -> Samples:
        """Return the samples that a message on one of the topics completes; BagError if it contradicts the robot."""
        try:
            if topic != self._topic:
                return self._reader.read_static(message)
            return self._reader.read(message, receive_ns)
        except (ValueError, IndexError) as error:
            raise BagError(f"bag {self._recording.path}, {topic}: {error}") from None

    def samples(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (receive time, time of the event, value) of all samples; raises BagError, as `read`."""
        for topic, receive_ns, message in self._recording.messages(self.topics):
            for time_ns, value in self.read(topic, message, receive_ns):
                yield receive_ns, time_ns, value

    def covers(self, table: TopicTable) -> bool:
        """Return whether each message of the table is one sample; otherwise `read` has to take them."""
        try:
            return len(self._reader.read(table.first, 0)) == 1
        except (ValueError, IndexError):
            return False  # `read` reports it

    def value(self, table: TopicTable, numbers: NDArray[np.float64]) -> Any:
        """Return a sample's value from a row of the table."""
        if isinstance(self.stream, GripperState):
            joints = SimpleNamespace(name=self.stream.joints, position=numbers.tolist())
            return measured_opening(joints, self.stream)
        return numbers

    def image(self, table: TopicTable, data: bytes) -> LazyImage:
        """Return the image in a serialized message of the table, as `read` does but without parsing the rest."""
        begin = table.pixels
        stop = begin + int.from_bytes(data[begin - 4 : begin], "little")
        return self._reader.image(table.first, memoryview(data)[begin:stop])

    def _prime(self, robot: Robot, static_topic: str) -> None:
        """Start with the static transforms, and check that a chain exists."""
        found = self._recording.topics.get(static_topic)
        latched: list[Any] = []
        if found is not None and found.type == TRANSFORMS:
            self.topics.append(static_topic)
            latched = [message for _, _, message in self._recording.messages([static_topic])]
        probe = StreamReader(robot, self._reader.name)
        for message in latched:
            self._reader.prime(message)
            probe.prime(message)
        for _, receive_ns, message in self._recording.messages([self._topic]):
            if probe.read(message, receive_ns):
                return
        hint = "" if latched else f"; the bag has no topic {static_topic}, which carries transforms of fixed parts"
        raise BagError(
            f"bag {self._recording.path}, {self._topic}: {probe.problem}{hint}. Record all of {self._topic} and "
            f"{static_topic}, or correct base_frame and ee_pose.ee_frame in the robot file"
        )


def event_times_ns(table: TopicTable, stream: Stream | GripperState | GripperCommand) -> Times:
    """Return the times (n,) of a table's events, as `messages.message_time_ns` does."""
    from_header = not isinstance(stream, GripperCommand) and stream.stamp == "header"
    times_ns = table.stamp_ns if from_header else table.refs.receive_ns
    return times_ns - round(stream.latency_s * 1e9)


def columns_of(stream: Stream | GripperState) -> Columns | None:
    """Return which numbers of a stream's messages make a sample; None if a sample takes several messages."""
    if isinstance(stream, GripperState):
        joints = stream.joints
        return lambda first: tuple(first.name.index(one) for one in joints if one in first.name[: len(first.position)])
    if isinstance(stream, PoseStream):
        return None if stream.static_topic is not None else lambda first: tuple(range(7))
    return lambda first: ()


def bag_streams(recording: Recording, robot: Robot, names: list[str]) -> dict[str, list[BagStream]]:
    """Return the streams that take each topic of the recording.

    Raises:
        BagError: The recording lacks a topic, or one has another type than the robot file says; or as `BagStream`.
    """
    streams = {name: robot.stream(name) for name in names}
    topics = recording.find({name: (stream.topic, stream.type) for name, stream in streams.items()})
    found: dict[str, list[BagStream]] = {}
    for name, topic in topics.items():
        stream = BagStream(recording, robot, name, topic)
        for each in stream.topics:
            found.setdefault(each, []).append(stream)
    return found


class BagSamples:
    """Iterates over the samples (receive time, stream, time of the event, value) in order of receipt.

    A message without a sample comes with None as its stream.

    `streams` are those of `bag_streams`, and `ticks` those of `observations`. `skipped_ns` are the receive times,
    ascending, of messages that are not read because no tick uses them.

    Raises:
        BagError: A message contradicts the robot file.
    """

    def __init__(
        self, recording: Recording, streams: Mapping[str, Sequence[BagStream]], ticks: Times | None, timing: Timing
    ) -> None:
        self._recording = recording
        self._streams = streams
        # Samples known from tables; images are represented by how to read them.
        self._ready: list[_OrderedSample] = []
        images, left_out, skipped = [], [], []
        alone = {topic: found[0] for topic, found in streams.items() if len(found) == 1}
        columns = {topic: which for topic, stream in alone.items() if (which := columns_of(stream.stream)) is not None}
        for topic, table in read_tables(recording, columns).items():
            stream = alone[topic]
            if not stream.covers(table):
                continue
            time_ns, receive_ns = event_times_ns(table, stream.stream), table.refs.receive_ns
            needed = needed_samples(time_ns, receive_ns, ticks, timing.grid, timing.settle_ns)
            skipped.append(receive_ns[~needed])
            left_out.append(table.refs)
            refs = table.refs.select(needed)
            values: Iterable[Any]
            if table.pixels:
                images.append(refs)
                values = itertools.repeat(_UnreadImage(functools.partial(stream.image, table)))
            else:
                values = (stream.value(table, row) for row in table.numbers[needed])
            plain_refs = zip(refs.file.tolist(), refs.entry.tolist())
            times = refs.receive_ns.tolist(), time_ns[needed].tolist()
            self._ready += zip(times[0], plain_refs, itertools.repeat(stream.name), times[1], values)
        self._ready.sort(key=lambda sample: sample[:2])
        self._images = MessageRefs.merged(images)
        self._left_out = recording.mask(left_out)
        self.skipped_ns: list[int] = np.sort(np.concatenate([np.zeros(0, np.int64), *skipped])).tolist()

    def __iter__(self) -> Iterator[Sample]:
        serialized = self._recording.read(self._images)
        # No two samples have the same reference, so comparisons never get to the values.
        for receive_ns, _, stream, time_ns, value in heapq.merge(self._ready, self._read()):
            if type(value) is _UnreadImage:
                value = value.read(next(serialized))
            yield receive_ns, stream, time_ns, value

    def _read(self) -> Iterator[_OrderedSample]:
        for ref, topic, receive_ns, message in self._recording.messages_with_refs(self._streams, self._left_out):
            found = False
            for stream in self._streams[topic]:
                for time_ns, value in stream.read(topic, message, receive_ns):
                    found = True
                    yield receive_ns, ref, stream.name, time_ns, value
            if not found:
                yield receive_ns, ref, None, 0, None


class _UnreadImage(NamedTuple):
    """Stands for an image whose message is still to be read; `read` turns that into the sample's value."""

    read: Callable[[bytes], Any]


def needed_samples(
    time_ns: Times, receive_ns: Times, ticks: Times | None, grid: Grid, settle_ns: int
) -> NDArray[np.bool_]:
    """Return which samples of a stream (n,), in order of receipt, the observation buffer has to be given.

    A tick uses the newest sample stamped at or before it, of those received until it has settled. So of the samples
    that could first be used at the same tick, only the newest ever is. The buffer still decides, as on the robot; this
    only leaves out what makes no difference to it.

    The buffer forgets samples `KEPT_NS` older than another one, or more than `KEPT_SAMPLES` before it. If stamps lie so
    far in the future (two clocks), or samples arrive so fast, that a tick would use one of those, all are needed.

    `ticks` are those at which the buffer is read, ascending, None for all, each `settle_ns` after its time.
    """
    ahead_ns = int((time_ns - receive_ns).max(initial=0)) + settle_ns
    fastest = receive_ns[KEPT_SAMPLES:] - receive_ns[:-KEPT_SAMPLES]
    if ahead_ns >= KEPT_NS or not (fastest > 2 * KEPT_NS).all():
        return np.ones(len(time_ns), bool)
    first = grid.first_from(np.maximum(time_ns, receive_ns - settle_ns))
    if ticks is not None:
        index = np.searchsorted(ticks, first)
        first = np.append(ticks, np.iinfo(np.int64).max)[index]
    # By tick, then by time; of equal times, the one received first counts.
    order = np.lexsort((-np.arange(len(first)), time_ns, first))
    newest = np.append(first[order][1:] != first[order][:-1], True)[: len(first)]
    result = np.zeros(len(first), bool)
    result[order[newest]] = True
    result &= first != np.iinfo(np.int64).max
    return result
