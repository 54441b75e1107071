# SPDX-License-Identifier: Apache-2.0
"""The time grid: exact at any rate, at any distance from the epoch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.grid import Grid

RATES_HZ = (7.5, 10.0, 12.5, 15.0, 29.97, 30.0, 30_000 / 1001, 60.0)
START_NS = 1_800_000_000 * 10**9
DAY_S = 86_400


def exact_ns(tick: int, rate_hz: Fraction) -> int:
    return math.floor(tick * 10**9 / rate_hz + Fraction(1, 2))


@pytest.mark.parametrize("rate_hz", [Fraction(30), Fraction(2997, 100)])
def test_after_24_hours_no_tick_has_drifted(rate_hz: Fraction) -> None:
    grid = Grid(float(rate_hz))
    first = grid.tick_at(START_NS)
    ticks = np.arange(first, first + int(DAY_S * rate_hz) + 1)
    expected = [
        (2 * tick * 10**9 * rate_hz.denominator + rate_hz.numerator) // (2 * rate_hz.numerator)
        for tick in ticks.tolist()
    ]
    assert np.abs(grid.start_ns(ticks) - np.array(expected)).max() == 0
    assert abs(first * grid.period_ns - expected[0]) > grid.period_ns  # what rounded periods would give
    assert set(np.diff(expected).tolist()) <= {grid.period_ns, grid.period_ns + 1}


@given(st.sampled_from(RATES_HZ) | st.floats(0.01, 1000), st.integers(-(2**60), 2**60))
def test_ticks_are_where_rational_arithmetic_has_them(rate_hz: float, time_ns: int) -> None:
    grid = Grid(rate_hz)
    tick = grid.tick_at(time_ns)
    assert grid.start_ns(tick) == exact_ns(tick, grid.rate_hz) <= time_ns < exact_ns(tick + 1, grid.rate_hz)
    assert exact_ns(grid.first_from(time_ns) - 1, grid.rate_hz) < time_ns <= grid.start_ns(grid.first_from(time_ns))


@given(st.sampled_from(RATES_HZ) | st.floats(0.01, 1000), st.lists(st.integers(-(2**60), 2**60)))
def test_arrays_give_what_numbers_give(rate_hz: float, times_ns: list[int]) -> None:
    grid, times = Grid(rate_hz), np.array(times_ns, np.int64)
    assert grid.tick_at(times).tolist() == [grid.tick_at(time_ns) for time_ns in times_ns]
    assert grid.first_from(times).tolist() == [grid.first_from(time_ns) for time_ns in times_ns]
    assert grid.start_ns(grid.tick_at(times)).tolist() == [grid.start_ns(grid.tick_at(one)) for one in times_ns]


@given(st.sampled_from([1, 2, 5, 10, 12.5, 16, 20, 25, 32, 40, 50, 100]), st.integers(-(2**60), 2**60))
def test_whole_nanoseconds_are_multiples_of_the_period(rate_hz: float, time_ns: int) -> None:
    grid, period_ns = Grid(rate_hz), round(1e9 / rate_hz)
    assert (grid.tick_at(time_ns), grid.first_from(time_ns)) == (time_ns // period_ns, -(-time_ns // period_ns))
    assert grid.start_ns(time_ns // period_ns) == time_ns // period_ns * period_ns


def test_a_rate_is_the_fraction_that_its_decimals_mean() -> None:
    assert [Grid(rate).rate_hz for rate in (30, 12.5, 29.97, 30_000 / 1001, 1 / 3)] == [
        30, Fraction(25, 2), Fraction(2997, 100), Fraction(30_000, 1001), Fraction(1, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("rate_hz", [0, -30.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate_hz: float) -> None:
    with pytest.raises(ValueError):
        Grid(rate_hz)
