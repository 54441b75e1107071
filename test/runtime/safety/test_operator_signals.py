# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.runtime.safety.operator_signals import (
    DEADMAN_HOLD_S,
    DEADMAN_MAX_AGE_S,
    TAKEOVER_MAX_AGE_S,
    Deadman,
    EmergencyStops,
    Takeover,
)


@pytest.fixture
def stops() -> EmergencyStops:
    return EmergencyStops({"emergency_stop": None})


@pytest.fixture
def takeover() -> Takeover:
    return Takeover()


def test_by_default_there_is_no_reason_against_moving(stops: EmergencyStops) -> None:
    assert stops.reason(0.0) is None and Deadman(required=False).reason(0.0) is None


def test_a_deadman_must_be_repeated_and_let_go_at_once() -> None:
    deadman = Deadman(required=True)
    assert deadman.reason(10.0) == "disabled"
    deadman.hear(True, 10.0)
    assert deadman.reason(10.0 + DEADMAN_MAX_AGE_S) is None
    assert deadman.reason(10.01 + DEADMAN_MAX_AGE_S) == "operator_lost"
    deadman.hear(True, 11.0)
    deadman.hear(False, 11.0)
    assert deadman.reason(11.0) == "disabled"
    deadman.hear(True, 11.1)
    assert deadman.reason(11.0 + DEADMAN_HOLD_S) == "disabled", "another's true does not undo it"
    assert deadman.reason(11.01 + DEADMAN_HOLD_S) is None


def test_an_emergency_stop_holds_until_it_is_released_and_reset(stops: EmergencyStops) -> None:
    assert stops.hear("emergency_stop", True, 0.0)
    reason = "emergency_stop", "emergency_stop was pressed"
    assert "still pressed" in (stops.reset(0.0) or "") and stops.reason(0.0) == reason
    assert not stops.hear("emergency_stop", False, 0.0)
    assert stops.reason(0.0) == reason
    assert stops.reset(0.0) is None and stops.reason(0.0) is None


def test_an_emergency_stop_with_a_qos_mismatch_is_a_reason_not_to_move(stops: EmergencyStops) -> None:
    stops.look("emergency_stop", 1, "QoS mismatch", 0.0)
    assert stops.reason(0.0) == ("emergency_stop_unheard", "emergency_stop: QoS mismatch")
    stops.hear("emergency_stop", True, 0.0)
    assert stops.reason(0.0) == ("emergency_stop", "emergency_stop was pressed")


@pytest.mark.parametrize(("last", "how"), [(np.full(6, 0.5), "operator_lost"), (np.zeros(6), "handed_back")])
def test_a_takeover_ends_when_its_twists_end(takeover: Takeover, last: np.ndarray, how: str) -> None:
    assert takeover.twist(0.0) is None and takeover.ended(0.0) is None
    takeover.hear(last, None, 5.0)
    twist = takeover.twist(5.0 + TAKEOVER_MAX_AGE_S)
    assert twist is not None and twist.tolist() == last.tolist()
    assert takeover.ended(5.0 + TAKEOVER_MAX_AGE_S) is None
    assert takeover.twist(5.01 + TAKEOVER_MAX_AGE_S) is None
    assert [takeover.ended(5.01 + TAKEOVER_MAX_AGE_S) for _ in range(2)] == [how, None]


def test_an_opening_of_a_takeover_is_returned_once_and_soon(takeover: Takeover) -> None:
    assert takeover.opening(5.0) is None
    takeover.hear_gripper(0.25, 5.0)
    assert [takeover.opening(5.1) for _ in range(2)] == [0.25, None]
    takeover.hear_gripper(0.75, 5.1)
    assert takeover.opening(5.6) is None
