# SPDX-License-Identifier: Apache-2.0
"""A bag played through the live node's observation buffer: frame t from a bag is frame t on the robot."""

from __future__ import annotations

from collections.abc import Iterator

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.errors import BagError
from vla_ros.demos.recording import Recording
from vla_ros.messages import message_time_ns, observation_value
from vla_ros.observation import Observation, ObservationBuffer, Refusal
from vla_ros.robot import Robot

# Where nothing at all was received for longer than this, no sample is fresh any more and the ticks are passed over.
SILENCE_NS = 10_000_000_000


def observations(
    recording: Recording, robot: Robot, spec: ObservationSpec, timing: Timing
) -> Iterator[tuple[int, Observation | Refusal]]:
    """Yield (absolute tick, what the live node saw at that tick), for the ticks that the recording covers.

    As on the robot, the snapshot of a tick is taken `timing.settle_s` after it, from the messages received until then;
    so a message that came too late for the node comes too late here.

    Raises:
        BagError: a topic of the spec is missing in the bag, or a message is not what the robot's file says.
    """
    streams = {name: robot.stream(name) for name in spec.streams}
    topics = recording.find({name: (stream.topic, stream.type) for name, stream in streams.items()})
    readers: dict[str, list[str]] = {}
    for name, topic in topics.items():
        readers.setdefault(topic, []).append(name)
    buffer = ObservationBuffer(spec, robot.observation)
    period_ns, settle_ns = timing.period_ns, timing.settle_ns
    tick = -(-recording.start_ns // period_ns)
    for topic, receive_ns, message in recording.messages(readers):
        silence_ns = receive_ns - settle_ns - tick * period_ns
        pause_tick = tick + SILENCE_NS // period_ns if silence_ns > SILENCE_NS else None
        while tick * period_ns + settle_ns < receive_ns:
            if tick == pause_tick:
                tick = -(-(receive_ns - settle_ns) // period_ns)
                break
            yield tick, buffer.snapshot(tick * period_ns)
            tick += 1
        for name in readers[topic]:
            try:
                value = observation_value(message, robot, name)
            except (ValueError, IndexError) as error:
                raise BagError(f"bag {recording.path}, {topic}: {error}") from None
            if value is not None:
                buffer.push(name, message_time_ns(message, streams[name].stamp, receive_ns), value)
    while tick * period_ns + settle_ns <= recording.end_ns:
        yield tick, buffer.snapshot(tick * period_ns)
        tick += 1
