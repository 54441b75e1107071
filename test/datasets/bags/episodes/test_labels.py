# SPDX-License-Identifier: Apache-2.0
"""Labels are what was commanded during the period, whenever the commands came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.datasets.bags.episodes.labelling import HOLD_NS, ZeroOrderHold, as_of, motion, poses_at

MS = 1_000_000
PERIOD_NS = 100 * MS


def average(samples: list[tuple[int, float]], start_ms: int, hold_ns: int = HOLD_NS) -> float:
    times_ns = np.array([time_ms * MS for time_ms, _ in samples], np.int64)
    values = np.array([value for _, value in samples]).reshape(-1, 1)
    return float(ZeroOrderHold(times_ns, values, hold_ns).average(np.array([start_ms * MS]), PERIOD_NS)[0, 0])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([(0, 1.0)], 1.0),
        ([(-30, 1.0), (25, 3.0)], 0.25 * 1 + 0.75 * 3),  # the old command counts until the new one
        ([(50, 1.0)], 0.5),  # nothing before the first
        ([(100, 1.0)], 0.0),  # a command at the end belongs to the next period
        ([(-150, 1.0)], 0.5),  # held for 200 ms, then the controller stops
        ([(-500, 1.0)], 0.0),
        ([(0, 1.0), (0, 3.0)], 3.0),  # of equal times the last counts
        ([(25, 3.0), (-30, 1.0)], 0.25 * 1 + 0.75 * 3),  # the order of arrival does not matter
        ([], 0.0),
    ],
)
def test_label_is_the_average_of_the_held_command(samples: list[tuple[int, float]], expected: float) -> None:
    assert average(samples, 0) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(-400, 400), st.floats(-2, 2)), min_size=1, max_size=8), st.integers(-300, 300))
def test_label_equals_the_command_sampled_finely(samples: list[tuple[int, float]], start_ms: int) -> None:
    in_order = sorted(samples, key=lambda sample: sample[0])
    fine = []
    for time_ms in range(start_ms, start_ms + 100):
        before = [sample for sample in in_order if sample[0] <= time_ms]
        held = before and time_ms - before[-1][0] < HOLD_NS // MS
        fine.append(before[-1][1] if held else 0.0)
    assert average(samples, start_ms) == pytest.approx(np.mean(fine), abs=1e-9)


def test_labels_stay_exact_at_the_times_of_a_wall_clock_and_in_long_recordings() -> None:
    start_ns = 1_700_000_000_000_000_000
    times_ns = start_ns + np.arange(36_000) * PERIOD_NS
    values = np.tile(np.array([[0.1], [-0.3]]), (18_000, 1))
    labels = ZeroOrderHold(times_ns, values).average(times_ns, PERIOD_NS)
    np.testing.assert_allclose(labels, values, atol=1e-10)


def test_gripper_target_is_the_newest_one_and_unknown_before_the_first() -> None:
    times_ns, values = np.array([30, 10, 20]), np.array([3.0, 1.0, 2.0])
    found = as_of(times_ns, values, np.array([9, 10, 29, 30, 99]))
    np.testing.assert_array_equal(found, [np.nan, 1.0, 2.0, 3.0, 3.0])


def test_gripper_target_of_a_recording_without_gripper_commands_is_unknown() -> None:
    assert np.isnan(as_of(np.array([], np.int64), np.array([]), np.array([1, 2]))).all()


def test_a_value_that_is_too_old_is_unknown() -> None:
    found = as_of(np.array([10]), np.array([1.0]), np.array([9, 10, 15, 16]), max_age_ns=5)
    np.testing.assert_array_equal(found, [np.nan, 1.0, 1.0, np.nan])
    assert np.isnan(as_of(np.array([], np.int64), np.array([]), np.array([1]), max_age_ns=5)).all()


def track(times_ms: list[int], twist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses (S, 7) of a tool that moves with a constant twist in the base frame."""
    position, quaternion = np.array([0.4, 0.1, 0.3]), Rotation.from_rotvec([0.2, -1.0, 3.0]).as_quat()
    poses = [np.concatenate(actions.integrate_twist(position, quaternion, twist, ms / 1e3)) for ms in times_ms]
    return np.array(times_ms, np.int64) * MS, np.stack(poses)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.permutations(range(0, 2000, 37)), st.booleans(),
)  # fmt: skip
def test_measured_motion_is_the_twist_that_made_it(
    linear: list[float], angular: list[float], times_ms: list[int], flip: bool
) -> None:
    """Whatever the rotation, the order of the samples, and the sign of the quaternions."""
    twist = np.array([*linear, *angular])
    times_ns, poses = track(list(times_ms), twist)
    if flip:
        poses[::2, 3:] *= -1
    starts_ns = np.array([1, 500, 1234, 1850]) * MS
    labels = motion(times_ns, poses, starts_ns, PERIOD_NS, 50 * MS)
    np.testing.assert_allclose(labels, np.tile(twist, (4, 1)), atol=1e-6)


def test_motion_is_unknown_outside_the_measurement_and_across_its_gaps() -> None:
    times_ns, poses = track([0, 50, 100, 150, 400, 450, 500, 550, 600], np.array([0.1, 0, 0, 0, 0, 0.3]))
    starts_ns = np.array([-10, 0, 50, 60, 390, 400, 500, 501]) * MS
    known = np.isfinite(motion(times_ns, poses, starts_ns, PERIOD_NS, 100 * MS)).all(axis=1)
    assert known.tolist() == [False, True, True, False, False, True, True, False]


def test_poses_that_are_none_and_repeated_stamps_are_passed_over() -> None:
    times_ns, poses = track([0, 20, 20, 40, 60], np.array([0.1, 0, 0, 0, 0, 0]))
    poses[2, 0], poses[3, 0] = 99.0, np.nan
    poses = np.concatenate([poses, np.zeros((1, 7))])
    found = poses_at(np.append(times_ns, 30 * MS), poses, np.array([20, 40]) * MS, 100 * MS)
    np.testing.assert_allclose(found[:, 0], [0.402, 0.404])
    assert np.isnan(poses_at(np.zeros(0, np.int64), np.zeros((0, 7)), np.array([1]), 5)).all()
