# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vla_ros.grid import Grid
from vla_ros.runtime.execution.plans import PlanGrid

START_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize("control_hz", [30.0, 29.97])
def test_the_ticks_of_plans_of_24_hours_have_not_drifted(control_hz: float) -> None:
    control = Grid(control_hz)
    first = control.tick_at(START_NS)
    plans = PlanGrid(control.start_ns(first), control.period_ns)
    for tick in range(0, round(86_400 * control_hz), 7):
        stamp_ns = control.start_ns(first + tick)
        plans.anchor(stamp_ns)
        assert plans.nearest(stamp_ns) == tick
        assert plans.start_ns(tick) == stamp_ns


def test_periods_that_differ_by_rounding_are_one() -> None:
    plans = PlanGrid(0, 33_333_333)
    assert plans.has_period(33_333_334)
    assert not plans.has_period(33_366_700)  # 29.97 Hz
