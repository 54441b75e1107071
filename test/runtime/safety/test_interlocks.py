# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.runtime.safety.interlocks import ENABLE_MAX_AGE_S, TAKEOVER_MAX_AGE_S, Interlocks


@pytest.fixture
def tested() -> Interlocks:
    return Interlocks(require_enable=False)


def test_by_default_there_is_no_reason_against_moving(tested):
    assert tested.reason(0.0) is None


def test_a_deadman_must_be_repeated_and_let_go_at_once():
    tested = Interlocks(require_enable=True)
    assert tested.reason(10.0) == "disabled"
    tested.enable(True, 10.0)
    assert tested.reason(10.0 + ENABLE_MAX_AGE_S) is None
    assert tested.reason(10.01 + ENABLE_MAX_AGE_S) == "disabled"
    tested.enable(True, 11.0)
    tested.enable(False, 11.0)
    assert tested.reason(11.0) == "disabled"


def test_an_emergency_stop_holds_until_it_is_released_and_reset(tested):
    tested.emergency_stop(True)
    assert not tested.reset() and tested.reason(0.0) == "emergency_stop"
    tested.emergency_stop(False)
    assert tested.reason(0.0) == "emergency_stop"
    assert tested.reset() and tested.reason(0.0) is None


def test_a_second_publisher_on_the_command_topic_stops_the_arm_while_it_is_there(tested):
    tested.publishers = 2
    assert tested.reason(0.0) == "second_publisher"
    tested.publishers = 1
    assert tested.reason(0.0) is None


def test_an_emergency_stop_with_a_qos_mismatch_is_a_reason_not_to_move(tested):
    tested.input_reason = "emergency_stop_unheard"
    assert tested.reason(0.0) == "emergency_stop_unheard"
    tested.emergency_stop(True)
    assert tested.reason(0.0) == "emergency_stop"


def test_the_gravest_reason_is_named(tested):
    tested.output_reason, tested.publishers = "servo_not_ready", 2
    assert tested.reason(0.0) == "second_publisher"
    tested.emergency_stop(True)
    assert tested.reason(0.0) == "emergency_stop"


def test_a_takeover_ends_when_its_commands_end(tested):
    assert tested.manual_command(0.0) is None
    tested.takeover(np.full(6, 0.5), 5.0)
    assert tested.manual_command(5.0 + TAKEOVER_MAX_AGE_S).twist.tolist() == [0.5] * 6
    assert tested.manual_command(5.01 + TAKEOVER_MAX_AGE_S) is None


def test_an_opening_of_a_takeover_is_commanded_once_and_soon(tested):
    tested.takeover_gripper(0.25, 5.0)
    assert tested.manual_command(5.0) is None, "the gripper alone is no takeover"
    tested.takeover(np.zeros(6), 5.0)
    assert tested.manual_command(5.0).opening is None, "it was forgotten"
    tested.takeover_gripper(0.25, 5.0)
    assert [tested.manual_command(5.1).opening for _ in range(2)] == [0.25, None]
    tested.takeover_gripper(0.75, 5.1)
    tested.takeover(np.zeros(6), 5.6)
    assert tested.manual_command(5.6).opening is None
