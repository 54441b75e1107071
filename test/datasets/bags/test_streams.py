# SPDX-License-Identifier: Apache-2.0
"""Skipped samples make no difference to the observation buffer of the live node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.datasets.bags import streams as bag_streams
from vla_ros.grid import Grid
from vla_ros.observations import observation
from vla_ros.observations.observation import ObservationBuffer
from vla_ros.robot import ObservationLimits

MS = 1_000_000
GRID, SETTLE_NS = Grid(10), 40 * MS
LIMITS = ObservationLimits(max_age_s=0.3, max_skew_s=0.1, frozen_s=None)
SPEC = ObservationSpec(cameras=(Camera("camera", 8, 8),), proprioception=())


class Received(NamedTuple):
    time_ns: int
    receive_ns: int


@st.composite
def streams(draw: st.DrawFn) -> list[Received]:
    """Late, early, out of order, repeated, in the future, and on the edges of ticks and settle times."""
    edges = st.sampled_from([-1, 0, 1])
    receive_ms = sorted(draw(st.lists(st.integers(-200, 2500), max_size=40)))
    ahead_ms = draw(st.sampled_from([0, 300, 1500]))
    found = []
    for receive in receive_ms:
        receive_ns = receive * MS if draw(st.booleans()) else receive // 20 * 20 * MS + draw(edges)
        time_ns = receive_ns + draw(st.integers(-400, ahead_ms)) * MS
        if draw(st.booleans()):
            time_ns = time_ns // (50 * MS) * 50 * MS + draw(edges)
        found.append(Received(time_ns, receive_ns))
    return sorted(found, key=lambda one: one.receive_ns)


def newest(stream: list[Received], given_to_it: np.ndarray, ticks: list[int]) -> list[tuple[int | None, int | None]]:
    """At each tick the number and the stamp of the sample that the buffer takes, as the live node fills it."""
    buffer = ObservationBuffer(SPEC, LIMITS)
    waiting = [number for number in range(len(stream)) if given_to_it[number]]
    seen = []
    for tick in ticks:
        while waiting and stream[waiting[0]].receive_ns <= GRID.start_ns(tick) + SETTLE_NS:
            number = waiting.pop(0)
            buffer.push("camera", stream[number].time_ns, number)
        number = buffer.value("camera", GRID.start_ns(tick))
        seen.append((number, None if number is None else stream[number].time_ns))
    return seen


def columns(stream: list[Received]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(stream, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@pytest.mark.parametrize("kept_samples", [observation.KEPT_SAMPLES, 5])
def test_every_tick_uses_the_same_sample_as_with_all_samples(
    monkeypatch: pytest.MonkeyPatch, kept_samples: int
) -> None:
    monkeypatch.setattr(observation, "KEPT_SAMPLES", kept_samples)
    monkeypatch.setattr(bag_streams, "KEPT_SAMPLES", kept_samples)

    @settings(max_examples=400, deadline=None)
    @given(streams(), st.none() | st.sets(st.integers(-3, 27)))
    def check(stream: list[Received], asked: set[int] | None) -> None:
        ticks = list(range(-3, 28)) if asked is None else sorted(asked)
        times = columns(stream)
        chosen = bag_streams.needed_samples(
            *times, None if asked is None else np.array(ticks, np.int64), GRID, SETTLE_NS
        )
        assert newest(stream, chosen, ticks) == newest(stream, np.ones(len(stream), bool), ticks)

    check()


def test_one_sample_per_tick_is_read_of_a_fast_stream() -> None:
    stream = [Received(ms * MS, ms * MS + 2 * MS) for ms in range(0, 2000, 4)]
    everything = bag_streams.needed_samples(*columns(stream), None, GRID, SETTLE_NS)
    assert everything.sum() == 21  # one before each of the ticks 0 to 19, and for the tick to come
    of_three = bag_streams.needed_samples(*columns(stream), np.array([3, 4, 9]), GRID, SETTLE_NS)
    assert [stream[number].time_ns // MS for number in np.flatnonzero(of_three)] == [300, 400, 900]


def test_all_samples_are_read_of_a_stream_too_fast_for_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tick's sample is forgotten before the tick has settled: so it is on the robot, and so it must be here."""
    monkeypatch.setattr(observation, "KEPT_SAMPLES", 5)
    monkeypatch.setattr(bag_streams, "KEPT_SAMPLES", 5)
    stream = [Received(99 * MS, 99 * MS)] + [Received(101 * MS + number, 102 * MS) for number in range(6)]
    chosen = bag_streams.needed_samples(*columns(stream), np.array([1]), GRID, SETTLE_NS)
    assert newest(stream, chosen, [1]) == newest(stream, np.ones(len(stream), bool), [1]) == [(None, None)]


def test_all_samples_are_read_if_clocks_differ() -> None:
    stream = [Received(ms * MS + 5_000 * MS, ms * MS) for ms in range(0, 2000, 4)]
    assert bag_streams.needed_samples(*columns(stream), None, GRID, SETTLE_NS).all()
