# SPDX-License-Identifier: Apache-2.0
"""A bag played through the live node's observation buffer: frame t from a bag is frame t on the robot."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.bag_streams import bag_streams
from vla_ros.demos.recording import Recording
from vla_ros.observation import Observation, ObservationBuffer, Refusal
from vla_ros.robot import Robot

# Where nothing at all was received for longer than this, no sample is fresh any more and the ticks are passed over.
SILENCE_NS = 10_000_000_000


def observations(
    recording: Recording,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    commands: Sequence[tuple[int, str]] | None = None,
) -> Iterator[tuple[int, Observation | Refusal]]:
    """Yield (absolute tick, what the live node saw at that tick), for the ticks that the recording covers.

    As on the robot, the snapshot of a tick is taken `timing.settle_s` after it, from the messages received until then;
    so a message that came too late for the node comes too late here. `commands`, (time, text) ascending, replace the
    language topic where the recording's episodes are described elsewhere.

    Raises:
        BagError: a topic of the spec or a transform between base and tool is missing in the bag, or a message is not
            what the robot's file says.
    """
    heard = [name for name in spec.streams if name != "language" or commands is None]
    streams = bag_streams(recording, robot, heard)
    sampler = _Sampler(ObservationBuffer(spec, robot.observation), timing, recording.start_ns, commands or ())
    last_ns = recording.start_ns
    for topic, receive_ns, message in recording.messages(streams):
        if receive_ns > sampler.due_ns:
            yield from sampler.until(receive_ns)
        last_ns = receive_ns
        for stream in streams[topic]:
            for time_ns, value in stream.read(topic, message, receive_ns):
                sampler.buffer.push(stream.name, time_ns, value)
    yield from sampler.until(min(recording.end_ns, last_ns + SILENCE_NS) + 1)


class _Sampler:
    """Takes the snapshots of the ticks in passing, as the recording's time goes on."""

    def __init__(
        self, buffer: ObservationBuffer, timing: Timing, start_ns: int, commands: Sequence[tuple[int, str]]
    ) -> None:
        self.buffer = buffer
        self._period_ns, self._settle_ns = timing.period_ns, timing.settle_ns
        self._tick = -(-start_ns // self._period_ns)
        self._commands = collections.deque(commands)

    @property
    def due_ns(self) -> int:
        """When the settle time of the next tick is over."""
        return self._tick * self._period_ns + self._settle_ns

    def until(self, time_ns: int) -> Iterator[tuple[int, Observation | Refusal]]:
        """Yield the ticks whose settle time is over before `time_ns`; those deep in a silence are passed over."""
        silence_ns = time_ns - self._settle_ns - self._tick * self._period_ns
        pause_tick = self._tick + SILENCE_NS // self._period_ns if silence_ns > SILENCE_NS else None
        while self._tick * self._period_ns + self._settle_ns < time_ns:
            if self._tick == pause_tick:
                self._tick = -(-(time_ns - self._settle_ns) // self._period_ns)
                break
            tick_ns = self._tick * self._period_ns
            while self._commands and self._commands[0][0] <= tick_ns:
                self.buffer.push("language", *self._commands.popleft())
            yield self._tick, self.buffer.snapshot(tick_ns)
            self._tick += 1
