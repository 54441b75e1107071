# SPDX-License-Identifier: Apache-2.0
"""Exports of replayed episodes: what was recorded, and what the policy planned."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

from vla_ros import resources
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.episode import Episode
from vla_ros.errors import UserError
from vla_ros.evaluation.replay.open_loop import ReplayedEpisode
from vla_ros.evaluation.reports.overlay import POSE_NAMES, overlay, write_bag, write_rerun
from vla_ros.grid import Grid
from vla_ros.observations.observation import rotation_6d, rotation_from_6d
from vla_ros.robot import load_robot

GRID = Grid(10)
QUATERNION = np.array([0.0, np.sin(0.3), 0.0, np.cos(0.3)])


@pytest.fixture
def replayed() -> ReplayedEpisode:
    """Three frames; the chunk of each moves along x for two periods, at 0.1 m/s, and turns about z."""
    pose = [0.4, 0.0, 0.2, *rotation_6d(*QUATERNION)]
    random = np.random.default_rng(0)
    episode = Episode(
        images={name: random.integers(0, 256, (3, 8, 8, 3), np.uint8) for name in ("static", "wrist")},
        proprioception=np.tile(np.array(pose, np.float32), (3, 1)),
        actions=np.full((3, 7), 0.05),
        command="pick it up",
        task="pick",
        outcome="success",
        source="a/0",
        start_ns=GRID.start_ns(50),
        ticks=np.arange(50, 53),
    )
    chunks = np.zeros((3, 2, 7))
    chunks[..., 0], chunks[..., 5] = 0.1, 0.5
    return ReplayedEpisode(episode, chunks, np.ones(3))


def test_the_path_starts_at_the_recorded_pose_and_follows_the_chunk(replayed) -> None:
    frames = list(overlay(replayed, POSE_NAMES, GRID))
    assert [frame.time_ns for frame in frames] == [5_000_000_000, 5_100_000_000, 5_200_000_000]
    np.testing.assert_allclose(frames[0].pose, [0.4, 0.0, 0.2, *QUATERNION], atol=1e-6)
    np.testing.assert_allclose(frames[0].path[:, :3], [[0.4, 0, 0.2], [0.41, 0, 0.2], [0.42, 0, 0.2]], atol=1e-6)
    np.testing.assert_array_equal(frames[1].planned, replayed.chunks[1, 0])


def test_without_the_recorded_pose_there_is_no_path(replayed) -> None:
    episode = dataclasses.replace(replayed.episode, proprioception=np.zeros((3, 1), np.float32))
    frame = next(overlay(dataclasses.replace(replayed, episode=episode), ("gripper_opening",), GRID))
    assert frame.pose is None and frame.path is None


def test_a_bag_has_the_topics_of_the_shipped_view(replayed, tmp_path) -> None:
    robot = load_robot("tabletop")
    folder = tmp_path / "replayed"
    write_bag(folder, overlay(replayed, POSE_NAMES, GRID), "pick it up", robot)
    view = json.loads((resources.path("config/views") / "foxglove.json").read_text())["configById"]
    shown = {panel["imageMode"]["imageTopic"] for panel in view.values() if "imageMode" in panel}
    shown |= {*view["3D!plan"]["topics"], "/twist_command"}
    with open_bag(folder) as recording:
        assert shown <= set(recording.topics)
        messages = {}
        for topic, time_ns, message in recording.messages(recording.topics):
            messages.setdefault(topic, []).append((time_ns, message))
    image = cv2.imdecode(messages["/camera/wrist/image_raw/compressed"][2][1].data, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), replayed.episode.images["wrist"][2])
    time_ns, plan = messages["/policy/predicted_path"][1]
    assert time_ns == GRID.start_ns(51) and plan.header.stamp.nanosec == 100_000_000
    assert plan.header.frame_id == robot.base_frame and len(plan.poses) == 3
    assert plan.poses[2].position.x == pytest.approx(0.42)
    assert messages["/twist_command"][0][1].twist.linear.y == 0.05
    assert messages["/guard/preview"][0][1].twist.angular.z == 0.5
    assert [message.data for _, message in messages["/language_command"]] == ["pick it up"]


def test_a_rerun_recording_is_written_once_and_needs_its_package(replayed, tmp_path, monkeypatch) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (the extra rerun)")
    file = tmp_path / "new" / "episode_0.rrd"
    write_rerun(file, overlay(replayed, POSE_NAMES, GRID), "pick it up")
    assert file.read_bytes()[:4] in (b"RRF2", b"RRIO") and [path.name for path in file.parent.iterdir()] == [file.name]
    with pytest.raises(UserError, match="already exists"):
        write_rerun(file, [], "pick it up")


def test_without_rerun_the_error_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(UserError, match=r"pip install 'vla_ros\[rerun\]'"):
        write_rerun(tmp_path / "one.rrd", [], "")


def test_a_quaternion_comes_back_from_the_two_columns_and_none_from_parallel_ones() -> None:
    columns = rotation_6d(*QUATERNION)
    np.testing.assert_allclose(rotation_from_6d(np.multiply(columns, 1.001)).as_quat(), QUATERNION, atol=1e-9)
    with pytest.raises(ValueError, match="zero or parallel"):
        rotation_from_6d([1, 0, 0, 2, 0, 0])
