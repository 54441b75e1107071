# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vla_ros.runtime.safety.watchdog import Watchdog

PERIOD_S = 0.05
PERIOD_NS = 50_000_000


@pytest.fixture
def tested() -> Watchdog:
    watchdog = Watchdog(PERIOD_S)
    watchdog.start(10**12, 100.0)
    return watchdog


def looks(watchdog: Watchdog, count: int, *, step_ns: int, ticks: bool, simulated: bool = False) -> list[str | None]:
    """What it says in `count` periods in which the clock advances by `step_ns` each."""
    said = []
    for number in range(1, count + 1):
        steady_s = 100.0 + number * PERIOD_S
        if ticks:
            watchdog.ticked(steady_s)
        said.append(watchdog.check(10**12 + number * step_ns, steady_s, simulated=simulated))
    return said


def test_while_ticks_come_and_the_clock_moves_nothing_is_wrong(tested):
    assert looks(tested, 100, step_ns=PERIOD_NS, ticks=True) == [None] * 100


@pytest.mark.parametrize("simulated", [True, False])
def test_a_clock_that_stands_still_is_seen_after_two_and_a_half_periods(tested, simulated):
    said = looks(tested, 4, step_ns=0, ticks=False, simulated=simulated)
    assert said == [None, None, "clock_stopped", "clock_stopped"]


def test_a_clock_that_was_set_back_is_seen_at_the_next_look_although_it_moves(tested):
    tested.ticked(100.05)
    assert tested.check(10**12 - 10**11, 100.05, simulated=False) == "clock_set_back"
    tested.ticked(100.10)
    assert tested.check(10**12 - 10**11 + PERIOD_NS, 100.10, simulated=False) is None


def test_a_clock_may_be_coarser_than_the_ticks():
    watchdog = Watchdog(0.01)
    watchdog.start(10**12, 100.0)
    times_s = [100.0 + 0.01 * number for number in range(1, 13)]
    assert [watchdog.check(10**12, now_s, simulated=True) for now_s in times_s] == [None] * 10 + ["clock_stopped"] * 2


def test_ticks_that_do_not_come_although_the_clock_moves_are_missed(tested):
    assert looks(tested, 4, step_ns=PERIOD_NS, ticks=False) == [None, None, "no_ticks", "no_ticks"]


def test_slow_simulated_time_has_rare_ticks_and_nothing_wrong(tested):
    assert looks(tested, 100, step_ns=PERIOD_NS // 100, ticks=False, simulated=True) == [None] * 100


def test_a_process_that_was_held_up_is_not_taken_for_a_clock_gone_wrong(tested):
    assert tested.check(10**12 + 10**10, 110.0, simulated=False) is None
