# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.runtime.execution.commands import GripperSwitch


def commands(
    switch: GripperSwitch, *openings: float, period_s: float = 1.0, start_s: float = 0.0
) -> list[float | None]:
    return [switch.update(opening, start_s + tick * period_s) for tick, opening in enumerate(openings)]


def test_a_change_is_commanded_once_after_the_debounce():
    assert commands(GripperSwitch(debounce_ticks=2), 0.9, 0.9, 0.9, 0.1, 0.1, 0.1) == [None, 1.0, None, None, 0.0, None]


def test_between_the_thresholds_it_stays():
    assert commands(GripperSwitch(debounce_ticks=1), 0.9, 0.45, 0.55, 0.41) == [1.0, None, None, None]


def test_before_the_first_decision_it_says_nothing():
    assert commands(GripperSwitch(debounce_ticks=1), 0.5, 0.5, 0.3) == [None, None, 0.0]


def test_a_single_outlier_does_not_move_the_gripper():
    assert commands(GripperSwitch(debounce_ticks=2), 0.9, 0.9, 0.1, 0.9, 0.1, 0.5, 0.1) == [None, 1.0] + [None] * 5


def test_a_change_that_the_plan_keeps_up_is_commanded_at_once_and_a_single_tick_never():
    def planned(*openings: float) -> list[float | None]:
        switch, following = GripperSwitch(), [*openings[1:], None]
        pairs = zip(openings, following, strict=True)
        return [switch.update(opening, float(tick), then) for tick, (opening, then) in enumerate(pairs)]

    assert planned(1.0, 1.0, 0.0, 0.0, 0.0) == [1.0, None, 0.0, None, None]
    assert planned(1.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.0) == [1.0] + [None] * 6
    assert planned(1.0) == [None]  # nothing more is planned yet


def test_after_a_reset_the_same_opening_is_commanded_again():
    switch = GripperSwitch(debounce_ticks=1)
    assert commands(switch, 0.0, 0.0) == [0.0, None]
    switch.reset()
    assert commands(switch, 0.0, start_s=2.0) == [0.0]


def test_a_policy_in_doubt_moves_the_gripper_twice_a_second_at_most():
    openings = [1.0, 0.0] * 20
    given = commands(GripperSwitch(debounce_ticks=1), *openings, period_s=0.1)
    times_s = [0.1 * tick for tick, command in enumerate(given) if command is not None]
    assert len(times_s) == 8 and min(np.diff(times_s)) >= 0.5 - 1e-9
    assert commands(GripperSwitch(debounce_ticks=1, min_interval_s=0.0), *openings, period_s=0.1) == openings


def test_a_change_that_came_too_soon_is_commanded_later_also_after_a_reset():
    switch = GripperSwitch(debounce_ticks=1)
    assert commands(switch, 1.0, 0.0, 0.0, period_s=0.2) == [1.0, None, None]
    switch.reset()
    assert commands(switch, 0.0, 0.0, period_s=0.2, start_s=0.45) == [None, 0.0]


def test_a_clock_that_is_set_back_does_not_hold_the_gripper():
    switch = GripperSwitch(debounce_ticks=1)
    assert commands(switch, 1.0, start_s=100.0) == [1.0]
    assert commands(switch, 0.0, start_s=5.0) == [0.0]


@pytest.mark.parametrize("thresholds", [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_thresholds_the_wrong_way_round_are_refused(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        GripperSwitch(*thresholds)
