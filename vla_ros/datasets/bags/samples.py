# SPDX-License-Identifier: Apache-2.0
"""The samples of a recording's streams in the order of receipt, without those that no tick takes."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import Timing
from vla_ros.datasets.bags.cdr.topic_tables import read_tables
from vla_ros.datasets.bags.message_refs import Place, Places
from vla_ros.datasets.bags.needed_samples import taken
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.streams import BagStream

Sample = tuple[int, str | None, int, Any]  # receive time, stream, time of the event, value
_Ordered = tuple[int, Place, str | None, int, Any]


class BagSamples:
    """Yields the samples (receive time, stream, time of the event, value) of `streams`, as `bag_streams` gives them.

    A message without a sample comes with None for its stream.

    ticks: as `observations`. passed_over_ns: when messages were received of which nothing is yielded, ascending.

    Raises:
        BagError: a message is not what the robot's file says.
    """

    def __init__(
        self,
        recording: Recording,
        streams: Mapping[str, Sequence[BagStream]],
        ticks: NDArray[np.int64] | None,
        timing: Timing,
    ) -> None:
        self._recording = recording
        self._streams = streams
        # Samples that are known; of pictures how they are read, instead of the value, and where they are.
        self._ready: list[_Ordered] = []
        pictures, left_out, passed_over = [], [], []
        alone = {topic: found[0] for topic, found in streams.items() if len(found) == 1}
        columns = {topic: stream.columns for topic, stream in alone.items() if stream.columns is not None}
        for topic, table in read_tables(recording, columns).items():
            stream = alone[topic]
            if not stream.reads(table):
                continue
            time_ns, receive_ns = stream.times_ns(table), table.places.receive_ns
            wanted = taken(time_ns, receive_ns, ticks, timing.period_ns, timing.settle_ns)
            passed_over.append(receive_ns[~wanted])
            left_out.append(table.places)
            values: Iterable[Any]
            if table.pixels:
                pictures.append(table.places.chosen(wanted))
                values = itertools.repeat(_Picture(functools.partial(stream.picture, table)))
            else:
                values = (stream.value(table, row) for row in table.numbers[wanted])
            places = _places(table.places.chosen(wanted))
            self._ready += zip(*places, itertools.repeat(stream.name), time_ns[wanted].tolist(), values)
        self._ready.sort(key=lambda sample: sample[:2])
        self._pictures = Places.joined(pictures)
        self._left_out = recording.marked(left_out)
        self.passed_over_ns: list[int] = np.sort(np.concatenate([np.zeros(0, np.int64), *passed_over])).tolist()

    def __iter__(self) -> Iterator[Sample]:
        serialised = self._recording.read(self._pictures)
        # No two of the tuples have the same place, so they are never compared beyond it.
        for receive_ns, _, stream, time_ns, value in heapq.merge(self._ready, self._read()):
            if type(value) is _Picture:
                value = value.read(next(serialised))
            yield receive_ns, stream, time_ns, value

    def _read(self) -> Iterator[_Ordered]:
        for place, topic, receive_ns, message in self._recording.placed_messages(self._streams, self._left_out):
            found = False
            for stream in self._streams[topic]:
                for time_ns, value in stream.read(topic, message, receive_ns):
                    found = True
                    yield receive_ns, place, stream.name, time_ns, value
            if not found:
                yield receive_ns, place, None, 0, None


class _Picture(NamedTuple):
    """Stands for a picture whose message is not read yet: `read` makes the value of it."""

    read: Callable[[bytes], Any]


def _places(places: Places) -> tuple[list[int], Iterator[Place]]:
    """Receive times and places as plain numbers."""
    return places.receive_ns.tolist(), zip(places.file.tolist(), places.entry.tolist())
