# SPDX-License-Identifier: Apache-2.0
"""A robot whose pose is on /tf: the same episodes as from a PoseStamped, and clear errors for missing links."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from recordings import read_bag
from scipy.spatial.transform import Rotation

from vla_ros import resources
from vla_ros.cli import main
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.labelling import ActionLabels
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.reader import BagReader
from vla_ros.datasets.errors import BagError
from vla_ros.geometry import rigid
from vla_ros.robot import Labels, Robot, load_robot
from vla_ros.robot_streams import PoseStream

if TYPE_CHECKING:
    from recordings import BagBuilder

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
TF = {"topic": "/tf", "type": "tf2_msgs/msg/TFMessage", "stamp": "header", "ee_frame": "tcp"}
POSES = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)))
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
# What does not move: where the arm stands on its base, and where the tool is on the hand.
MOUNT = (0.1, -0.2, 0.5, *Rotation.from_rotvec([0.2, -0.4, 2.0]).as_quat())
TOOL = (0.0, 0.01, 0.1034, *Rotation.from_rotvec([0.0, 0.0, -0.785]).as_quat())
STATIC = (("base_link", "arm0", MOUNT), ("hand", "tcp", TOOL))


def joints(stamp_ms: float) -> tuple[tuple[str, str, tuple[float, ...]], ...]:
    """Three joints that turn at different speeds, as a robot's state publisher tells of them."""
    axes = ([0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0])
    frames = ("arm0", "arm1", "arm2", "hand")
    time_s = stamp_ms / 1000
    return tuple(
        (parent, child, (0.1 * number, 0.0, 0.3, *Rotation.from_rotvec(np.array(axis) * turn).as_quat()))
        for number, (parent, child, axis, turn) in enumerate(
            zip(frames, frames[1:], axes, (np.sin(time_s), 0.5 * time_s, 0.3 * np.cos(2 * time_s)))
        )
    )


def pose(stamp_ms: float) -> np.ndarray:
    """The tool in the base frame, by matrices."""
    chain = (STATIC[0], *joints(stamp_ms), STATIC[1])
    result = np.eye(4)
    for _, _, one in chain:
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = Rotation.from_quat(one[3:]).as_matrix(), one[:3]
        result = result @ step
    return np.array([*result[:3, 3], *Rotation.from_matrix(result[:3, :3]).as_quat()])


def with_transforms(built: BagBuilder, static_ms: float | None = -15, unrelated: bool = True) -> BagBuilder:
    """Beside the builder's poses, which become those of the moving arm, the same motion on /tf at the same times."""
    for receive_ns, topic, _, message in list(built.messages):
        if topic != "/ee_pose":
            continue
        stamp = message.header.stamp
        stamp_ms = (stamp.sec * 10**9 + stamp.nanosec - START_NS) / MS
        values = pose(stamp_ms)
        for axis, value in zip("xyz", values[:3]):
            setattr(message.pose.position, axis, float(value))
        for axis, value in zip("xyzw", values[3:]):
            setattr(message.pose.orientation, axis, float(value))
        late_ms = (receive_ns - START_NS) / MS - stamp_ms
        others = [(f"wheel{n}", f"rim{n}", STILL) for n in range(5)] if unrelated else []
        built.transforms(stamp_ms, *others, *joints(stamp_ms), late_ms=late_ms)
    if static_ms is not None:
        built.transforms(static_ms, STATIC[0], topic="tf_static").transforms(static_ms, STATIC[1], topic="tf_static")
    return built


@pytest.fixture(scope="session")
def spec(spec: ObservationSpec) -> ObservationSpec:
    return ObservationSpec(spec.cameras, (*POSES, "gripper_opening"))


@pytest.fixture(scope="session")
def on_tf(robot: Robot) -> Robot:
    return dataclasses.replace(robot, ee_pose=PoseStream(**TF), labels=Labels(arm="motion"))


@pytest.fixture
def read(spec: ObservationSpec, timing: Timing, tmp_path: Path) -> Callable[..., tuple]:
    def written_and_read(built: BagBuilder, robot: Robot) -> tuple:
        return read_bag(built.write(tmp_path / f"bag{len(list(tmp_path.iterdir()))}"), robot, spec, timing)

    return written_and_read


@pytest.mark.parametrize("static_ms", [-15, 1500], ids=["static links first", "static links recorded late"])
@pytest.mark.parametrize("latency_s", [0.0, 0.13])
def test_the_same_motion_as_poses_and_on_tf_gives_the_same_episode(
    demonstration: BagBuilder, read: Callable, robot: Robot, on_tf: Robot, static_ms: float, latency_s: float
) -> None:
    built = with_transforms(demonstration.without("demonstrated_twist"), static_ms)
    as_pose = PoseStream("ee_pose", "geometry_msgs/msg/PoseStamped", "header", latency_s=latency_s)
    from_poses, told = read(built, dataclasses.replace(robot, ee_pose=as_pose, labels=Labels(arm="motion")))
    from_tf, told_tf = read(built, dataclasses.replace(on_tf, ee_pose=PoseStream(**TF, latency_s=latency_s)))
    assert told.dropped == told_tf.dropped and len(from_tf) == len(from_poses) == 1
    np.testing.assert_allclose(from_tf[0].actions, from_poses[0].actions, atol=1e-9)
    np.testing.assert_allclose(from_tf[0].proprioception, from_poses[0].proprioception, atol=1e-6)  # float32
    assert np.abs(from_tf[0].actions[:, :6]).max(axis=0).min() > 0.05  # it did move, in all ways
    assert np.array_equal(from_tf[0].ticks, from_poses[0].ticks)


def test_the_trajectory_of_a_chain_is_that_of_its_poses(
    demonstration: BagBuilder, on_tf: Robot, robot: Robot, tmp_path: Path
) -> None:
    built = with_transforms(demonstration.without("demonstrated_twist"))
    moving = dataclasses.replace(robot, labels=Labels(arm="motion"))
    with open_bag(built.write(tmp_path / "bag")) as recording:
        poses, chain = (ActionLabels(recording, each)._poses for each in (moving, on_tf))
    assert poses is not None and chain is not None and len(poses.time_ns) > 100
    np.testing.assert_array_equal(chain.time_ns, poses.time_ns)
    same_way = np.sign((chain.values[:, 3:] * poses.values[:, 3:]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(chain.values[:, :3], poses.values[:, :3], atol=1e-9)
    np.testing.assert_allclose(chain.values[:, 3:] * same_way, poses.values[:, 3:], atol=1e-9)


def test_tool_frame_twists_are_rotated_with_tf(
    demonstration: BagBuilder, read: Callable, robot: Robot, on_tf: Robot
) -> None:
    built = with_transforms(demonstration)
    for _, topic, _, message in built.messages:
        if topic == "/demonstrated_twist":
            message.header.frame_id = "tcp"
    changes: dict[str, Any] = {"labels": Labels(), "tool_frame": "tcp"}
    (expected,), _ = read(built, dataclasses.replace(robot, **changes))
    (found,), _ = read(built, dataclasses.replace(on_tf, **changes))
    np.testing.assert_allclose(found.actions, expected.actions, atol=1e-9)


def test_a_static_link_that_changes_counts_as_first_published_until_then(
    demonstration: BagBuilder, read: Callable, on_tf: Robot
) -> None:
    """Another tool is put on at 1 s, 10 cm longer; the first one's transform was recorded at the start."""
    longer = (*TOOL[:2], TOOL[2] + 0.1, *TOOL[3:])
    built = with_transforms(demonstration).transforms(990, ("hand", "tcp", longer), topic="tf_static")
    (episode,), _ = read(built, dataclasses.replace(on_tf, labels=Labels()))
    expected = np.stack([pose(100 * tick)[:3] for tick in range(20)])
    away = np.linalg.norm(episode.proprioception[:, :3] - expected, axis=1)
    np.testing.assert_allclose(away, [0.0] * 10 + [0.1] * 10, atol=1e-6)


def test_a_missing_link_is_named_with_the_known_frames(demonstration: BagBuilder, read: Callable, on_tf: Robot) -> None:
    built = with_transforms(demonstration, static_ms=None)
    with pytest.raises(BagError) as failed:
        read(built, on_tf)
    text = str(failed.value)
    assert "/tf: no chain of transforms leads from 'base_link' to 'tcp'" in text
    assert "no transform names 'base_link' or 'tcp'; known frames: arm0, arm1, arm2, hand, rim0" in text
    assert "the bag has no topic /tf_static" in text and "correct base_frame and ee_pose.ee_frame" in text
    half = with_transforms(demonstration, static_ms=None).transforms(0, STATIC[1], topic="tf_static")
    half.transforms(0, ("world", "base_link", STILL), topic="tf_static")
    with pytest.raises(BagError, match="'tcp' leads up to 'arm0', which has no parent, 'base_link' to"):
        read(half, on_tf)


def test_a_bag_without_tf_is_rejected(demonstration: BagBuilder, read: Callable, on_tf: Robot) -> None:
    with pytest.raises(BagError, match="topic '/tf' is missing"):
        read(demonstration, on_tf)


def test_a_chain_that_breaks_costs_the_frames_after_it(demonstration: BagBuilder, read: Callable, on_tf: Robot) -> None:
    built = with_transforms(demonstration)
    for receive_ns, topic, _, message in built.messages:
        if topic == "/tf" and receive_ns > START_NS + 1001 * MS:
            message.transforms = [one for one in message.transforms if one.child_frame_id != "arm2"]
    (episode,), told = read(built, on_tf)
    assert len(episode) == 10  # the tenth motion ends at 1 s
    assert sum(told.dropped.values()) == 10 and dict(told.dropped)["ee_pose: too old"] >= 6


def test_an_invalid_transform_costs_its_stamp_and_is_reported(
    demonstration: BagBuilder, read: Callable, on_tf: Robot, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    built = with_transforms(demonstration)
    for receive_ns, topic, _, message in built.messages:
        if topic == "/tf" and receive_ns == START_NS + 1001 * MS:
            message.transforms[-1].transform.rotation.w = float("nan")
    (episode,), told = read(built, on_tf)
    assert len(episode) == 20 and told.dropped == {}
    report, text = inspected(built, tmp_path, capsys)
    (fault,) = report["transforms"]
    assert fault.endswith("/tf: 'hand' in 'arm2': not finite (1 times)") and "'hand' in 'arm2': not finite" in text


def inspected(built: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture) -> tuple[dict[str, Any], str]:
    data = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    data.update(ee_pose=TF, labels={"arm": "motion"})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    report = tmp_path / "report.json"
    bag = built.write(tmp_path / "inspected")
    main(["inspect", str(bag), "--robot", str(tmp_path / "mine.yaml"), "--json", str(report)])
    return json.loads(report.read_text()), " ".join(capsys.readouterr().out.split())


def test_inspect_reports_a_missing_link(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report, text = inspected(with_transforms(demonstration, static_ms=None), tmp_path, capsys)
    assert "no transform names 'base_link' or 'tcp'" in report["problems"][0]["problem"]
    assert "known frames: arm0, arm1, arm2, hand" in text


def test_inspect_reports_the_stream_of_a_complete_chain(
    demonstration: BagBuilder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report, _ = inspected(with_transforms(demonstration), tmp_path, capsys)
    assert report["problems"] == [] and report["transforms"] == [] and report["frames"] == 20
    assert report["streams"]["ee_pose"]["delay_s"] == pytest.approx(0.001, abs=1e-4)
    assert report["streams"]["ee_pose"]["repeated_stamps"] == 0
    assert report["topics"]["/tf_static"]["messages"] == 2


def test_the_tool_frame_is_part_of_a_store_entry_s_identity(
    demonstration: BagBuilder, on_tf: Robot, spec: ObservationSpec, timing: Timing, tmp_path: Path
) -> None:
    bag = with_transforms(demonstration).write(tmp_path / "bag")
    other = dataclasses.replace(on_tf, ee_pose=PoseStream(**{**TF, "ee_frame": "hand"}))
    ours, theirs = (BagReader(bag, robot, spec, timing).shard().settings for robot in (on_tf, other))
    assert json.dumps(ours) != json.dumps(theirs)


def test_poses_of_a_chain_are_what_the_tree_composes() -> None:
    """The matrices of this file's expectations against the package's own composition: neither is wrong alone."""
    composed = rigid.IDENTITY
    for _, _, one in (STATIC[0], *joints(700), STATIC[1]):
        composed = rigid.compose(composed, tuple(one))  # type: ignore[arg-type]
    np.testing.assert_allclose(composed[:3], pose(700)[:3], atol=1e-12)


def test_the_shipped_ur_takes_its_pose_from_tf() -> None:
    stream = load_robot("ur_servo").ee_pose
    assert stream is not None and (stream.static_topic, stream.ee_frame) == ("/tf_static", "tool0")
