# SPDX-License-Identifier: Apache-2.0
"""CALVIN's frames and segments to episodes in our units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from tiny_datasets import picture, write_calvin

from vla_ros import actions
from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.calvin.reader import calvin_shards, twists_from_relative
from vla_ros.datasets.calvin.segments import read_segments
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.sources import FORMATS, Source, load_source
from vla_ros.datasets.store.store import load_shards
from vla_ros.imaging import images

HOME = np.array([np.pi - 0.05, 0.02, 1.5])  # CALVIN's home pose: roll near pi
SPEC = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 9, 9)), ("ee_x", "ee_r0", "gripper_opening"))
TIMING = Timing(10.0, 4, 8)


def motion(frames: int, **axes: float) -> tuple[np.ndarray, np.ndarray]:
    """Steady rel_actions on some of x y z a b c g, and the Euler angles that follow from them."""
    step = np.array([axes.get(axis, 0.0) for axis in "xyzabcg"])
    relative = np.tile(step, (frames, 1))
    return relative, HOME + 0.05 * np.arange(frames)[:, None] * step[3:6]


def read(split: Path, spec: ObservationSpec = SPEC, timing: Timing = TIMING) -> tuple:
    loaded = load_shards(calvin_shards(split, spec, timing), workers=1)
    return loaded.episodes, loaded.report.dropped


def test_frames_actions_and_text_are_those_of_calvin_in_our_units(tmp_path: Path) -> None:
    relative, euler = motion(30, x=1.0, z=-0.5, g=1.0)
    split = write_calvin(tmp_path / "training", [(3, 27, " open the drawer ", "open_drawer")], relative, euler)
    (episode,), dropped = read(split)
    assert len(episode) == 8 and not dropped
    assert (episode.command, episode.task, episode.outcome) == ("open the drawer", "open_drawer", "success")
    # +-1 is 0.02 m a step of 1/30 s.
    np.testing.assert_allclose(episode.actions, np.tile([0.6, 0, -0.3, 0, 0, 0, 1], (8, 1)), atol=1e-12)
    np.testing.assert_allclose(episode.proprioception[:, 0], 0.3 + 0.3 * np.arange(8), atol=1e-6)
    np.testing.assert_allclose(episode.proprioception[:, 2], 0.5)
    frames = range(3, 27, 3)
    for camera, offset, size in (("static", 0, 20), ("wrist", 100, 9)):
        contract = next(one for one in SPEC.cameras if one.name == camera)
        expected = [images.resize(picture(frame + offset, size, size), contract) for frame in frames]
        np.testing.assert_array_equal(episode.images[camera], expected)


@pytest.mark.parametrize("axis", "abc")
def test_a_large_turn_about_each_euler_axis_ends_where_that_of_calvin_does(tmp_path: Path, axis: str) -> None:
    """Integrating our twists from the first pose ends in the Euler angles of the last, past the wrap at pi."""
    relative, euler = motion(61, **{axis: 1.0}, g=-1.0)
    split = write_calvin(tmp_path / "training", [(0, 60, "turn", "turn")], relative, euler)
    (episode,), _ = read(split)
    quaternion = Rotation.from_euler("xyz", euler[0]).as_quat()
    for twist in episode.actions:
        _, quaternion = actions.integrate_twist(np.zeros(3), quaternion, twist[:6], 0.1)
    apart = (Rotation.from_quat(quaternion) * Rotation.from_euler("xyz", euler[60]).inv()).magnitude()
    assert len(episode) == 20 and apart < 1e-9
    assert np.linalg.norm(episode.actions[0, 3:6]) == pytest.approx(1.5, abs=1e-2)
    assert (episode.actions[:, 6] == 0).all()


def test_euler_increments_are_not_angular_velocities() -> None:
    """In the home pose, CALVIN's first angle turns about world +y, its second about world -x (roughly)."""
    twists = twists_from_relative(np.diag([0.0, 0, 0, 0.1, 0.1, 0.1, 0])[3:6], np.tile([np.pi, 0, np.pi / 2], (3, 1)))
    np.testing.assert_allclose(twists[:, 3:], 0.15 * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]), atol=1e-9)


def test_short_segments_are_kept_and_those_below_a_period_are_counted(tmp_path: Path) -> None:
    relative, euler = motion(20, x=1.0)
    segments = [(0, 3, "a", "a"), (5, 7, "b", "b"), (8, 15, "c", "c")]
    episodes, dropped = read(write_calvin(tmp_path / "training", segments, relative, euler))
    assert [(episode.command, len(episode)) for episode in episodes] == [("a", 1), ("c", 2)]
    assert dropped == {"shorter than one control period": 2}


def test_at_the_rate_of_calvin_each_frame_and_each_action_is_one_of_calvin(tmp_path: Path) -> None:
    relative, euler = motion(40, a=0.5)
    relative[:, 0] = np.sin(np.arange(40))
    split = write_calvin(tmp_path / "training", [(2, 38, "a", "a")], relative, euler)
    (episode,), dropped = read(split, timing=Timing(30.0, 4, 8))
    assert episode.ticks.tolist() == list(range(2, 38)) and not dropped
    np.testing.assert_allclose(episode.actions[:, :6], twists_from_relative(relative, euler)[2:38], atol=1e-12)
    expected = [images.resize(picture(frame, 20, 20), SPEC.cameras[0]) for frame in range(2, 38)]
    np.testing.assert_array_equal(episode.images["static"], expected)


@pytest.mark.parametrize(("control_hz", "frames"), [(29.97, 35), (15.0, 18), (12.5, 15), (7.5, 9)])
def test_the_motion_is_the_same_at_any_rate(tmp_path: Path, control_hz: float, frames: int) -> None:
    relative, euler = motion(40, x=1.0)
    split = write_calvin(tmp_path / "training", [(2, 38, "a", "a")], relative, euler)
    (episode,), _ = read(split, timing=Timing(control_hz, 4, 8))
    np.testing.assert_allclose(episode.actions[:, :6], np.tile([0.6, 0, 0, 0, 0, 0], (frames, 1)), atol=1e-12)


def test_segments_of_one_recording_share_their_source(tmp_path: Path) -> None:
    relative, euler = motion(40, x=1.0)
    segments = [(10, 19, "a", "a"), (15, 24, "b", "b"), (30, 39, "c", "c")]
    split = write_calvin(tmp_path / "training", segments, relative, euler, recordings=[(0, 27), (28, 39)])
    assert [episode.source for episode in read(split)[0]] == ["training#0", "training#0", "training#28"]


def test_a_higher_rate_an_unknown_camera_and_other_folders_are_refused(tmp_path: Path) -> None:
    split = write_calvin(tmp_path / "training", [(0, 9, "a", "a")], *motion(10, x=1.0))
    with pytest.raises(SourceError, match=r"contract.control_hz is 40, but .* was recorded at 30 Hz"):
        calvin_shards(split, SPEC, Timing(40.0, 4, 8))
    with pytest.raises(SourceError, match=r"no camera 'top'; it has static, wrist"):
        calvin_shards(split, ObservationSpec((Camera("top", 8, 8),)), TIMING)
    for other in (split / "lang_annotations", tmp_path / "absent"):
        with pytest.raises(SourceError, match=r"not a split of CALVIN.*task_D_D/training"):
            calvin_shards(other, SPEC, TIMING)


def test_a_missing_or_broken_frame_is_named(tmp_path: Path) -> None:
    split = write_calvin(tmp_path / "training", [(0, 9, "a", "a")], *motion(10, x=1.0))
    frame = split / "episode_0000004.npz"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:300])
    with pytest.raises(SourceError, match=r"episode_0000004\.npz is damaged"):
        read(split)
    frame.unlink()
    with pytest.raises(SourceError, match=r"episode_0000004\.npz is missing"):
        read(split)
    assert not list((split / ".vla_store").glob("*/manifest.json"))
    frame.write_bytes(whole)
    assert len(read(split)[0]) == 1


def test_empty_segments_are_refused(tmp_path: Path) -> None:
    split = write_calvin(tmp_path / "training", [(5, 5, "a", "a")], *motion(10, x=1.0))
    with pytest.raises(SourceError, match="a segment from 5 to 5"):
        read_segments(split)


def test_a_split_has_the_name_of_its_folder_even_from_within(tmp_path: Path, monkeypatch) -> None:
    split = write_calvin(tmp_path / "training", [(0, 9, "a", "a")], *motion(10, x=1.0))
    monkeypatch.chdir(split)
    (shard,) = FORMATS["calvin"](Source("CALVIN", "calvin", [Path()]), SPEC, TIMING)
    assert (shard.name, shard.root) == ("training.00000", split)


def test_values_rounded_to_16_bits_are_within_bounds(tmp_path: Path) -> None:
    relative, euler = motion(10, x=1.0000305)
    assert len(read(write_calvin(tmp_path / "training", [(0, 9, "a", "a")], relative, euler))[0]) == 1
    relative, euler = motion(10, x=1.1)
    with pytest.raises(SourceError, match="within -1 and 1"):
        read(write_calvin(tmp_path / "more" / "training", [(0, 9, "a", "a")], relative, euler))


def test_a_folder_with_both_splits_trains_on_one_and_holds_the_other_out(tmp_path: Path) -> None:
    write_calvin(tmp_path / "training", [(0, 9, "train", "a")], *motion(10, x=1.0))
    validation = write_calvin(tmp_path / "validation", [(50, 59, "validate", "a")], *motion(10, x=1.0), first=50)
    source = Source("CALVIN", "calvin", [tmp_path])
    loaded = load_source(source, SPEC, TIMING, workers=1)
    assert [episode.command for episode in loaded.episodes] == ["train"]
    assert [(episode.command, episode.source) for episode in loaded.held_out] == [("validate", "validation#50")]
    assert len(loaded.shards) == len(loaded.contents) == 2
    assert "held out by the data set: 1 episodes" in loaded.summary()
    (validation / "lang_annotations" / "auto_lang_ann.npy").unlink()
    with pytest.raises(SourceError, match=r"validation has no language annotations.*or give .*/training as the path"):
        load_source(source, SPEC, TIMING)


def test_motion_without_language_is_read_whole_and_in_pieces_of_its_recording(tmp_path: Path) -> None:
    relative, euler = motion(400, x=1.0, g=-1.0)
    split = write_calvin(tmp_path / "training", [], relative, euler, recordings=[(0, 349), (350, 399)])
    shards = calvin_shards(split, SPEC, TIMING, motion_only=True)
    episodes = load_shards(shards, workers=1).episodes
    found = [(episode.source, len(episode), episode.command, episode.outcome) for episode in episodes]
    assert found == [
        ("training#0", 100, "", "unknown"),
        ("training#0", 16, "", "unknown"),
        ("training#350", 16, "", "unknown"),
    ]
    np.testing.assert_allclose(episodes[1].actions[:, 0], 0.6)
    assert any("all commands are empty" in note for note in shards[0].notes)
    (split / "ep_start_end_ids.npy").unlink()
    with pytest.raises(SourceError, match=r"ep_start_end_ids\.npy is missing; without it motion_only"):
        calvin_shards(split, SPEC, TIMING, motion_only=True)
