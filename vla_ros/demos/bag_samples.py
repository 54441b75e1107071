# SPDX-License-Identifier: Apache-2.0
"""The samples of a recording's streams in the order of receipt, without those that no tick takes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import Timing
from vla_ros.demos.bag_streams import BagStream
from vla_ros.demos.recording import Place, Recording
from vla_ros.demos.selecting import taken
from vla_ros.demos.topic_tables import TopicTable, read_tables

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
        self._ready: list[_Ordered] = []
        left_out, passed_over = [], []
        alone = {topic: found[0] for topic, found in streams.items() if len(found) == 1}
        columns = {topic: stream.columns for topic, stream in alone.items() if stream.columns is not None}
        for topic, table in read_tables(recording, columns).items():
            stream = alone[topic]
            if not stream.reads(table):
                continue
            time_ns = stream.times_ns(table)
            wanted = taken(time_ns, table.places.receive_ns, ticks, timing.period_ns, timing.settle_ns)
            passed_over.append(table.places.receive_ns[~wanted])
            left_out.append(table.places.chosen(~wanted))
            if not table.pixels:
                left_out.append(table.places.chosen(wanted))
                self._ready += _in_order(stream, table, time_ns, np.flatnonzero(wanted))
        self._ready.sort(key=lambda sample: sample[:2])
        self._left_out = recording.marked(left_out)
        self.passed_over_ns: list[int] = np.sort(np.concatenate([np.zeros(0, np.int64), *passed_over])).tolist()

    def __iter__(self) -> Iterator[Sample]:
        for receive_ns, _, stream, time_ns, value in heapq.merge(self._ready, self._read(), key=lambda one: one[:2]):
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


def _in_order(
    stream: BagStream, table: TopicTable, time_ns: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[_Ordered]:  # fmt: skip
    places = (column.tolist() for column in table.places.chosen(rows))
    values = [stream.value(table, row) for row in table.numbers[rows]]
    return [
        (receive_ns, (file, entry), stream.name, at_ns, value)
        for file, entry, receive_ns, at_ns, value in zip(*places, time_ns[rows].tolist(), values, strict=True)
    ]
