# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.observations.observation import ObservationBuffer, ObservationQueue, Refusal
from vla_ros.robot import ObservationLimits
from vla_ros.runtime.stats import RecentValues, StreamRate


def test_recent_values_keep_the_last_and_count_all():
    values = RecentValues(kept=100)
    assert values.summary() is None
    for value in range(1000):
        values.add(value)
    summary = values.summary()
    assert (summary.count, summary.maximum) == (1000, 999)
    assert summary.p50 == pytest.approx(949.5) and summary.p95 == pytest.approx(994, abs=1)


def test_a_stream_reports_its_rate_and_the_messages_its_stamps_say_are_missing():
    stream = StreamRate()
    period_ns = 50_000_000
    for index in range(30):
        if index not in (20, 21):
            stream.add(index * period_ns)
    assert stream.rate_hz == pytest.approx(20.0)
    assert (stream.received, stream.lost) == (28, 2)


def test_a_stream_ignores_stamps_out_of_order():
    stream = StreamRate()
    for stamp in (10, 20, 15, 20, 30):
        stream.add(stamp)
    assert stream.received == 3


def test_the_stamp_that_an_observation_of_then_held_is_known_while_it_is_kept():
    stream = StreamRate(kept=3)
    for stamp in (10, 20, 30, 40):
        stream.add(stamp)
    assert [stream.newest_at(time_ns) for time_ns in (50, 39, 30, 15)] == [40, 30, 30, None]


class Picture:
    def rgb(self):
        return np.zeros((4, 4, 3), np.uint8)

    def fingerprint(self):
        return b""


def test_samples_reach_the_buffer_in_order_and_a_clear_forgets_those_before_it():
    limits = ObservationLimits(max_age_s=1.0, max_skew_s=1.0, frozen_s=None)
    intake = ObservationQueue(ObservationBuffer(ObservationSpec((Camera("static", 4, 4),)), limits))
    intake.push("static", 100, Picture())
    intake.push("language", 100, "old")
    intake.clear()
    intake.push("static", 150, Picture())
    assert isinstance(intake.snapshot(200), Refusal)
    intake.push("language", 160, "new")
    observation = intake.snapshot(200)
    assert observation.command == "new" and observation.stamps_ns["static"] == 150
