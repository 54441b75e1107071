# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from vla_ros.nodes.ros_clock import RosClock


class SystemClock:
    """What of an rclpy clock without simulated time is used; it shows `times_ns`, one after the other."""

    ros_time_is_active = False

    def __init__(self, *times_ns: int) -> None:
        self._times_ns = list(times_ns)

    def now(self) -> SimpleNamespace:
        return SimpleNamespace(nanoseconds=self._times_ns.pop(0) if len(self._times_ns) > 1 else self._times_ns[0])

    def create_jump_callback(self, threshold, post_callback) -> None: ...


def test_a_sleeper_is_told_that_the_system_s_clock_was_set_back():
    second = 10**9
    clock = RosClock(SystemClock(200 * second, 200 * second, 100 * second))
    assert not clock.sleep_until_ns(200 * second + 1_000_000)


def test_a_sleeper_sleeps_until_the_time():
    clock = RosClock(SystemClock(0, 0, 500_000, 1_000_000))
    assert clock.sleep_until_ns(1_000_000)
