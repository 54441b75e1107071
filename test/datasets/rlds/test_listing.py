# SPDX-License-Identifier: Apache-2.0
"""Which data set a folder of RLDS files is, and what of it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.rlds.catalogue import DATASETS, FIRST_BRIDGE, NAMES
from vla_ros.datasets.rlds.listing import list_shards

# NAME-train of the published files, the data set of the catalogue, and where the name was seen.
PUBLISHED = {
    "r2d2_faceblur": ("droid", "gs://gresearch/robotics/droid/1.0.0 (2048 shards), droid_100/1.0.0 (31)"),
    "droid_101": ("droid", "gs://gresearch/robotics/droid/1.0.1 (2048 shards)"),
    "bridge_dataset": ("bridge_dataset", "rail.eecs.berkeley.edu/datasets/bridge_release/data/tfds/bridge_dataset"),
    "bridge_data_v2": ("bridge_dataset", "gs://gresearch/robotics/bridge_data_v2/0.0.1 (1024 shards)"),
    "bridge_orig": ("bridge_dataset", "OpenVLA: prismatic/vla/datasets/rlds/oxe/configs.py"),
    "bridge": ("bridge", "gs://gresearch/robotics/bridge/0.1.0 (1024 shards)"),
    "bridge_oxe": ("bridge", "OpenVLA: prismatic/vla/datasets/rlds/oxe/configs.py"),
    "fractal20220817_data": ("fractal20220817_data", "gs://gresearch/robotics/fractal20220817_data/0.1.0 (1024)"),
    "taco_play": ("taco_play", "gs://gresearch/robotics/taco_play/0.1.0"),
    "berkeley_autolab_ur5": ("berkeley_autolab_ur5", "gs://gresearch/robotics/berkeley_autolab_ur5/0.1.0 (412)"),
    "jaco_play": ("jaco_play", "gs://gresearch/robotics/jaco_play/0.1.0 (128 shards)"),
}


def shards(folder: Path, name: str, have: list[int], count: int, split: str = "train", kind: str = "tfrecord") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in have:
        (folder / f"{name}-{split}.{kind}-{index:05d}-of-{count:05d}").write_bytes(b"")
    return folder


def info(folder: Path, name: str, lengths: list[int]) -> None:
    train = {"name": "train", "shardLengths": [str(length) for length in lengths]}
    (folder / "dataset_info.json").write_text(json.dumps({"name": name, "splits": [train]}))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_data_set_is_known_by_its_published_name_whatever_its_folder(tmp_path: Path, name: str) -> None:
    listing = list_shards(shards(tmp_path / "my_data", name, [0, 1], 2))
    assert (listing.dataset, listing.notes) == (PUBLISHED[name][0], ())


def test_every_data_set_and_other_name_of_the_catalogue_was_looked_up() -> None:
    assert {dataset for dataset, _ in PUBLISHED.values()} == DATASETS.keys() - {FIRST_BRIDGE}
    assert NAMES.keys() - PUBLISHED.keys() == {"droid_100"}  # nobody publishes it, but who rebuilds droid_100 has it


def test_renamed_files_are_known_by_their_dataset_info(tmp_path: Path) -> None:
    folder = shards(tmp_path, "kitchen", [0], 1)
    info(folder, "r2d2_faceblur", [1])
    assert list_shards(folder).dataset == "droid"
    info(folder, "kitchen", [1])
    with pytest.raises(SourceError, match=r"'kitchen' is unknown.*docs/data\.md"):
        list_shards(folder)


def test_names_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path, "jaco_play", [0], 1)
    info(folder, "taco_play", [1])
    with pytest.raises(SourceError, match=r"called jaco_play, but dataset_info\.json says taco_play"):
        list_shards(folder)


def test_part_of_the_shards_is_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = shards(tmp_path, "droid_101", [0, 1, 5], 8)
    info(folder, "droid_101", [40, 50, 1, 1, 1, 60, 1, 1])
    listing = list_shards(folder)
    assert [file.name[-14:] for file in listing.files] == ["00000-of-00008", "00001-of-00008", "00005-of-00008"]
    (note,) = listing.notes
    assert "3 of 8 shards of droid_101 are there, with 150 of 155 episodes" in note
    assert note.endswith("Missing: 00002-00004, 00006-00007")
    (folder / "dataset_info.json").write_text("{")  # damaged: the names are enough
    assert "3 of 8 shards of droid_101 are there; only these" in list_shards(folder).notes[0]


def test_unfinished_copies_and_other_splits_are_not_read_and_named(tmp_path: Path) -> None:
    folder = shards(tmp_path, "bridge_dataset", [0, 1], 3)
    shards(folder, "bridge_dataset", [0, 1, 2], 3, split="val")
    (folder / "bridge_dataset-train.tfrecord-00002-of-00003_.gstmp").write_bytes(b"")
    missing, unfinished, splits = list_shards(folder).notes
    assert "2 of 3 shards" in missing and "1 unfinished copies, such as bridge_dataset-train" in unfinished
    assert "not read is val (3 shards); held-out episodes are taken from train" in splits
    for file in folder.glob("*-train*3"):
        file.unlink()
    with pytest.raises(SourceError, match="only unfinished copies"):
        list_shards(folder)


def test_links_to_files_that_were_not_downloaded_are_missing(tmp_path: Path) -> None:
    folder = shards(tmp_path, "jaco_play", [0], 2)
    (folder / "jaco_play-train.tfrecord-00001-of-00002").symlink_to(tmp_path / "blobs" / "absent")
    listing = list_shards(folder)
    assert len(listing.files) == 1 and "Missing: 00001" in listing.notes[0] and "1 unfinished" in listing.notes[1]


def test_other_splits_alone_and_single_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = shards(tmp_path, "bridge_dataset", [0], 1, split="val")
    with pytest.raises(SourceError, match=r"must be the folder .*; it has only the split val"):
        list_shards(folder)
    with pytest.raises(SourceError, match=r"00000-of-00001 is one file; must be the folder"):
        list_shards(next(folder.iterdir()))


def test_versions_mixed_in_one_folder_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, "r2d2_faceblur", [0], 31)
    shards(tmp_path, "r2d2_faceblur", [0], 2048)
    with pytest.raises(SourceError, match=r"mixes r2d2_faceblur-train of 31 shards and r2d2_faceblur-train of 2048"):
        list_shards(tmp_path)


def test_the_only_version_below_a_folder_is_found_and_of_several_each_is_named(tmp_path: Path) -> None:
    version = shards(tmp_path / "droid_100" / "1.0.0", "r2d2_faceblur", [0], 1)
    assert list_shards(tmp_path / "droid_100").folder == list_shards(tmp_path).folder == version
    shards(version / ".vla_store", "r2d2_faceblur", [0], 1)  # entries of the store are named after the files
    assert list_shards(tmp_path / "droid_100").folder == version
    shards(tmp_path / "droid" / "1.0.1", "droid_101", [0], 1)
    with pytest.raises(SourceError, match=r"it has droid/1\.0\.1, droid_100/1\.0\.0: list each as a source"):
        list_shards(tmp_path)


def test_of_both_file_formats_tfrecord_is_read(tmp_path: Path) -> None:
    shards(tmp_path, "jaco_play", [0, 1], 2)
    shards(tmp_path, "jaco_play", [0], 1, kind="array_record")
    listing = list_shards(tmp_path)
    assert (listing.file_format, len(listing.files), listing.notes) == ("tfrecord", 2, ())
