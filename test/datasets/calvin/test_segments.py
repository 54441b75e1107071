# SPDX-License-Identifier: Apache-2.0
"""Which frames of a CALVIN split are read, in the shapes in which people have its splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_datasets import write_calvin

from vla_ros.datasets.calvin.segments import find_splits, read_segments
from vla_ros.datasets.errors import SourceError

SEGMENTS = [(0, 9, "open the drawer", "open_drawer"), (12, 19, "push the block", "push_block")]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return write_calvin(tmp_path / "task_D_D" / "training", SEGMENTS, np.zeros((20, 7)), np.zeros((20, 3)))


def commands(split: Path, annotations: str | None = None) -> list[str]:
    return [segment.command for segment in read_segments(split, annotations).segments]


def test_annotations_are_found_in_a_folder_of_any_name(split: Path) -> None:
    assert read_segments(split).notes == ()
    (split / "lang_annotations").rename(split / "lang_paraphrase-MiniLM-L3-v2")
    assert commands(split) == ["open the drawer", "push the block"]
    assert "are those of lang_paraphrase-MiniLM-L3-v2/auto_lang_ann.npy" in read_segments(split).notes[0]
    (split / "lang_paraphrase-MiniLM-L3-v2" / "auto_lang_ann.npy").rename(split / "auto_lang_ann.npy")
    assert commands(split) == ["open the drawer", "push the block"]


def test_of_several_annotations_the_usual_folder_or_the_chosen_one_is_read(split: Path) -> None:
    for name in ("lang_clip", "lang_bert"):
        shutil.copytree(split / "lang_annotations", split / name)
    changed = np.load(split / "lang_clip" / "auto_lang_ann.npy", allow_pickle=True).item()
    changed["language"]["ann"] = ["tidy up", "stop"]
    np.save(split / "lang_clip" / "auto_lang_ann.npy", changed, allow_pickle=True)
    assert commands(split) == ["open the drawer", "push the block"]
    assert commands(split, "lang_clip") == ["tidy up", "stop"]
    shutil.rmtree(split / "lang_annotations")
    with pytest.raises(SourceError, match=r'differ; set "annotations" in this source to lang_bert or lang_clip'):
        read_segments(split)
    with pytest.raises(SourceError, match=r"no lang_gpt/auto_lang_ann\.npy; annotations must be lang_bert or lang_c"):
        read_segments(split, "lang_gpt")
    shutil.rmtree(split / "lang_clip")
    shutil.copytree(split / "lang_bert", split / "lang_other")  # the same texts with other embeddings
    assert commands(split) == ["open the drawer", "push the block"]


def test_without_annotations_the_error_says_that_it_is_motion_and_how_to_use_it(split: Path) -> None:
    shutil.rmtree(split / "lang_annotations")
    with pytest.raises(SourceError, match=r'no language annotations.*motion without commands.*"motion_only": true'):
        read_segments(split)


def test_segments_that_lack_frames_are_left_out_and_counted(split: Path) -> None:
    (split / "episode_0000004.npz").unlink()
    (split / "episode_0000010.npz").unlink()  # in no segment
    content = read_segments(split)
    assert [segment.start for segment in content.segments] == [12]
    assert "1 of 2 segments lack frames and are left out; episode_0000004.npz is missing" in content.notes[0]
    (split / "episode_0000012.npz").unlink()
    with pytest.raises(SourceError, match=r"none of its 2 segments has all .*episode_0000004\.npz is missing"):
        read_segments(split)


def test_without_the_bounds_of_recordings_runs_of_frames_take_their_place(split: Path) -> None:
    (split / "ep_start_end_ids.npy").unlink()
    (split / "episode_0000010.npz").unlink()
    content = read_segments(split)
    assert [segment.recording for segment in content.segments] == [0, 11]
    assert "its 2 runs of consecutive frames are taken for recordings" in content.notes[0]


def test_a_split_is_found_below_its_environment_s_folder(split: Path) -> None:
    assert find_splits(split) == find_splits(split.parent) == [(split, False)]
    shutil.copytree(split, split.parent / "validation")
    assert find_splits(split.parent) == [(split, False), (split.parent / "validation", True)]
    with pytest.raises(SourceError, match=r"not a split of CALVIN.*; it has task_D_D$"):
        find_splits(split.parents[1])
    shutil.rmtree(split)
    with pytest.raises(SourceError, match=r"not a split of CALVIN.*; it has validation$"):
        find_splits(split.parent)


def test_annotations_without_segments_are_an_error(tmp_path: Path) -> None:
    split = write_calvin(tmp_path, [], np.zeros((3, 7)), np.zeros((3, 3)))
    with pytest.raises(SourceError, match=r"auto_lang_ann\.npy lists no segment"):
        read_segments(split)
