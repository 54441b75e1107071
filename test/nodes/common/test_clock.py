# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from vla_ros.grid import Grid
from vla_ros.nodes.common.clock import GridThread, RosClock

GRID_OF_100_NS = Grid(10_000_000)


class SystemClock:
    """What of an rclpy clock without simulated time is used; it shows `times_ns`, one after the other."""

    ros_time_is_active = False

    def __init__(self, *times_ns: int) -> None:
        self._times_ns = list(times_ns)

    def now(self) -> SimpleNamespace:
        return SimpleNamespace(nanoseconds=self._times_ns.pop(0) if len(self._times_ns) > 1 else self._times_ns[0])

    def create_jump_callback(self, threshold, post_callback) -> None: ...


def test_a_sleeper_wakes_when_the_system_clock_is_set_back():
    second = 10**9
    clock = RosClock(SystemClock(200 * second, 200 * second, 100 * second))
    assert not clock.sleep_until_ns(200 * second + 1_000_000)


def test_a_sleeper_sleeps_until_the_time():
    clock = RosClock(SystemClock(0, 0, 500_000, 1_000_000))
    assert clock.sleep_until_ns(1_000_000)


class SteppedClock:
    """A clock that a test sets: each sleep ends at the next of `times_ns`; a time before the last one is a set-back."""

    def __init__(self, *times_ns: int) -> None:
        self._times_ns = list(times_ns)
        self._now_ns = self._times_ns.pop(0)
        self.closed = threading.Event()

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, time_ns: int) -> bool:
        if not self._times_ns:
            self.closed.wait()
            return False
        before_ns, self._now_ns = self._now_ns, self._times_ns.pop(0)
        return self._now_ns >= max(time_ns, before_ns)

    def close(self) -> None:
        self.closed.set()


def ticks_of(*times_ns: int) -> list[int]:
    """When a grid of 100 ns calls back, on a clock that shows these times."""
    ticks: list[int] = []
    clock = SteppedClock(*times_ns)
    thread = GridThread(clock, GRID_OF_100_NS, lambda: ticks.append(clock.now_ns()))
    thread.start()
    while len(clock._times_ns):
        time.sleep(0.001)
    thread.stop()
    return ticks


def test_a_grid_thread_calls_back_at_each_multiple_of_the_period_and_not_in_between():
    assert ticks_of(130, 200, 250, 301, 400) == [200, 301, 400]


def test_a_grid_thread_calls_back_on_the_exact_grid_of_any_rate_at_any_time():
    grid = Grid(29.97)
    first = grid.tick_at(1_800_000_000 * 10**9)
    due = [grid.start_ns(first + tick) for tick in range(5)]
    ticks: list[int] = []
    clock = SteppedClock(due[0], due[1] - 1, due[1], due[2], due[3] - 1, due[3], due[4])
    thread = GridThread(clock, grid, lambda: ticks.append(clock.now_ns()))
    thread.start()
    while len(clock._times_ns):
        time.sleep(0.001)
    thread.stop()
    assert ticks == due[1:]


def test_a_grid_thread_finds_the_grid_again_after_a_clock_that_was_set_back():
    assert ticks_of(1030, 1100, 310, 400) == [1100, 400]


def test_what_the_callback_raises_is_raised_by_check_and_ends_the_thread():
    def fail() -> None:
        calls.append(1)
        raise ValueError("in the callback")

    calls: list[int] = []
    clock = SteppedClock(0, 100, 200)
    thread = GridThread(clock, GRID_OF_100_NS, fail)
    thread.start()
    deadline_s = time.monotonic() + 5
    with pytest.raises(ValueError, match="in the callback"):
        while time.monotonic() < deadline_s:
            thread.check()
    thread.stop()
    assert calls == [1]


def test_a_grid_thread_that_has_stopped_does_not_call_back_any_more():
    calls: list[int] = []
    clock = SteppedClock(0)
    thread = GridThread(clock, GRID_OF_100_NS, lambda: calls.append(1))
    thread.start()
    thread.stop()
    clock._times_ns.append(100)
    assert not calls
    assert clock.closed.is_set()
