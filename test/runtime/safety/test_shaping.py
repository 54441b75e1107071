# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.runtime.safety.governor import approach, limit_to_braking, rate_to_cover

DT_S = 0.05
BOX = np.array([0.0, -0.3, 0.0]), np.array([0.5, 0.3, 0.6])
vectors = st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(np.array)


def follow(targets: list[np.ndarray], *, acceleration: float, jerk: float) -> np.ndarray:
    """The velocities (T + 1, 3) from rest, one for each target."""
    velocity, rate = np.zeros(3), np.zeros(3)
    velocities = [velocity]
    for target in targets:
        reached = approach(velocity, rate, target, maximum_acceleration=acceleration, jerk=jerk, dt_s=DT_S)
        velocity, rate = reached, (reached - velocity) / DT_S
        velocities.append(velocity)
    return np.array(velocities)


@settings(max_examples=100, deadline=None)
@given(st.lists(vectors, min_size=1, max_size=30), st.floats(0.2, 20.0), st.floats(1.0, 400.0))
def test_whatever_the_targets_acceleration_and_jerk_keep_to_their_limits(targets, acceleration, jerk):
    rates = np.diff(follow(targets, acceleration=acceleration, jerk=jerk), axis=0) / DT_S
    assert np.linalg.norm(rates, axis=1).max() <= acceleration + 1e-6
    changes = np.diff(np.concatenate([np.zeros((1, 3)), rates]), axis=0) / DT_S
    assert np.linalg.norm(changes, axis=1).max() <= jerk + 1e-5


@settings(max_examples=100, deadline=None)
@given(vectors, st.floats(0.5, 20.0), st.floats(5.0, 400.0))
def test_a_change_of_speed_from_rest_keeps_its_direction_and_arrives_without_overshoot(target, acceleration, jerk):
    speed = float(np.linalg.norm(target))
    ticks = int((speed / acceleration + 2 * acceleration / jerk) / DT_S) + 4
    velocities = follow([target] * ticks, acceleration=acceleration, jerk=jerk)
    assert np.allclose(np.cross(velocities, target), 0.0, atol=1e-9)
    assert np.linalg.norm(velocities, axis=1).max() <= speed + 1e-9
    assert np.allclose(velocities[-1], target)


def test_what_the_limits_allow_is_returned_bit_for_bit():
    target = np.array([0.1, -0.2, 0.3])
    reached = approach(np.array([0.07, 0.0, 0.1]), np.zeros(3), target, maximum_acceleration=1e6, jerk=1e9, dt_s=DT_S)
    assert np.array_equal(reached, target)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.0, 2.0), st.floats(1e-3, 5.0))
def test_the_rates_from_the_allowed_one_down_cover_exactly_the_distance(distance, rate_step):
    rate, covered = rate_to_cover(distance, rate_step, DT_S), 0.0
    while rate > 0 and covered < distance:
        covered += rate * DT_S
        rate -= rate_step
    assert covered == pytest.approx(distance, abs=1e-9)


def test_unlimited_braking_may_use_all_the_room_in_one_period():
    velocity, unlimited = np.array([9.0, -9.0, 0.5]), float("inf")
    allowed = limit_to_braking(
        velocity, np.array([0.4, 0.0, 0.1]), *BOX, deceleration=unlimited, jerk=unlimited, dt_s=DT_S
    )
    assert allowed == pytest.approx([0.1 / DT_S, -0.3 / DT_S, 0.5])


def test_from_outside_the_box_the_way_back_is_free_and_nothing_is_pushed():
    def allowed(vx: float) -> float:
        velocity, outside = np.array([vx, 0.0, 0.0]), np.array([0.7, 0.0, 0.1])
        return limit_to_braking(velocity, outside, *BOX, deceleration=1.0, jerk=10.0, dt_s=DT_S)[0]

    assert allowed(0.2) == 0.0 and allowed(-0.2) == -0.2
