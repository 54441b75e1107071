# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vla_ros.runtime.execution.control import GripperSwitch


def commands(switch: GripperSwitch, *openings: float) -> list[float | None]:
    return [switch.update(opening) for opening in openings]


def test_a_change_is_commanded_once_after_the_debounce():
    assert commands(GripperSwitch(debounce_ticks=2), 0.9, 0.9, 0.9, 0.1, 0.1, 0.1) == [None, 1.0, None, None, 0.0, None]


def test_between_the_thresholds_it_stays():
    assert commands(GripperSwitch(debounce_ticks=1), 0.9, 0.45, 0.55, 0.41) == [1.0, None, None, None]


def test_there_is_no_command_before_the_first_decision():
    assert commands(GripperSwitch(debounce_ticks=1), 0.5, 0.5, 0.3) == [None, None, 0.0]


def test_a_single_outlier_does_not_move_the_gripper():
    assert commands(GripperSwitch(debounce_ticks=2), 0.9, 0.9, 0.1, 0.9, 0.1, 0.5, 0.1) == [None, 1.0] + [None] * 5


def test_after_a_reset_the_same_opening_is_commanded_again():
    switch = GripperSwitch(debounce_ticks=1)
    assert commands(switch, 0.0, 0.0) == [0.0, None]
    switch.reset()
    assert commands(switch, 0.0) == [0.0]


@pytest.mark.parametrize("thresholds", [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_thresholds_the_wrong_way_round_are_refused(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        GripperSwitch(*thresholds)
