# SPDX-License-Identifier: Apache-2.0
"""Plans at one rate, executed at another that need not be a multiple of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import pytest
from ticked_guard import TickedGuard, chunk

from vla_ros.grid import Grid
from vla_ros.runtime.execution.plans import Plan

DURATION_S = 8
START_NS = 1_800_000_000 * 10**9
PLAN_AFTER_NS = 12_000_000  # an observation settles, and the policy computes
LEAD = 3  # control ticks until the arm moves for sure


def speed_mps(tick: int) -> float:
    """Speed planned for a control tick, different from its neighbours'."""
    return 0.1 + 0.002 * (tick % 20)


def plan(control: Grid, tick: int, jitter_ns: int = 0) -> Plan:
    actions = chunk(8)
    actions[:, 0] = [speed_mps(tick + step) for step in range(8)]
    return Plan(control.start_ns(tick), control.period_ns + jitter_ns, actions)


def times(grid: Grid, plans: bool) -> Iterator[tuple[int, bool, int]]:
    first = grid.first_from(START_NS)
    for tick in range(first, grid.first_from(START_NS + DURATION_S * 10**9)):
        yield grid.start_ns(tick) + PLAN_AFTER_NS * plans, plans, tick


@pytest.mark.parametrize("jitter_ns", [0, 1])
@pytest.mark.parametrize("guard_hz", [100.0, 500.0, 60.0])
@pytest.mark.parametrize("control_hz", [7.5, 15.0, 29.97, 30.0])
def test_every_planned_tick_is_executed_once_and_for_its_time(
    control_hz: float, guard_hz: float, jitter_ns: int
) -> None:
    """`jitter_ns`: another planner rounds the period of every other plan up."""
    control, arm = Grid(control_hz), TickedGuard(guard_hz=guard_hz)
    moved_m, followed = 0.0, []
    for now_ns, is_plan, tick in heapq.merge(times(control, True), times(Grid(guard_hz), False)):
        if is_plan:
            assert arm.core.hear_plan(plan(control, tick, jitter_ns * (tick % 2)), now_ns) is None
            continue
        command = arm.at(now_ns)
        planned = control.tick_at(now_ns + arm.core.settings.period_ns // 2)
        if command.twist is not None:
            moved_m += command.twist[0] / guard_hz
            followed.append(planned)
    statistics = arm.core.timeline.statistics()
    assert arm.core.ticks_missed == 0 and arm.core.plans_refused == {}
    ticks = sorted(set(followed))
    assert ticks == list(range(ticks[0], ticks[-1] + 1)) and len(ticks) > DURATION_S * control_hz - LEAD
    assert statistics.starved == 0 and statistics.popped == len(ticks)
    expected_m = sum(speed_mps(tick) for tick in ticks) * control.period_s
    assert moved_m == pytest.approx(expected_m, rel=0.01)
