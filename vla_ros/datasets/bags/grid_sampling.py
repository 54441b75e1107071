# SPDX-License-Identifier: Apache-2.0
"""A bag played through the live node's observation buffer: frame t from a bag is frame t on the robot."""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.frame_arena import PictureRoom
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.samples import BagSamples
from vla_ros.datasets.bags.streams import bag_streams
from vla_ros.observations.observation import Observation, ObservationBuffer, Refusal
from vla_ros.robot import Robot

# Where nothing at all was received for longer than this, no sample is fresh any more and the ticks are passed over.
SILENCE_NS = 10_000_000_000


def observations(
    recording: Recording,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    commands: Sequence[tuple[int, str]] | None = None,
    ticks: NDArray[np.int64] | None = None,
) -> Iterator[tuple[int, Observation | Refusal | None]]:
    """Yield (absolute tick, what the live node saw at that tick), for the ticks that the recording covers.

    As on the robot, the snapshot of a tick is taken `timing.settle_s` after it, from the messages received until then;
    so a message that came too late for the node comes too late here. `commands`, (time, text) ascending, replace the
    language topic where the recording's episodes are described elsewhere.

    ticks: ascending, the only ones that matter; None is yielded for all others, and less has to be read.

    Raises:
        BagError: a topic of the spec or a transform between base and tool is missing in the bag, or a message is not
            what the robot's file says.
    """
    heard = [name for name in spec.streams if name != "language" or commands is None]
    if robot.observation.frozen_s is not None:
        ticks = None  # how long a picture has not changed is known to who looks at each of them
    samples = BagSamples(recording, bag_streams(recording, robot, heard), ticks, timing)
    buffer = ObservationBuffer(spec, robot.observation, PictureRoom())
    sampler = _Sampler(buffer, timing, recording.start_ns, samples.passed_over_ns, commands or (), ticks)
    last_ns = recording.start_ns
    for receive_ns, stream, time_ns, value in samples:
        if receive_ns > sampler.due_ns:
            yield from sampler.received(receive_ns)
        last_ns = receive_ns
        if stream is not None:
            buffer.push(stream, time_ns, value)
    last_ns = max([last_ns, *samples.passed_over_ns[-1:]])
    yield from sampler.received(last_ns)
    yield from sampler.until(min(recording.end_ns, last_ns + SILENCE_NS) + 1)


class _Sampler:
    """Takes the snapshots of the ticks in passing, as the recording's time goes on.

    passed_over_ns: ascending, when messages were received of which nobody is told. ticks: as `observations`.
    """

    def __init__(
        self,
        buffer: ObservationBuffer,
        timing: Timing,
        start_ns: int,
        passed_over_ns: Sequence[int],
        commands: Sequence[tuple[int, str]],
        ticks: NDArray[np.int64] | None,
    ) -> None:
        self._buffer = buffer
        self._period_ns, self._settle_ns = timing.period_ns, timing.settle_ns
        self._tick = -(-start_ns // self._period_ns)
        self._passed_over_ns = passed_over_ns
        self._commands = collections.deque(commands)
        self._ticks = None if ticks is None else set(ticks.tolist())
        self.due_ns = self._due_ns()

    def received(self, receive_ns: int) -> Iterator[tuple[int, Observation | Refusal | None]]:
        """Yield the ticks whose settle time is over when a message is received, or one that was passed over before."""
        while receive_ns > self.due_ns:
            index = bisect.bisect_right(self._passed_over_ns, self.due_ns)
            yield from self.until(min([receive_ns, *self._passed_over_ns[index : index + 1]]))

    def until(self, time_ns: int) -> Iterator[tuple[int, Observation | Refusal | None]]:
        """Yield the ticks whose settle time is over before `time_ns`; those deep in a silence are passed over."""
        silence_ns = time_ns - self._settle_ns - self._tick * self._period_ns
        pause_tick = self._tick + SILENCE_NS // self._period_ns if silence_ns > SILENCE_NS else None
        while self._due_ns() < time_ns:
            if self._tick == pause_tick:
                self._tick = -(-(time_ns - self._settle_ns) // self._period_ns)
                break
            tick_ns = self._tick * self._period_ns
            while self._commands and self._commands[0][0] <= tick_ns:
                self._buffer.push("language", *self._commands.popleft())
            asked = self._ticks is None or self._tick in self._ticks
            yield self._tick, self._buffer.snapshot(tick_ns) if asked else None
            self._tick += 1
        self.due_ns = self._due_ns()

    def _due_ns(self) -> int:
        """When the settle time of the next tick is over."""
        return self._tick * self._period_ns + self._settle_ns
