# SPDX-License-Identifier: Apache-2.0
"""Geometry and normalization of actions, as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.observations.observation import rotation_6d

numbers = st.floats(-2, 2, allow_nan=False)
vectors = arrays(np.float64, 3, elements=numbers)
quaternions = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 0.1)


def direction(vector: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 1e-3 else np.array([0.0, 0.0, 1.0])


@given(vectors, quaternions, vectors, vectors, st.floats(0, 3.1), st.floats(0.02, 1.0))
def test_a_twist_between_poses_is_the_twist_that_made_them_also_for_large_rotations(p, q, linear, axis, angle, dt_s):
    q = q / np.linalg.norm(q)
    twist = np.concatenate([linear, direction(axis) * angle / dt_s])
    p1, q1 = actions.integrate_twist(p, q, twist, dt_s)
    np.testing.assert_allclose(actions.twist_between(p, q, p1, q1, dt_s), twist, atol=1e-6 / dt_s)


def test_the_angular_part_is_a_rotation_vector_in_the_base_frame_not_euler_rates():
    tilted = Rotation.from_euler("xyz", [1.2, 0.7, -0.4])
    turned = Rotation.from_rotvec([1.5, 0, 0]) * tilted  # about the x axis of the base, not of the tool
    _, q1 = actions.integrate_twist(np.zeros(3), tilted.as_quat(), [0, 0, 0, 1.5, 0, 0], 1.0)
    assert (Rotation.from_quat(q1) * turned.inv()).magnitude() < 1e-9
    between = actions.twist_between([0] * 3, tilted.as_quat(), [0] * 3, turned.as_quat(), 1.0)
    np.testing.assert_allclose(between[3:], [1.5, 0, 0], atol=1e-9)
    tool_frame = (tilted.inv() * turned).as_rotvec()
    assert np.abs(between[3:] - tool_frame).max() > 0.1  # the pose tells the two frames apart
    euler_rates = turned.as_euler("xyz") - tilted.as_euler("xyz")  # of roll, pitch and yaw
    assert np.abs(between[3:] - euler_rates).max() > 0.1


@given(quaternions, arrays(np.float64, 6, elements=numbers))
def test_tool_twists_rotate_to_the_base_and_back(q, twist):
    back = Rotation.from_quat(q).inv().as_quat()
    np.testing.assert_allclose(actions.rotate_twist(actions.rotate_twist(twist, q), back), twist, atol=1e-9)


@given(quaternions)
def test_rotation_6d_is_the_same_for_both_signs_of_a_quaternion(q):
    np.testing.assert_allclose(rotation_6d(*q), rotation_6d(*-q), atol=1e-12)


bounds = st.tuples(
    arrays(np.float64, 6, elements=st.floats(-0.5, -0.05)), arrays(np.float64, 6, elements=st.floats(0.05, 0.45))
)


@given(bounds, arrays(np.float64, (5, 7), elements=st.floats(0, 1)))
def test_normalisation_round_trips_inside_its_bounds_and_never_touches_the_gripper(low_high, unit):
    low, high = low_high
    physical = np.concatenate([low + unit[:, :6] * (high - low), unit[:, 6:]], axis=1)
    normalized = actions.normalize(physical, low, high)
    assert (np.abs(normalized[:, :6]) <= 1).all()
    np.testing.assert_array_equal(normalized[:, 6], physical[:, 6])
    np.testing.assert_allclose(actions.denormalize(normalized, low, high), physical, atol=1e-12)


def test_an_open_gripper_stays_open_with_bounds_below_one_half():
    """Upstream rescales the gripper with the arm's bounds, which turns open into closed once they are below 0.5."""
    opened = np.array([[0.0] * 6 + [1.0]])
    low, high = np.full(6, -0.4), np.full(6, 0.4)
    assert actions.denormalize(actions.normalize(opened, low, high), low, high)[0, 6] == 1.0


def test_values_beyond_the_bounds_are_clipped_both_ways():
    low, high = np.full(6, -0.2), np.full(6, 0.1)
    assert (np.abs(actions.normalize(np.full((1, 7), 9.0), low, high)[:, :6]) == 1).all()
    np.testing.assert_allclose(actions.denormalize(np.full((1, 7), 9.0), low, high)[0, :6], high)


def test_normalising_does_not_change_its_argument():
    given_actions = np.full((2, 7), 0.05)
    actions.normalize(given_actions, np.full(6, -1), np.full(6, 1))
    assert (given_actions == 0.05).all()


def test_quantile_bounds_leave_out_spikes_and_widen_dead_axes():
    data = np.zeros((1000, 7))
    data[:, 0] = np.linspace(-0.1, 0.3, 1000)
    data[5, 0] = 50.0
    low, high = actions.quantile_bounds(data)
    assert -0.1 <= low[0] < -0.09 and 0.29 < high[0] < 0.31
    np.testing.assert_allclose(high[1:] - low[1:], actions.MINIMUM_RANGE)


def test_quantile_bounds_refuse_no_data_and_nan():
    with pytest.raises(ValueError, match="0 rows"):
        actions.quantile_bounds(np.zeros((0, 7)))
    with pytest.raises(ValueError, match="finite: False"):
        actions.quantile_bounds(np.full((3, 7), np.nan))


def bin_centres(indices: np.ndarray, bins: int = 256) -> np.ndarray:
    return (indices + 0.5) / bins * 2 - 1


@given(arrays(np.float64, 20, elements=st.floats(-1, 1)), st.integers(2, 512))
def test_discretisation_is_within_half_a_bin(values, bins):
    indices = actions.discretize(values, bins)
    assert indices.min() >= 0 and indices.max() < bins
    assert np.abs(bin_centres(indices, bins) - values).max() <= 1 / bins + 1e-12


@given(arrays(np.int64, 20, elements=st.integers(0, 255)))
def test_bins_round_trip(indices):
    np.testing.assert_array_equal(actions.discretize(bin_centres(indices)), indices)


def test_half_open_grippers_take_the_next_decided_state():
    opening = [1.0, 0.9, 0.5, 0.1, 0.0, 0.3, 0.6, 1.0, 0.8]
    np.testing.assert_array_equal(actions.binarize_gripper(opening), [1, 0, 0, 0, 0, 1, 1, 1, 1])


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1))
def test_gripper_openings_round_trip_whichever_way_the_actuator_counts(closed, opened, opening):
    if abs(closed - opened) < 1e-3:
        return
    value = actions.value_from_opening(opening, closed, opened)
    assert actions.opening_from_value(value, closed, opened) == pytest.approx(opening, abs=1e-9)


@given(quaternions)
def test_rotation_6d_is_two_columns_of_the_matrix(q):
    matrix = Rotation.from_quat(q).as_matrix()
    np.testing.assert_array_equal(rotation_6d(*q), np.concatenate([matrix[:, 0], matrix[:, 1]]))
