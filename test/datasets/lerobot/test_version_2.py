# SPDX-License-Identifier: Apache-2.0
"""LeRobot data sets of version 2.1 as LeRobot published them: files of each episode, and lists as JSON lines."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.reader import lerobot_shards
from vla_ros.datasets.store.store import load_shards

pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
pytest.importorskip("av")

from vla_ros.datasets.lerobot.video import VideoFile  # noqa: E402

CAMERA = "observation.images.top"
SPEC = ObservationSpec((Camera("static", 16, 16),), ("ee_x", "gripper_opening"))
TIMING = Timing(10.0, 2, 2)
LENGTHS = (6, 9, 4)
TASKS = ("open the drawer", "push the block")
AXIS = np.array([2.0, -1.0, 0.5]) / np.linalg.norm([2.0, -1.0, 0.5])
SPEED, TURN = 0.12, 0.9  # of every episode [m/s], [rad/s] about AXIS
INFO = {
    "codebase_version": "v2.1", "robot_type": "panda", "total_episodes": 3, "total_frames": sum(LENGTHS),
    "total_tasks": 2, "total_videos": 3, "total_chunks": 2, "chunks_size": 2, "fps": 10, "splits": {"train": "0:3"},
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "features": {
        "observation.state": {"dtype": "float32", "shape": [7], "names": ["x", "y", "z", "r1", "r2", "r3", "width"]},
        "action": {"dtype": "float32", "shape": [1], "names": ["gripper"]},
        CAMERA: {
            "dtype": "video", "shape": [16, 16, 3], "names": ["height", "width", "channels"],
            "info": {"video.fps": 10.0, "video.codec": "h264", "video.pix_fmt": "yuv420p", "video.is_depth_map": False},
        },
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            name: {"dtype": "int64", "shape": [1], "names": None}
            for name in ("frame_index", "episode_index", "index", "task_index")
        },
    },
}  # fmt: skip
MAPPING = {
    "cameras": {"static": CAMERA},
    "pose": {
        "feature": "observation.state",
        "position": [0, 1, 2],
        "rotation": [3, 4, 5],
        "rotation_as": "rotation_vector",
    },
    "gripper": {"feature": "action", "column": 0},
    "opening": {"feature": "observation.state", "column": 6, "open": 0.08},
}


def picture(number: int, frame: int) -> np.ndarray:
    return np.random.default_rng(100 * number + frame).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(INFO))
    (folder / "meta/vla_ros.json").write_text(json.dumps(MAPPING))
    lines = {"tasks": [{"task_index": index, "task": task} for index, task in enumerate(TASKS)], "episodes": []}
    for number, length in enumerate(LENGTHS):
        task = number % 2
        lines["episodes"].append({"episode_index": number, "tasks": [TASKS[task]], "length": length})
        write_episode(folder, number, length, task)
    for name, rows in lines.items():
        (folder / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_episode(folder: Path, number: int, length: int, task: int) -> None:
    times_s = np.arange(length) / 10
    state = np.zeros((length, 7), np.float32)
    state[:, 0] = 0.4 + SPEED * times_s
    state[:, 3:6] = Rotation.from_rotvec(np.outer(TURN * times_s, AXIS)).as_rotvec()
    state[:, 6] = 0.04
    numbers = {
        "frame_index": np.arange(length),
        "episode_index": np.full(length, number),
        "index": sum(LENGTHS[:number]) + np.arange(length),
        "task_index": np.full(length, task),
    }
    columns = {
        "observation.state": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(state.ravel()), 7),
        "action": pyarrow.array((times_s < 0.2).astype(np.float32)),
        "timestamp": pyarrow.array(times_s.astype(np.float32)),
        **{name: pyarrow.array(values, pyarrow.int64()) for name, values in numbers.items()},
    }
    path = folder / INFO["data_path"].format(episode_chunk=number // 2, episode_index=number)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    path = folder / INFO["video_path"].format(episode_chunk=number // 2, episode_index=number, video_key=CAMERA)
    path.parent.mkdir(parents=True, exist_ok=True)
    video = VideoFile(path, Fraction(10), 16, 16)
    video.append(np.stack([picture(number, frame) for frame in range(length)]))
    video.close()


def change_info(folder: Path, **changes: object) -> None:
    (folder / "meta/info.json").write_text(json.dumps({**INFO, **changes}))


def read(folder: Path) -> list[Episode]:
    return load_shards(lerobot_shards(folder, SPEC, TIMING), workers=1).episodes


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_images_motion_grippers_and_commands_are_those_recorded(folder: Path, version: str) -> None:
    change_info(folder, codebase_version=version)
    found = read(folder)
    assert [one.command for one in found] == ["open the drawer", "push the block", "open the drawer"]
    assert [one.source for one in found] == ["set#0", "set#1", "set#2"]
    for number, (one, length) in enumerate(zip(found, LENGTHS, strict=True)):
        steps = length - 1  # no motion follows the last frame
        expected = np.stack([picture(number, frame) for frame in range(steps)])
        np.testing.assert_array_equal(one.images["static"], expected)
        np.testing.assert_allclose(one.actions[:, :6], np.tile([SPEED, 0, 0, *(TURN * AXIS)], (steps, 1)), atol=2e-6)
        assert one.actions[:, 6].tolist() == [1, 1, *[0] * (steps - 2)]
        np.testing.assert_allclose(one.proprioception[:, 0], 0.4 + SPEED * np.arange(steps) / 10, atol=1e-6)
        np.testing.assert_allclose(one.proprioception[:, 1], 0.5)


def test_lists_of_other_tools_and_wall_clock_times_are_read(folder: Path) -> None:
    """A byte order mark, Windows' ends of lines, a line separator in a text, and no tasks."""
    tasks = [{"task_index": 0, "task": "open\u2028it"}, {"task_index": 1, "task": TASKS[1]}]
    lines = "\r\n\r\n".join(json.dumps(task, ensure_ascii=False) for task in tasks)
    (folder / "meta/tasks.jsonl").write_text(lines, encoding="utf-8-sig", newline="")
    (folder / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 6, "tasks": null}')
    path = folder / INFO["data_path"].format(episode_chunk=0, episode_index=0)
    rows = parquet.read_table(path)
    at, times_s = rows.schema.get_field_index("timestamp"), 1.7e9 + np.arange(6) / 10
    parquet.write_table(rows.set_column(at, "timestamp", pyarrow.array(times_s)), path)
    (found,) = read(folder)
    assert found.command == "open\u2028it"
    np.testing.assert_array_equal(found.images["static"], np.stack([picture(0, frame) for frame in range(5)]))


def test_another_video_folder_and_the_usual_paths_if_info_json_has_none(folder: Path) -> None:
    expected = read(folder)
    change_info(folder, video_path=None, data_path=None)
    assert len(read(folder)) == 3
    (folder / "videos").rename(folder / "video")
    change_info(folder, video_path=INFO["video_path"].replace("videos/", "video/"))
    np.testing.assert_array_equal(read(folder)[2].images["static"], expected[2].images["static"])


def test_timestamps_that_contradict_fps_are_refused(folder: Path) -> None:
    change_info(folder, fps=15)
    with pytest.raises(SourceError, match=r"not those of fps 15.*the mean is 10 Hz"):
        read(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "meta/episodes.jsonl").unlink(), r"episodes\.jsonl is missing"),
        (lambda folder: (folder / "meta/tasks.jsonl").write_text('{"task_index": 0\n'), r"tasks\.jsonl is damaged"),
        (lambda folder: (folder / "meta/episodes.jsonl").write_text(""), "has no episode in meta/episodes.jsonl"),
        (
            lambda folder: (folder / "meta/episodes.jsonl").write_text(
                2 * '{"episode_index": 1, "tasks": [], "length": 9}\n'
            ),
            "list episode 1 twice",
        ),
        (
            lambda folder: (folder / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": []}\n'),
            "they have no 'length'",
        ),
        (
            lambda folder: (folder / "meta/episodes.jsonl").write_text(
                '{"episode_index": 0, "tasks": [], "length": NaN}\n'
            ),
            "column 'length' of episode 0 is nan",
        ),
        (
            lambda folder: (folder / "data/chunk-001/episode_000002.parquet").unlink(),
            r"episode_000002\.parquet is missing",
        ),
        (lambda folder: next(folder.glob("videos/*/*/episode_000001.mp4")).unlink(), r"episode_000001\.mp4 is missing"),
        (
            lambda folder: next(folder.glob("videos/*/*/episode_000001.mp4")).write_bytes(
                next(folder.glob("videos/*/*/episode_000002.mp4")).read_bytes()
            ),
            r"no image at 0\.400 s: it ends at 0\.300 s, 5 images too early, but episode 1 has a step there",
        ),
    ],
)
def test_missing_and_damaged_files_are_named(folder: Path, harm, message: str) -> None:
    harm(folder)
    with pytest.raises(SourceError, match=message):
        read(folder)
