# SPDX-License-Identifier: Apache-2.0
"""Action labels: what was commanded or measured in each control period."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import read_bag
from scipy.spatial.transform import Rotation

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.labelling import HOLD_NS, ZeroOrderHold, as_of, motion
from vla_ros.datasets.errors import BagError
from vla_ros.geometry.rigid import interpolate_poses
from vla_ros.robot import Filters, Idle, Labels, Outliers, Robot
from vla_ros.robot_streams import GripperState, PoseStream, TwistStream

if TYPE_CHECKING:
    from recordings import BagBuilder

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
WIDTH = GripperState("width", "std_msgs/msg/Float64", "receive", closed=0.0, open=0.08)


@pytest.fixture
def read(robot: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path) -> Callable[..., tuple]:
    """Write a builder's bag and read it with a robot's file that differs in some keys."""

    def written_and_read(built: BagBuilder, **changes: Any) -> tuple:
        changed = dataclasses.replace(robot, **changes)
        return read_bag(built.write(tmp_path / f"bag{len(list(tmp_path.iterdir()))}"), changed, spec, timing)

    return written_and_read


def test_motion_is_the_label_without_recorded_commands(demonstration: BagBuilder, read: Callable) -> None:
    built = demonstration.without("demonstrated_twist")
    (episode,), report = read(built, labels=Labels(arm="motion"))
    np.testing.assert_allclose(episode.actions[:, :6], np.tile([0.1, 0, 0, 0, 0, 0], (20, 1)), atol=1e-9)
    assert (len(episode), report.dropped) == (20, {})
    with pytest.raises(BagError, match="demonstrated twist: topic 'demonstrated_twist' is missing"):
        read(built)


def test_frames_without_measured_motion_are_dropped(demonstration: BagBuilder, read: Callable) -> None:
    demonstration.messages = [
        entry for entry in demonstration.messages
        if not (entry[1] == "/ee_pose" and START_NS + 810 * MS < entry[0] < START_NS + 1190 * MS)
    ]  # fmt: skip
    episodes, report = read(demonstration, labels=Labels(arm="motion"))
    assert [len(episode) for episode in episodes] == [8, 8]
    told = dict(report.dropped)
    assert told.pop("ee_pose: not known well enough for the arm's motion") + told.pop("ee_pose: too old", 0) == 4
    assert not told


def test_the_latency_of_the_pose_moves_the_label_and_not_the_command(demonstration: BagBuilder, read: Callable) -> None:
    """A tool that starts at 1 s, seen 200 ms late."""
    for _, topic, _, message in demonstration.messages:
        if topic == "/ee_pose":
            stamp_ms = (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - START_NS) / MS
            message.pose.position.x = max(stamp_ms - 1200, 0) / 1e4
    (as_stamped,), _ = read(demonstration, labels=Labels(arm="motion"))
    assert np.flatnonzero(as_stamped.actions[:, 0] > 0.05)[0] == 12
    late = PoseStream("ee_pose", "geometry_msgs/msg/PoseStamped", "header", latency_s=0.2)
    episodes, _ = read(demonstration, labels=Labels(arm="motion"), ee_pose=late)
    first = episodes[0]
    assert first.ticks[first.actions[:, 0] > 0.05][0] == as_stamped.ticks[10]
    (commanded,), _ = read(demonstration, ee_pose=late)
    np.testing.assert_allclose(commanded.actions[:, 0], 0.1, atol=1e-12)


def test_tool_frame_twists_are_rotated_into_the_base_frame(demonstration: BagBuilder, read: Callable) -> None:
    rotation = Rotation.from_rotvec([0.3, -1.2, 2.0])
    for _, topic, _, message in demonstration.messages:
        if topic == "/ee_pose":
            for axis, value in zip("xyzw", rotation.as_quat(), strict=True):
                setattr(message.pose.orientation, axis, float(value))
        if topic == "/demonstrated_twist":
            message.header.frame_id = "tool0"
    (episode,), _ = read(demonstration, tool_frame="tool0")
    expected = np.concatenate([rotation.apply([0.1, 0, 0]), rotation.apply([0, 0, -0.1])])
    np.testing.assert_allclose(episode.actions[:, :6], np.tile(expected, (20, 1)), atol=1e-9)
    with pytest.raises(BagError, match=r"frame 'tool0'.*frame: base or frame: tool in demonstrated_twist"):
        read(demonstration)


@pytest.mark.parametrize("named", ["", "teleop_twist_joy", "base_link"])
@pytest.mark.parametrize(("frame", "vx"), [("base", 0.1), ("tool", -0.1), ("tool0", -0.1)])
def test_the_robot_file_says_the_frame_of_twists_whatever_their_frame_id_is(
    demonstration: BagBuilder, read: Callable, robot: Robot, named: str, frame: str, vx: float
) -> None:
    for _, topic, _, message in demonstration.messages:
        if topic == "/ee_pose":  # half a turn about y
            message.pose.orientation.x, message.pose.orientation.y = 0.0, 1.0
        if topic == "/demonstrated_twist":
            message.header.frame_id = named
    twists = dataclasses.replace(robot.demonstrated_twist, frame=frame)
    (episode,), _ = read(demonstration, tool_frame="tool0", demonstrated_twist=twists)
    np.testing.assert_allclose(episode.actions[:, 0], vx, atol=1e-9)


@pytest.mark.parametrize(
    ("named", "words"), [("", "has a twist without a frame_id"), ("joy", "in the frame 'joy', neither base_frame")]
)
def test_a_frame_that_nothing_explains_is_an_error_that_names_the_key(
    demonstration: BagBuilder, read: Callable, named: str, words: str
) -> None:
    for _, topic, _, message in demonstration.messages:
        if topic == "/demonstrated_twist":
            message.header.frame_id = named
    with pytest.raises(BagError, match=f"{words}.*with frame: base or frame: tool in demonstrated_twist"):
        read(demonstration)


def test_tool_frame_twists_without_a_pose_cost_their_frames(demonstration: BagBuilder, read: Callable) -> None:
    demonstration.messages = [
        entry for entry in demonstration.messages
        if not (entry[1] == "/ee_pose" and START_NS + 690 * MS < entry[0] < START_NS + 1010 * MS)
    ]  # fmt: skip
    for _, topic, _, message in demonstration.messages:
        if topic == "/demonstrated_twist":
            message.header.frame_id = "tool0"
    episodes, report = read(demonstration, tool_frame="tool0")
    told = dict(report.dropped)
    assert told["ee_pose: not known well enough for the arm's motion"] >= 2
    assert sum(map(len, episodes)) + sum(told.values()) == 20
    for episode in episodes:  # the tool points downwards
        np.testing.assert_allclose(episode.actions[:, [0, 5]], np.tile([0.1, 0.1], (len(episode), 1)), atol=1e-9)


def test_twists_without_a_header_count_from_receipt(demonstration: BagBuilder, read: Callable) -> None:
    for time_ms in range(0, 2000, 100):
        demonstration.twist_without_header(time_ms, -0.2)
    plain = TwistStream("teleop", "geometry_msgs/msg/Twist", "receive")
    (episode,), _ = read(demonstration, demonstrated_twist=plain)
    np.testing.assert_allclose(episode.actions[:, 0], -0.2, atol=1e-12)


def closing(demonstration: BagBuilder) -> BagBuilder:
    """The fingers close from 0.8 s to 1.2 s, on nothing, and open from 1.6 s on."""
    for _, topic, _, message in demonstration.without("gripper_command").messages:
        if topic == "/joint_states":
            stamp_ms = (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - START_NS) / MS
            opening = np.interp(stamp_ms, [800, 1200, 1600, 2000], [1, 0, 0, 1])
            message.position = np.array([0.0, 0.04 * opening, 0.04 * opening])
    return demonstration


def test_a_measured_opening_is_labelled_with_where_it_goes_next(demonstration: BagBuilder, read: Callable) -> None:
    (episode,), report = read(closing(demonstration), labels=Labels(gripper="state"))
    # As measured at the end of each period; a hair from the ends is open or closed already.
    assert episode.actions[:, 6].tolist() == [1.0] * 8 + [0.0] * 8 + [1.0] * 4
    assert report.dropped == {}


def test_a_width_measures_the_gripper_too(demonstration: BagBuilder, read: Callable) -> None:
    for time_ms in range(-20, 2050, 20):
        demonstration.width(time_ms, 0.08 if time_ms < 1000 else 0.03)
    built = demonstration.without("gripper_command")
    (episode,), _ = read(built, labels=Labels(gripper="state", closed_below=0.5), gripper_state=WIDTH)
    assert episode.actions[:, 6].tolist() == [1.0] * 9 + [0.0] * 11
    np.testing.assert_allclose(episode.proprioception[[0, -1], 1], [1.0, 0.375])


def test_frames_without_a_measured_gripper_are_dropped(demonstration: BagBuilder, read: Callable) -> None:
    for time_ms in [*range(-20, 500, 20), *range(1500, 2050, 20)]:
        demonstration.width(time_ms, 0.08)
    episodes, report = read(
        demonstration.without("gripper_command"), labels=Labels(gripper="state"), gripper_state=WIDTH
    )
    assert sum(map(len, episodes)) + sum(report.dropped.values()) == 20
    assert len(episodes) == 2 and all((episode.actions[:, 6] == 1).all() for episode in episodes)
    with pytest.raises(BagError, match="topic 'width' is missing"):
        read(demonstration.without("width"), labels=Labels(gripper="state"), gripper_state=WIDTH)


def test_filters_drop_frames_only_on_request_and_count_them(bag: type[BagBuilder], read: Callable) -> None:
    built = bag().mark(-10, "start").say(-9).gripper(-8, 0.08).move(0, 3050).mark(3000.5, "success")
    for _, topic, _, message in built.messages:
        if topic == "/demonstrated_twist":
            stamp_ms = (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - START_NS) / MS
            message.twist.linear.x = 0.0 if 1000 <= stamp_ms < 1600 else 9.0 if stamp_ms == 2500 else 0.1
            message.twist.angular.z = 0.0
    (episode,), report = read(built)
    assert len(episode) == 30 and report.dropped == {}
    filters = Filters(Idle(0.001, 0.01, 0.5), Outliers(1.0, 3.0))
    episodes, report = read(built, filters=filters)
    assert [len(episode) for episode in episodes] == [10, 9, 4]
    assert dict(report.dropped) == {
        "idle, in a pause longer than filters.idle allows": 6, "action faster than filters.outliers allows": 1,
    }  # fmt: skip


def test_a_camera_s_latency_makes_its_images_older(demonstration: BagBuilder, robot: Robot, read: Callable) -> None:
    """A picture stamped 10 ms after the tick, of an event 125 ms earlier: what a live node would take, too."""
    demonstration.image("static", 510, 200, late_ms=2)
    late = dataclasses.replace(robot.cameras["static"], latency_s=0.125)
    (plain,), _ = read(demonstration)
    loose = dataclasses.replace(robot.observation, max_skew_s=0.3)
    (episode,), _ = read(demonstration, cameras={**robot.cameras, "static": late}, observation=loose)
    shades = [round(float(image.mean())) for image in episode.images["static"]]
    assert shades[5] == 200 and plain.images["static"][5].mean() < 50
    strict = dataclasses.replace(loose, max_age_s=0.11)
    with pytest.raises(BagError, match="static: too old: 20 frames"):
        read(demonstration, cameras={**robot.cameras, "static": late}, observation=strict)


PERIOD_NS = 100 * MS


def average(samples: list[tuple[int, float]], start_ms: int, hold_ns: int = HOLD_NS) -> float:
    times_ns = np.array([time_ms * MS for time_ms, _ in samples], np.int64)
    values = np.array([value for _, value in samples]).reshape(-1, 1)
    start_ns = np.array([start_ms * MS])
    return float(ZeroOrderHold(times_ns, values, hold_ns).average(start_ns, start_ns + PERIOD_NS)[0, 0])


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


def test_labels_stay_exact_at_wall_clock_times_and_in_long_recordings() -> None:
    start_ns = 1_700_000_000_000_000_000
    times_ns = start_ns + np.arange(36_000) * PERIOD_NS
    values = np.tile(np.array([[0.1], [-0.3]]), (18_000, 1))
    labels = ZeroOrderHold(times_ns, values).average(times_ns, times_ns + PERIOD_NS)
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
    labels = motion(times_ns, poses, starts_ns, starts_ns + PERIOD_NS, 50 * MS)
    np.testing.assert_allclose(labels, np.tile(twist, (4, 1)), atol=1e-6)


def test_motion_is_unknown_outside_the_measurement_and_across_its_gaps() -> None:
    times_ns, poses = track([0, 50, 100, 150, 400, 450, 500, 550, 600], np.array([0.1, 0, 0, 0, 0, 0.3]))
    starts_ns = np.array([-10, 0, 50, 60, 390, 400, 500, 501]) * MS
    known = np.isfinite(motion(times_ns, poses, starts_ns, starts_ns + PERIOD_NS, 100 * MS)).all(axis=1)
    assert known.tolist() == [False, True, True, False, False, True, True, False]


def test_invalid_poses_and_repeated_stamps_are_skipped() -> None:
    times_ns, poses = track([0, 20, 20, 40, 60], np.array([0.1, 0, 0, 0, 0, 0]))
    poses[2, 0], poses[3, 0] = 99.0, np.nan
    poses = np.concatenate([poses, np.zeros((1, 7))])
    found = interpolate_poses(np.append(times_ns, 30 * MS), poses, np.array([20, 40]) * MS, 100 * MS)
    np.testing.assert_allclose(found[:, 0], [0.402, 0.404])
    assert np.isnan(interpolate_poses(np.zeros(0, np.int64), np.zeros((0, 7)), np.array([1]), 5)).all()
