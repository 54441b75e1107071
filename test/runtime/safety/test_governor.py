# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vla_ros.robot import Limits
from vla_ros.runtime.safety.governor import FAULTS, SafetyGovernor, State, limit_norm, limit_to_box

CENTRE = (0.5, 0.0, 0.3)


def limits(**changes) -> Limits:
    unlimited = Limits(0.2, 1.0, 1e6, 1e6, 1e9, 1e9, workspace_min_m=(0.3, -0.3, 0.0), workspace_max_m=(0.7, 0.3, 0.6))
    return dataclasses.replace(unlimited, **changes)


def governor(*, stop_ticks=3, speed_scale=1.0, armed=True, **changes) -> SafetyGovernor:
    return SafetyGovernor(limits(**changes), period_s=0.1, stop_ticks=stop_ticks, speed_scale=speed_scale, armed=armed)


def action(*twist: float) -> np.ndarray:
    return np.array([*twist, *(0.0,) * (6 - len(twist)), 1.0])


def test_disarmed_it_is_silent_and_armed_it_runs():
    tested = governor(armed=False)
    assert tested.tick(action(0.1), None, CENTRE) is None
    assert (tested.state, tested.reason) == (State.DISARMED, "disarmed")
    tested.arm(True)
    assert tested.tick(action(0.1), None, CENTRE) == pytest.approx([0.1, 0, 0, 0, 0, 0])
    assert (tested.state, tested.reason) == (State.RUNNING, None)


@pytest.mark.parametrize(
    ("bad_action", "reason", "position", "expected"),
    [
        (action(0.1), "stale", CENTRE, "stale"),
        (None, None, CENTRE, "starved"),
        (action(float("nan")), None, CENTRE, "non_finite"),
        (action(0.1, float("inf")), None, CENTRE, "non_finite"),
        (action(0.1), None, None, "no_ee_position"),
        (action(0.1), None, (0.5, float("nan"), 0.3), "no_ee_position"),
        (action(0.1), None, (0.5, 0.0, float("inf")), "no_ee_position"),
    ],
)
def test_every_objection_is_zero_twists_and_then_silence(bad_action, reason, position, expected):
    tested = governor(stop_ticks=3)
    tested.tick(action(0.1), None, CENTRE)
    sent = [tested.tick(bad_action, reason, position) for _ in range(5)]
    assert [None if twist is None else twist.tolist() for twist in sent] == [[0.0] * 6] * 3 + [None] * 2
    assert tested.reason == expected
    assert tested.stops == {expected: 1}


def test_a_stop_is_completed_even_if_actions_come_back_meanwhile():
    tested = governor(stop_ticks=3)
    tested.tick(action(0.1), None, CENTRE)
    assert tested.tick(None, None, CENTRE).tolist() == [0.0] * 6
    assert [tested.tick(action(0.1), None, CENTRE)[0] for _ in range(3)] == [0.0, 0.0, 0.1]
    assert tested.state is State.RUNNING


def test_disarming_while_running_is_a_stop():
    tested = governor(stop_ticks=1)
    tested.tick(action(0.1), None, CENTRE)
    tested.arm(False)
    assert tested.tick(action(0.1), None, CENTRE).tolist() == [0.0] * 6
    assert tested.tick(action(0.1), None, CENTRE) is None
    assert tested.state is State.DISARMED


def test_without_having_moved_there_is_nothing_to_stop():
    tested = governor()
    assert tested.tick(None, "missing", CENTRE) is None
    assert (tested.state, tested.reason, tested.stops) == (State.WAITING, "missing", {})


@pytest.mark.parametrize("reason", ["policy_error", "non_finite"])
def test_what_does_not_pass_by_itself_is_a_fault(reason):
    tested = governor(stop_ticks=1)
    tested.tick(action(0.1), None, CENTRE)
    for _ in range(2):
        tested.tick(None, reason, CENTRE)
    assert tested.state is State.FAULT


def test_speed_is_limited_by_norm_and_keeps_its_direction():
    twist = governor().tick(action(0.3, -0.4, 0.0, 3.0, 0.0, 4.0), None, CENTRE)
    assert twist == pytest.approx([0.12, -0.16, 0.0, 0.6, 0.0, 0.8])


def test_speed_scale_slows_everything():
    twist = governor(speed_scale=0.5).tick(action(0.1, 0.0, 0.0, 0.4), None, CENTRE)
    assert twist == pytest.approx([0.05, 0, 0, 0.2, 0, 0])


def test_acceleration_is_limited_from_rest_and_on_a_reversal():
    tested = governor(linear_mps2=0.5, angular_radps2=2.0)
    first = tested.tick(action(0.2, 0.0, 0.0, 1.0), None, CENTRE)
    second = tested.tick(action(-0.2, 0.0, 0.0, -1.0), None, CENTRE)
    assert first == pytest.approx([0.05, 0, 0, 0.2, 0, 0])
    assert second == pytest.approx([0.0, 0, 0, 0.0, 0, 0])


def stop(tested: SafetyGovernor, reason: str) -> list[float | None]:
    """The speeds along x that are sent from the reason on, until the first silence."""
    sent = []
    while True:
        twist = tested.tick(None, reason, CENTRE)
        sent.append(None if twist is None else float(twist[0]))
        if twist is None:
            return sent


def test_a_stop_slows_down_within_the_acceleration_and_then_sends_its_zero_twists():
    tested = governor(linear_mps2=0.5, stop_ticks=2)
    for _ in range(4):
        tested.tick(action(0.2), None, CENTRE)
    assert stop(tested, "stale") == pytest.approx([0.15, 0.1, 0.05, 0.0, 0.0, None])
    assert tested.stops == {"stale": 1}
    assert tested.tick(action(0.2), None, CENTRE)[0] == pytest.approx(0.05)


def test_a_stop_slows_down_within_the_jerk_as_well():
    tested = governor(linear_mps2=1.0, linear_mps3=5.0, stop_ticks=1)
    for _ in range(10):
        tested.tick(action(0.2), None, CENTRE)
    speeds = [0.2, *stop(tested, "stale")[:-1]]
    accelerations = np.diff(speeds) / 0.1
    assert np.abs(np.diff([0.0, *accelerations, 0.0])).max() / 0.1 <= 5.0 + 1e-6
    assert np.abs(accelerations).max() <= 1.0 + 1e-9 and speeds[-1] == 0.0
    assert (len(speeds) - 1) * 0.1 <= tested.limits.stopping_time_s("linear") + 0.2


def test_an_emergency_stop_does_not_slow_down_first_and_holds_until_it_is_reset():
    tested = governor(linear_mps2=0.5, stop_ticks=2)
    for _ in range(4):
        tested.tick(action(0.2), None, CENTRE)
    assert stop(tested, "emergency_stop") == [0.0, 0.0, None]
    assert tested.tick(action(0.2), None, CENTRE) is None
    assert (tested.state, tested.reason) == (State.FAULT, "emergency_stop")
    tested.reset()
    assert tested.tick(action(0.2), None, CENTRE)[0] == pytest.approx(0.05)


def test_an_emergency_stop_cuts_a_stop_short_that_is_under_way():
    tested = governor(linear_mps2=0.5, stop_ticks=2)
    for _ in range(4):
        tested.tick(action(0.2), None, CENTRE)
    assert tested.tick(None, "stale", CENTRE)[0] == pytest.approx(0.15)
    assert stop(tested, "emergency_stop") == [0.0, 0.0, None]


@pytest.mark.parametrize("first", ["policy_error", "disarmed"])
def test_an_emergency_stop_cuts_short_the_stop_of_a_fault_or_a_disarming(first):
    tested = governor(linear_mps2=0.5, stop_ticks=2)
    for _ in range(4):
        tested.tick(action(0.2), None, CENTRE)
    tested.arm(first != "disarmed")
    assert tested.tick(None, first if first in FAULTS else None, CENTRE)[0] == pytest.approx(0.15)
    assert stop(tested, "emergency_stop") == [0.0, 0.0, None]
    assert (tested.state, tested.reason) == (State.FAULT, "emergency_stop")


def test_the_first_run_is_slow_until_a_person_ends_it_after_ten_seconds_of_motion():
    tested = SafetyGovernor(limits(), period_s=0.1, stop_ticks=1, first_run_scale=0.25, armed=True)

    def speed(ticks: int = 1) -> float:
        return [tested.tick(action(0.2), None, CENTRE) for _ in range(ticks)][-1][0]

    def arm_again(by_person: bool = True) -> None:
        tested.arm(False)
        if by_person:
            tested.end_first_run()
        tested.tick(None, None, CENTRE)
        tested.arm(True)

    arm_again()  # it has not moved yet: this was no run
    assert speed(50) == pytest.approx(0.05)
    tested.tick(None, "stale", CENTRE)
    arm_again()  # nor was this, which somebody interrupted
    assert speed(60) == pytest.approx(0.05)
    arm_again(by_person=False)
    assert speed() == pytest.approx(0.05)
    arm_again()
    assert speed() == pytest.approx(0.2)


def test_the_way_to_a_wall_is_slow_enough_that_braking_ends_before_it():
    tested, position = governor(linear_mps2=0.5), np.array([0.5, 0.0, 0.3])
    speeds = [0.0]
    for _ in range(60):
        speeds.append(tested.tick(action(0.2), None, position)[0])
        position[0] += speeds[-1] * 0.1
    assert position[0] == pytest.approx(0.7, abs=1e-3) and position[0] <= 0.7
    assert np.abs(np.diff(speeds)).max() <= 0.05 + 1e-9


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.floats(0.05, 0.4), st.floats(0.8, 8.0), st.floats(0.0, 3.0), st.sampled_from([10, 20, 50]),
    st.floats(0.01, 0.39), st.one_of(st.none(), st.integers(1, 40)),
)  # fmt: skip
def test_towards_a_wall_the_arm_stops_before_it_within_acceleration_and_jerk(
    speed, acceleration, ramp_periods, hz, distance, stops_at
):
    jerk = acceleration * hz / max(ramp_periods, 0.01)
    assume(speed / acceleration + 2 * acceleration / jerk < 0.99)
    within = limits(linear_mps=speed, linear_mps2=acceleration, linear_mps3=jerk)
    tested = SafetyGovernor(within, period_s=1 / hz, stop_ticks=1, armed=True)
    position, velocities = np.array([0.7 - distance, 0.0, 0.3]), [0.0]
    for tick in range(3 * hz):
        stopping = stops_at is not None and tick >= stops_at
        twist = tested.tick(action(speed), "stale" if stopping else None, position)
        if twist is None:
            break
        velocities.append(float(twist[0]))
        position[0] += velocities[-1] / hz
        assert position[0] <= 0.7 + 1e-9
    rates = np.diff(velocities) * hz
    assert min(velocities) >= 0.0
    assert np.abs(rates).max() <= acceleration * (1 + 1e-6)
    assert np.abs(np.diff([0.0, *rates])).max() * hz <= jerk * (1 + 1e-6)


def test_an_arm_that_comes_upon_a_wall_in_another_way_does_not_bounce_off():
    tested = governor(linear_mps2=0.5, linear_mps3=5.0)
    for _ in range(6):
        assert tested.tick(action(0.15, 0.1), None, CENTRE)[0] > 0
    at_the_wall = (0.7, 0.0, 0.3)  # by another hand
    sent = [tested.tick(action(0.15, 0.1), None, at_the_wall) for _ in range(10)]
    assert [twist[0] for twist in sent] == [0.0] * 10
    assert np.abs(np.diff([twist[1] for twist in sent])).max() <= 0.05 + 1e-9


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
def test_a_stop_ends_at_the_wall_whether_or_not_the_tool_is_seen_meanwhile(seen):
    tested, position = governor(linear_mps2=0.25), np.array([0.5, 0.0, 0.3])
    for _ in range(8):
        tested.tick(action(0.2), None, position)
    position[0] = 0.65  # by another hand: closer than it can stop within the acceleration
    tested.tick(action(0.2), None, position)
    position[0] += tested._last_twist[0] * 0.1
    while (twist := tested.tick(None, "stale", position if seen else None)) is not None:
        position[0] += twist[0] * 0.1
        assert twist[0] >= 0.0 and position[0] <= 0.7 + 1e-9


def test_what_an_emergency_stop_demands_is_no_acceleration_to_go_on_with():
    tested = governor(linear_mps2=0.5, linear_mps3=5.0, stop_ticks=3)
    for _ in range(8):
        tested.tick(action(0.2), None, CENTRE)
    tested.tick(None, "emergency_stop", CENTRE)
    tested.reset()
    assert stop(tested, "stale") == [0.0, 0.0, None]


def test_ticks_that_the_limits_changed_are_counted():
    tested = governor()
    for vx in (0.1, 0.5, 0.1):
        tested.tick(action(vx), None, CENTRE)
    assert tested.ticks_limited == 1


def test_the_workspace_cuts_only_what_leads_out():
    at_the_right_wall = (0.5, -0.3, 0.3)
    twist = governor().tick(action(0.1, -0.1, 0.05), None, at_the_right_wall)
    assert twist[:3] == pytest.approx([0.1, 0.0, 0.05])
    assert governor().tick(action(0.0, 0.1), None, at_the_right_wall)[1] == pytest.approx(0.1)


def test_near_the_wall_the_step_ends_at_the_wall():
    assert governor().tick(action(0.2), None, (0.69, 0.0, 0.3))[0] == pytest.approx(0.1)


def test_outside_the_workspace_nothing_is_pushed_and_the_way_back_is_free():
    outside = np.array([0.9, 0.0, 0.3])
    box = np.array([0.3, -0.3, 0.0]), np.array([0.7, 0.3, 0.6])
    assert limit_to_box(np.array([0.0, 0.0, 0.0]), outside, *box, 0.1).tolist() == [0.0, 0.0, 0.0]
    assert limit_to_box(np.array([0.1, 0.0, 0.0]), outside, *box, 0.1).tolist() == [0.0, 0.0, 0.0]
    assert limit_to_box(np.array([-0.1, 0.0, 0.0]), outside, *box, 0.1).tolist() == [-0.1, 0.0, 0.0]


def test_a_zero_vector_has_no_direction_to_keep():
    assert limit_norm(np.zeros(3), 0.1).tolist() == [0.0, 0.0, 0.0]


def test_nothing_but_finite_twists_get_out_whatever_the_settings():
    tested = governor(stop_ticks=1)
    tested.tick(action(0.1), None, CENTRE)
    tested.speed_scale = float("nan")
    assert tested.tick(action(0.1), None, CENTRE).tolist() == [0.0] * 6
    assert tested.tick(action(0.1), None, CENTRE) is None
    assert (tested.state, tested.reason) == (State.FAULT, "non_finite")


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="stop_ticks must be at least 1; got 0"):
        governor(stop_ticks=0)
    with pytest.raises(ValueError, match=r"speed_scale must be in \[0, 1\]; got 1\.5"):
        governor(speed_scale=1.5)
    with pytest.raises(ValueError, match=r"first_run_scale must be in \[0, 1\]; got -1"):
        SafetyGovernor(limits(), period_s=0.1, first_run_scale=-1)
