# SPDX-License-Identifier: Apache-2.0
"""LeRobot data sets of version 3: what is written is what LeRobot reads, and what comes back is what was written.

Also what is common to all versions: timestamps, numbers, videos, and metadata that contradict the files.
"""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from recordings import read_bag
from scipy.spatial.transform import Rotation

from vla_ros import cli
from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.reader import lerobot_shards
from vla_ros.datasets.store.store import load_shards
from vla_ros.observations.observation import proprioception

pyarrow = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("av")

from vla_ros.datasets.lerobot import reader  # noqa: E402
from vla_ros.datasets.lerobot import writer as lerobot_writer  # noqa: E402
from vla_ros.datasets.lerobot.video import ImageStats, vector_stats  # noqa: E402
from vla_ros.datasets.lerobot.writer import LeRobotWriter  # noqa: E402

RATE_HZ = Fraction(10)
STATES = tuple(PROPRIOCEPTION_UNITS)
SPEC = ObservationSpec((Camera("static", 12, 16), Camera("wrist", 10, 10)), STATES)
TIMING = Timing(10.0, 4, 8)


def episode(number: int, length: int, command: str = "open the drawer", phrasings: tuple[str, ...] = ()) -> Episode:
    """Noise for pictures, and a tool that moves and turns at a steady 0.1 m/s and 0.5 rad/s."""
    random = np.random.default_rng(number)
    turned = Rotation.from_rotvec(np.outer(0.05 * np.arange(length), [0, 0, 1])) * Rotation.from_rotvec([3, 0.1, 0])
    poses = np.concatenate([0.4 + np.outer(np.arange(length), [0.01, 0, 0]), turned.as_quat()], axis=1)
    opening = np.linspace(1, 0, length)
    twist = np.tile([0.1, 0, 0, 0, 0, 0.5], (length, 1))
    return Episode(
        images={"static": random.integers(0, 256, (length, 12, 16, 3), dtype=np.uint8),
                "wrist": random.integers(0, 256, (length, 10, 10, 3), dtype=np.uint8)},
        proprioception=np.stack([proprioception(STATES, pose, one) for pose, one in zip(poses, opening, strict=True)]),
        actions=np.column_stack([twist + random.normal(0, 0.01, (length, 6)), np.arange(length) < 2]),
        command=command, task=command, outcome="success", source=f"bag#{number // 2}", start_ns=0,
        ticks=np.arange(length, dtype=np.int64), phrasings=phrasings,
    )  # fmt: skip


EPISODES = [
    episode(0, 7), episode(1, 4, "pull", ("pull", "pull it open")), episode(2, 5), episode(3, 6, "push"),
]  # fmt: skip


def write(folder: Path, episodes: list[Episode] = EPISODES) -> Path:
    with LeRobotWriter.create(folder, RATE_HZ, STATES, "tabletop") as writer:
        for one in episodes:
            writer.add(one)
    return folder


def read(folder: Path, spec: ObservationSpec = SPEC, timing: Timing = TIMING) -> list[Episode]:
    return load_shards(lerobot_shards(folder, spec, timing), workers=1).episodes


def assert_same(found: Episode, expected: Episode) -> None:
    for camera in expected.images:
        np.testing.assert_array_equal(found.images[camera], expected.images[camera])  # lossless
    np.testing.assert_allclose(found.actions, expected.actions, atol=1e-6)  # in float32
    np.testing.assert_allclose(found.proprioception, expected.proprioception, atol=1e-6)
    assert (found.command, found.phrasings) == (expected.command, expected.phrasings)


@pytest.mark.parametrize("file_bytes", [200 << 20, 1])
def test_a_round_trip_keeps_frames_actions_states_and_commands(tmp_path: Path, monkeypatch, file_bytes: int) -> None:
    """In one file of each kind, and in one for each episode."""
    monkeypatch.setattr(lerobot_writer, "DATA_FILE_BYTES", file_bytes)
    monkeypatch.setattr(lerobot_writer, "VIDEO_FILE_BYTES", file_bytes)
    monkeypatch.setattr(reader, "EPISODES_PER_SHARD", 3)
    folder = write(tmp_path / "set")
    found = read(folder)
    assert len(found) == len(EPISODES)
    for one, expected in zip(found, EPISODES, strict=True):
        assert_same(one, expected)
    # Pieces of one recorded episode stay together when the data are split.
    assert [one.source for one in found] == [f"set#{expected.source}" for expected in EPISODES]
    files = {len(list(folder.glob(pattern))) for pattern in ("data/*/*.parquet", "videos/*static/*/*.mp4")}
    assert files == ({1} if file_bytes > 1 else {4})


@pytest.mark.parametrize("control_hz", [30.0, 29.97, 30_000 / 1001])
def test_a_round_trip_at_the_rate_of_a_camera_keeps_every_step(tmp_path: Path, control_hz: float) -> None:
    timing = Timing(control_hz, 4, 8)
    with LeRobotWriter.create(tmp_path / "set", timing.grid.rate_hz, STATES, "tabletop") as writer:
        for one in EPISODES:
            writer.add(one)
    for one, expected in zip(read(tmp_path / "set", timing=timing), EPISODES, strict=True):
        assert_same(one, expected)
        assert len(one) == len(expected)


def test_files_and_columns_are_those_of_lerobot_s_version_3(tmp_path: Path) -> None:
    """As src/lerobot/datasets writes them: names, types, nesting, and an index of tasks that pandas finds."""
    folder = write(tmp_path / "set")
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 10, 4, 22)
    assert info["features"]["action"] == {
        "dtype": "float32", "shape": [7], "names": ["vx", "vy", "vz", "wx", "wy", "wz", "gripper"],
    }  # fmt: skip
    assert info["features"]["observation.images.wrist"]["shape"] == [10, 10, 3]
    rows = pyarrow.read_table(folder / "data/chunk-000/file-000.parquet")
    assert rows.column("index").to_pylist() == list(range(22))
    assert rows.column("frame_index").to_pylist() == [*range(7), *range(4), *range(5), *range(6)]
    assert rows.column("task_index").to_pylist() == [0] * 7 + [1] * 4 + [0] * 5 + [3] * 6
    action = rows.schema.field("action").type
    assert (action.list_size, str(action.value_type)) == (7, "float")
    assert str(rows.schema.field("timestamp").type) == "float"
    episodes = pyarrow.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["tasks"] for row in episodes] == [["open the drawer"], ["pull", "pull it open"], ["open the drawer"],
                                                  ["push"]]  # fmt: skip
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in episodes] == [
        (0, 7), (7, 11), (11, 16), (16, 22),
    ]  # fmt: skip
    place = "videos/observation.images.static/"
    times = [(row[place + "from_timestamp"], row[place + "to_timestamp"]) for row in episodes]
    np.testing.assert_allclose(times, [(0, 0.7), (0.7, 1.1), (1.1, 1.6), (1.6, 2.2)])
    assert np.shape(episodes[0]["stats/observation.images.static/q99"]) == (3, 1, 1)
    pandas = json.loads(pyarrow.read_schema(folder / "meta/tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]


def test_statistics_are_exact_over_all_frames(tmp_path: Path) -> None:
    stats = json.loads((write(tmp_path / "set") / "meta/stats.json").read_text())
    actions = np.concatenate([one.actions for one in EPISODES]).astype(np.float32)
    pixels = np.concatenate([one.images["wrist"].reshape(-1, 3) for one in EPISODES]) / 255
    for name, q in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(stats["action"][name], np.quantile(actions.astype(float), q, axis=0), atol=1e-9)
        found = np.ravel(stats["observation.images.wrist"][name])
        np.testing.assert_allclose(found, np.quantile(pixels, q, axis=0), atol=1e-9)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(actions.astype(float), name)(axis=0), atol=1e-9)
        found = np.ravel(stats["observation.images.wrist"][name])
        np.testing.assert_allclose(found, getattr(pixels, name)(axis=0), atol=1e-9)
    assert stats["action"]["count"] == stats["observation.images.wrist"]["count"] == [22]


def test_image_statistics_of_few_values_are_those_of_numpy() -> None:
    for pictures in (np.zeros((1, 1, 1, 3), np.uint8), np.array([[[[0, 7, 255]], [[255, 7, 0]]]], np.uint8)):
        counted = ImageStats()
        counted.add(pictures)
        expected = vector_stats(pictures.reshape(-1, 3) / 255)
        for name, value in counted.stats().items():
            if name != "count":
                np.testing.assert_allclose(value.ravel(), expected[name], atol=1e-12)


def test_a_lower_control_rate_composes_steps_and_takes_the_newest_frame(tmp_path: Path) -> None:
    found = read(write(tmp_path / "set"), timing=Timing(5.0, 4, 8))[3]
    source = EPISODES[3]
    np.testing.assert_array_equal(found.images["static"], source.images["static"][::2])
    pairs = source.actions[:, :3].reshape(3, 2, 3).mean(axis=1)
    np.testing.assert_allclose(found.actions[:, :3], pairs, atol=1e-6)


def change_mapping(folder: Path, **changes) -> None:
    path = folder / "meta/vla_ros.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_without_recorded_twists_labels_are_the_measured_motion(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    change_mapping(folder, twist=None)
    found = read(folder)
    assert [len(one) for one in found] == [6, 3, 4, 5]  # no motion follows the last frame
    for one in found:
        np.testing.assert_allclose(one.actions[:, :6], np.tile([0.1, 0, 0, 0, 0, 0.5], (len(one), 1)), atol=1e-5)


@pytest.mark.parametrize("kind", ["quaternion_xyzw", "euler_xyz", "rotation_vector"])
def test_rotations_of_other_data_sets_are_understood(tmp_path: Path, kind: str) -> None:
    """The state's columns 3 .. 6 in another notation; the gripper closed at 1."""
    source = EPISODES[0]
    columns = source.proprioception[:, 3:9].astype(float)
    third = np.cross(columns[:, :3], columns[:, 3:])
    rotation = Rotation.from_matrix(np.stack([columns[:, :3], columns[:, 3:], third], axis=2))
    notation = {
        "quaternion_xyzw": rotation.as_quat(),
        "euler_xyz": rotation.as_euler("xyz"),
        "rotation_vector": rotation.as_rotvec(),
    }[kind]
    states = source.proprioception.copy()
    states[:, 3 : 3 + notation.shape[1]] = notation
    states[:, 9] = 1 - states[:, 9]
    folder = write(tmp_path / "set", [dataclasses.replace(source, proprioception=states)])
    feature = "observation.state"
    rotated = list(range(3, 3 + notation.shape[1]))
    change_mapping(
        folder,
        pose={"feature": feature, "position": [0, 1, 2], "rotation": rotated, "rotation_as": kind},
        opening={"feature": feature, "column": 9, "closed": 1.0, "open": 0.0},
    )
    assert_same(read(folder)[0], source)


def test_an_episode_whose_task_changes_is_cut_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    path = folder / "data/chunk-000/file-000.parquet"
    rows = pyarrow.read_table(path)
    tasks = rows.column("task_index").to_numpy().copy()
    tasks[3:7] = 3
    at = rows.schema.get_field_index("task_index")
    pyarrow.write_table(rows.set_column(at, "task_index", [tasks]), path)
    found = read(folder)
    assert [(one.command, len(one)) for one in found[:2]] == [("open the drawer", 3), ("push", 4)]
    np.testing.assert_array_equal(found[1].images["wrist"], EPISODES[0].images["wrist"][3:])
    assert found[0].source == found[1].source


def test_images_inside_the_table_are_read(tmp_path: Path) -> None:
    """Data sets without videos have PNG files in a column."""
    import cv2

    folder = write(tmp_path / "set")
    path, name = folder / "data/chunk-000/file-000.parquet", "observation.images.static"
    rows = pyarrow.read_table(path)
    pictures = [picture for one in EPISODES for picture in one.images["static"]]
    files = [{"bytes": cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes(), "path": None} for picture in pictures]
    pyarrow.write_table(rows.append_column(name, [files]), path)
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"][name]["dtype"] = "image"
    (folder / "meta/info.json").write_text(json.dumps(info))
    for one, expected in zip(read(folder), EPISODES, strict=True):
        assert_same(one, expected)


def test_an_unreadable_episode_is_skipped_and_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    path = folder / "data/chunk-000/file-000.parquet"
    rows = pyarrow.read_table(path)
    actions = np.array(rows.column("action").to_pylist(), np.float32)
    actions[8, 2] = np.nan
    at = rows.schema.get_field_index("action")
    pyarrow.write_table(rows.set_column(at, "action", [list(actions)]), path)
    loaded = load_shards(lerobot_shards(folder, SPEC, TIMING), workers=1)
    assert [one.command for one in loaded.episodes] == ["open the drawer", "open the drawer", "push"]
    assert (
        len(loaded.report.damage) == 1
        and "1 of 4 episodes are unreadable and skipped (episode 1: " in loaded.report.damage[0]
    )


def test_a_feature_of_one_number_and_an_episode_without_text_are_read_as_lerobot_writes_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [EPISODES[0], dataclasses.replace(EPISODES[2], command=" ")])
    path = folder / "data/chunk-000/file-000.parquet"
    rows = pyarrow.read_table(path)
    widths = np.array(rows.column("action").to_pylist())[:, 6].astype(np.float32) * 0.08
    pyarrow.write_table(rows.append_column("width", [widths]), path)
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["width"] = {"dtype": "float32", "shape": [1], "names": None}
    (folder / "meta/info.json").write_text(json.dumps(info))
    change_mapping(folder, gripper={"feature": "width", "column": 0, "closed": 0.0, "open": 0.08})
    loaded = load_shards(lerobot_shards(folder, SPEC, TIMING), workers=1)
    (found,) = loaded.episodes
    assert_same(found, EPISODES[0])
    assert loaded.report.dropped == {"episode without a language instruction": 5}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "meta/vla_ros.json").unlink(), r"vla_ros\.json is missing.*docs/data\.md"),
        (lambda folder: (folder / "meta/info.json").unlink(), r"is not a LeRobot data set: it has no meta/info\.json"),
        (
            lambda folder: change_mapping(folder, cameras={"static": "observation.images.static"}),
            r"has no camera 'wrist'",
        ),
        (
            lambda folder: change_mapping(folder, cameras={"static": "a", "wrist": "a"}),
            r"feature 'a' of camera 'static'",
        ),
        (
            lambda folder: change_mapping(folder, gripper={"feature": "action", "column": 9}),
            r"column 9 of 'action'.*10 col",
        ),
        (
            lambda folder: change_mapping(folder, twist=None, pose=None),
            r"vla_ros\.json: twist and pose are both missing",
        ),
        (lambda folder: change_mapping(folder, pose=None), r"has no ee pose"),
        (lambda folder: change_mapping(folder, grip=1), r"unknown key 'grip'"),
        (lambda folder: next(folder.glob("videos/*/*/*.mp4")).unlink(), r"mp4 is missing"),
        (lambda folder: next(folder.glob("data/*/*.parquet")).write_bytes(b"PAR1"), r"parquet is damaged"),
        (lambda folder: next(folder.glob("meta/episodes/*/*.parquet")).write_bytes(b""), r"parquet is damaged"),
    ],
)
def test_mistakes_in_a_data_set_are_named(tmp_path: Path, harm, message: str) -> None:
    folder = write(tmp_path / "set", EPISODES[:1])
    harm(folder)
    with pytest.raises(SourceError, match=message):
        read(folder)


def test_a_cut_off_video_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    video = next(folder.glob("videos/*static/*/*.mp4"))
    video.write_bytes(video.read_bytes()[:4000])
    with pytest.raises(SourceError, match=r"file-000\.mp4 (is damaged|has no image)"):
        read(folder)


def test_a_higher_rate_than_that_of_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"contract\.control_hz is 20, but .* at 10 Hz"):
        lerobot_shards(write(tmp_path / "set", EPISODES[:1]), SPEC, Timing(20.0, 4, 8))


def change_info(folder: Path, **changes) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_column(path: Path, name: str, change) -> None:
    """Replace a column of a parquet file by what `change` makes of its values."""
    rows = pyarrow.read_table(path)
    values = change(np.array(rows.column(name).to_pylist()))
    pyarrow.write_table(rows.set_column(rows.schema.get_field_index(name), name, [values.tolist()]), path)


ROWS, LISTED = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.mark.parametrize("version", ["v1.6", "v3.1", ["v3.0"], None])
def test_the_error_on_another_version_says_which_are_read(tmp_path: Path, version) -> None:
    folder = write(tmp_path / "set", EPISODES[:1])
    change_info(folder, codebase_version=version)
    with pytest.raises(SourceError, match=r"only v2\.0, v2\.1 and v3\.0 are supported; convert"):
        lerobot_shards(folder, SPEC, TIMING)


def test_timestamps_that_contradict_fps_are_refused_with_both(tmp_path: Path) -> None:
    """Recorded at 10 Hz, called 15: every measured velocity would be half as much again."""
    folder = write(tmp_path / "set")
    change_mapping(folder, twist=None)
    change_info(folder, fps=15)
    with pytest.raises(
        SourceError, match=r"not those of fps 15 \(frame 1 is at 0\.1000 s, not 0\.0667 s; the mean is 10"
    ):
        read(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda times_s: np.where(np.arange(22) == 8, times_s + 0.02, times_s),  # one frame is late
        lambda times_s: np.where((np.arange(22) >= 9) & (np.arange(22) < 11), times_s + 0.1, times_s),  # one is missing
        lambda times_s: np.where((np.arange(22) >= 7) & (np.arange(22) < 11), 1.7e9, times_s),  # float32 of the epoch
        lambda times_s: np.where(np.arange(22) == 8, np.nan, times_s),
    ],
)
def test_an_episode_of_irregular_timestamps_is_left_out_and_reported(tmp_path: Path, change) -> None:
    folder = write(tmp_path / "set")
    change_column(folder / ROWS, "timestamp", change)
    loaded = load_shards(lerobot_shards(folder, SPEC, TIMING), workers=1)
    assert [one.source for one in loaded.episodes] == ["set#bag#0", "set#bag#1", "set#bag#1"]
    assert "1 of 4 episodes are unreadable and skipped (episode 1: " in loaded.report.damage[0]
    assert "timestamp" in loaded.report.damage[0]


def test_timestamps_of_a_trimmed_episode_say_where_its_images_are(tmp_path: Path) -> None:
    """Frames 2 to 6 of an episode, whose video was left as it is."""
    folder = write(tmp_path / "set", EPISODES[:1])
    rows = pyarrow.read_table(folder / ROWS)
    pyarrow.write_table(rows.slice(2), folder / ROWS)
    change_column(folder / LISTED, "length", lambda length: length - 2)
    (found,) = read(folder)
    np.testing.assert_array_equal(found.images["static"], EPISODES[0].images["static"][2:])
    np.testing.assert_allclose(found.actions, EPISODES[0].actions[2:], atol=1e-6)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8", "float64", "bool"])
def test_columns_of_any_number_are_read(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "set", EPISODES[:1])
    rows = pyarrow.read_table(folder / ROWS)
    values = (np.arange(7) < 2).astype(kind)
    pyarrow.write_table(rows.append_column("gripper", [values]), folder / ROWS)
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    change_info(folder, features={**features, "gripper": {"dtype": kind, "shape": [1], "names": None}})
    change_mapping(folder, gripper={"feature": "gripper", "column": 0})
    assert_same(read(folder)[0], EPISODES[0])


def test_statistics_are_not_needed(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "meta/stats.json").unlink()
    assert len(read(folder)) == 4


def test_videos_are_where_info_json_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "videos").rename(folder / "video")
    with pytest.raises(SourceError, match=r"mp4 is missing; .*correct the paths in meta/info\.json"):
        read(folder)
    change_info(folder, video_path="video/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4")
    assert_same(read(folder)[0], EPISODES[0])


def test_videos_with_b_frames_are_read_in_the_order_of_presentation(tmp_path: Path) -> None:
    import av

    folder = write(tmp_path / "set")
    video = next(folder.glob("videos/*static/*/*.mp4"))
    pictures = [np.full((12, 16, 3), 10 * number, np.uint8) for number in range(22)]
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "60", "bf": "3", "qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 16, 12, "yuv444p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    shades = [round(float(image.mean()) / 10) for one in read(folder) for image in one.images["static"]]
    assert shades == list(range(22))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: change_column(
                folder / LISTED, "videos/observation.images.static/chunk_index", lambda index: index * np.nan
            ),
            r"column 'videos/observation\.images\.static/chunk_index' of episode 0 is nan, not a number",
        ),
        (
            lambda folder: change_column(folder / LISTED, "data/file_index", lambda index: index + 0.5),
            r"column 'data/file_index' of episode 0 is 0\.5, not a whole number",
        ),
        (
            lambda folder: change_column(
                folder / LISTED, "videos/observation.images.wrist/from_timestamp", lambda index: index + np.inf
            ),
            r"from_timestamp' of episode 0 is inf",
        ),
        (
            lambda folder: change_column(folder / LISTED, "episode_index", lambda index: np.minimum(index, 2)),
            "list episode 2 twice",
        ),
        (
            lambda folder: change_column(
                folder / LISTED, "videos/observation.images.static/from_timestamp", lambda index: index + 0.3
            ),
            r"no image at 2\.200 s: it ends at 2\.100 s, 3 images too early, but episode 3 has a step there",
        ),
        (
            lambda folder: change_info(folder, video_path="{video_key.__class__}"),
            r"has video_path .*must be a path as 'videos/\{video_key\}",
        ),
        (lambda folder: change_info(folder, data_path="../{chunk_index}"), "has data_path"),
        (
            lambda folder: next(folder.glob("videos/*static/*/*.mp4")).write_bytes(POINTER),
            r"file-000\.mp4 is only a pointer of Git LFS; run `git lfs pull`",
        ),
        (lambda folder: (folder / ROWS).write_bytes(POINTER), r"parquet is only a pointer of Git LFS"),
        (
            lambda folder: change_mapping(
                folder, opening={"feature": "observation.state", "column": 9, "closed": 1.0, "open": 1.0}
            ),
            r"vla_ros\.json: closed and open of column 9 of 'observation\.state' are both 1",
        ),
        (
            lambda folder: change_column(folder / ROWS, "action", lambda rows: np.where(rows > 0.4, np.nan, rows)),
            r"a number of action is not finite \(column \d is nan at frame \d\)",
        ),
    ],
)
def test_contradictions_of_metadata_and_files_are_named(tmp_path: Path, harm, message: str) -> None:
    folder = write(tmp_path / "set")
    harm(folder)
    with pytest.raises(SourceError, match=message):
        read(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("where", ["info", "video_info"])
def test_a_depth_map_is_no_camera(tmp_path: Path, where: str) -> None:
    folder = write(tmp_path / "set")
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features["observation.images.static"][where] = {"video.is_depth_map": True}
    change_info(folder, features=features)
    with pytest.raises(SourceError, match=r"'observation\.images\.static' of camera 'static' is depth"):
        read(folder)


def test_a_writer_that_fails_leaves_nothing_and_overwrites_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        LeRobotWriter.create(tmp_path / "set", RATE_HZ, STATES, "r") as writer,
    ):
        writer.add(EPISODES[0])
        raise RuntimeError("stop")
    with pytest.raises(SourceError, match="no episode"), LeRobotWriter.create(tmp_path / "set", RATE_HZ, STATES, "r"):
        pass
    assert not list(tmp_path.iterdir())
    folder = write(tmp_path / "set")
    with pytest.raises(SourceError, match="is not overwritten"), LeRobotWriter.create(folder, RATE_HZ, STATES, "r"):
        pass
    assert len(read(folder)) == len(EPISODES)


def test_bags_are_converted_and_read_back_as_they_are(demonstration, robot, tmp_path: Path, capsys) -> None:
    bag = demonstration.write(tmp_path / "bags" / "one")
    output = tmp_path / "set"
    assert cli.main(["convert", str(bag), "--to", "lerobot", "--output", str(output), "--size", "12x16"]) == 0
    assert "1 episodes, 20 frames" in capsys.readouterr().out
    cameras = (Camera("static", 12, 16, "pad"), Camera("wrist", 12, 16, "pad"))
    spec = ObservationSpec(cameras, ("ee_x", "gripper_opening"))
    (expected,), _ = read_bag(bag, robot, spec, Timing(10.0, 1, 1, 0.04))
    (found,) = read(output, spec)
    assert_same(found, expected)
    assert cli.main(["convert", str(bag), "--to", "lerobot", "--output", str(output)]) == 2
    assert cli.main(["convert", str(bag), "--to", "lerobot", "--output", str(tmp_path / "o"), "--size", "big"]) == 2
    assert "must be HEIGHTxWIDTH" in capsys.readouterr().err


def test_videos_outside_of_the_data_set_are_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    info = json.loads((folder / "meta/info.json").read_text())
    for name in ("../../other/videos/x", "/other", "a/b", ".."):
        features = {**info["features"], name: info["features"]["observation.images.static"]}
        (folder / "meta/info.json").write_text(json.dumps({**info, "features": features}))
        with pytest.raises(SourceError, match=r"which would be read outside of its folder"):
            read(folder)


@pytest.mark.parametrize("key", ["data_path", "video_path"])
def test_a_data_set_cannot_say_where_its_files_are(key: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps({**info, key: "../../other/{file_index}.parquet"}))
    with pytest.raises(SourceError, match=rf"has {key} .*must be"):
        read(folder)
