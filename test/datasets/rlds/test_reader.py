# SPDX-License-Identifier: Apache-2.0
"""Data sets of Open X-Embodiment to episodes in our units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rlds_records import CHANGES, OPENING, STEPS, positions, steps
from tiny_datasets import encoded, picture, write_rlds

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.rlds.catalogue import DATASETS, openings_from_changes
from vla_ros.datasets.rlds.reader import rlds_shards
from vla_ros.datasets.sources import Source, load_source
from vla_ros.datasets.store.store import load_shards
from vla_ros.imaging import images

STATIC = ObservationSpec((Camera("static", 8, 8),), ("ee_x", "ee_r0"))
BOTH = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x", "ee_r0"))
NAMES = [name for name in DATASETS if " " not in name]


def read(folder: Path, spec: ObservationSpec, timing: Timing, workers: int = 1) -> tuple:
    loaded = load_shards(rlds_shards(folder, spec, timing), workers=workers)
    return loaded.episodes, loaded.report.dropped


def timing_of(name: str) -> Timing:
    """The data set's own rate."""
    return Timing(float(DATASETS[name].rate_hz), 4, 8)


@pytest.mark.parametrize(
    ("name", "control_hz"),
    [*((name, None) for name in (*NAMES, "bridge (first release)")), ("droid", 5.0), ("fractal20220817_data", 2.5)],
)
def test_every_data_set_comes_in_metres_seconds_and_openings(
    tmp_path: Path, name: str, control_hz: float | None
) -> None:
    """At its own rate, and at a lower one."""
    folder = write_rlds(tmp_path / "1.0.0", name.partition(" ")[0], [[steps(name)]])
    dataset, timing = DATASETS[name], timing_of(name) if control_hz is None else Timing(control_hz, 4, 8)
    (episode,), dropped = read(folder, BOTH if "wrist" in dataset.cameras else STATIC, timing)
    assert not dropped and (episode.command, episode.outcome) == ("Pick the cup", "unknown")
    rate, first = float(dataset.rate_hz), dataset.first_step
    labelled = STEPS - 1 - first
    assert len(episode) == int(labelled / rate * timing.control_hz)
    np.testing.assert_allclose(episode.actions[:, :6], np.tile([0.1, 0, -0.2, 0, 0, 0.5], (len(episode), 1)), atol=1e-5)
    at = first + (np.arange(len(episode)) * rate / timing.control_hz).astype(int)
    middle = first + ((np.arange(len(episode)) + 0.5) * rate / timing.control_hz).astype(int)
    expected = OPENING[middle]
    if name in ("bridge", "bridge_dataset"):
        expected = np.where(middle == 3, 0, expected)
    assert episode.actions[:, 6].tolist() == expected.tolist()
    np.testing.assert_allclose(episode.proprioception[:, 0], positions(rate)[at, 0], atol=1e-6)
    np.testing.assert_allclose(episode.proprioception[:, 1], np.cos(0.5 * at / rate), atol=1e-6)
    for camera, offset in (("static", 0), ("wrist", 100)):
        if camera in dataset.cameras:
            shown = [images.resize(picture(step + offset), Camera(camera, 8, 8)) for step in at]
            np.testing.assert_array_equal(episode.images[camera], shown)


def test_measured_openings_are_read_if_the_data_set_has_them(tmp_path: Path) -> None:
    spec = ObservationSpec((Camera("static", 8, 8),), ("gripper_opening",))
    for name in NAMES:
        folder = write_rlds(tmp_path / name, name, [[steps(name)]])
        if DATASETS[name].openings is None:
            with pytest.raises(SourceError, match=r"jaco_play has no gripper state; train with contract\.proprio"):
                read(folder, spec, timing_of(name))
            continue
        (episode,), _ = read(folder, spec, timing_of(name))
        at = (np.arange(len(episode)) * float(DATASETS[name].rate_hz) / timing_of(name).control_hz).astype(int)
        np.testing.assert_allclose(episode.proprioception[:, 0], OPENING[at], atol=1e-6)


def test_each_text_of_droid_is_a_phrasing(tmp_path: Path) -> None:
    texts = {"": b"Pick the cup", "_2": b"", "_3": b"Get the cup"}
    record = steps("droid") | {f"steps/language_instruction{key}": [text] * STEPS for key, text in texts.items()}
    folder = write_rlds(tmp_path / "1.0.0", "droid", [[record, steps("droid")]])
    (several, one), _ = read(folder, BOTH, timing_of("droid"))
    assert (several.command, several.phrasings) == ("Pick the cup", ("Pick the cup", "Get the cup"))
    assert (one.command, one.phrasings) == ("Pick the cup", ())


def test_changes_become_openings_from_the_first_step_on() -> None:
    assert openings_from_changes(CHANGES).tolist() == OPENING.tolist()
    assert openings_from_changes(-CHANGES).tolist() == (1 - OPENING).tolist()
    assert openings_from_changes(np.zeros(3)).tolist() == [1, 1, 1]


def test_episodes_without_text_and_failures_are_counted(tmp_path: Path) -> None:
    failed = steps("droid") | {"episode_metadata/file_path": [b"/lab/failure/2023/one.h5"]}
    folder = write_rlds(tmp_path / "droid", "droid", [[steps("droid", text=" "), failed, steps("droid")]])
    episodes, dropped = read(folder, STATIC, Timing(5.0, 4, 8))
    assert [episode.source for episode in episodes] == ["droid-train.tfrecord-00000-of-00001#2"]
    assert dropped == {"episode without a language instruction": STEPS - 1, "episode failure": STEPS - 1}


def test_shards_are_shared_among_processes_and_keep_their_order(tmp_path: Path) -> None:
    shards = [[steps("jaco_play", text=f"task {index}")] for index in range(3)]
    folder = write_rlds(tmp_path / "jaco", "jaco_play", shards)
    episodes, _ = read(folder, STATIC, Timing(10.0, 4, 8), workers=2)
    assert [episode.command for episode in episodes] == ["task 0", "task 1", "task 2"]
    assert len({episode.source for episode in episodes}) == 3


@pytest.mark.parametrize(
    ("dataset", "spec", "control_hz", "message"),
    [
        ("kuka", STATIC, 5.0, r"'kuka' is unknown; .*jaco_play.*docs/data\.md"),
        ("bridge", BOTH, 5.0, r"bridge has no camera 'wrist'; it has static"),
        (
            "fractal20220817_data",
            STATIC,
            5.0,
            r"contract\.control_hz is 5, but fractal20220817_data was recorded at 3 Hz",
        ),
    ],
)
def test_what_does_not_fit_the_contract_is_refused(tmp_path: Path, dataset, spec, control_hz, message) -> None:
    folder = write_rlds(tmp_path / "1.0.0", dataset, [[]])
    with pytest.raises(SourceError, match=message):
        rlds_shards(folder, spec, Timing(control_hz, 4, 8))


def test_droid_is_read_under_its_published_names_and_in_part(tmp_path: Path, caplog) -> None:
    for name in ("r2d2_faceblur", "droid_101"):
        folder = write_rlds(tmp_path / name, name, [[steps("droid")], [steps("droid", text="Stack cups")]])
        (folder / f"{name}-train.tfrecord-00000-of-00002").unlink()
        loaded = load_source(Source("DROID", "rlds", [folder]), BOTH, timing_of("droid"), workers=1)
        assert [episode.command for episode in loaded.episodes] == ["Stack cups"]
        assert f"1 of 2 shards of {name} are there" in caplog.text


def test_a_file_cut_off_between_two_records_is_noticed_by_the_count_of_the_data_set(tmp_path: Path, caplog) -> None:
    folder = write_rlds(tmp_path / "1.0.0", "jaco_play", [[steps("jaco_play")]])
    train = {"name": "train", "shardLengths": ["3"]}
    (folder / "dataset_info.json").write_text(json.dumps({"name": "jaco_play", "splits": [train]}))
    loaded = load_shards(rlds_shards(folder, STATIC, Timing(5.0, 4, 8)), workers=1)
    assert len(loaded.episodes) == 1
    assert "has 1 of the 3 records that dataset_info.json counts" in loaded.report.damage[0]


def test_an_empty_file_is_damage_even_if_nobody_counted_its_records(tmp_path: Path) -> None:
    folder = write_rlds(tmp_path / "1.0.0", "jaco_play", [[steps("jaco_play")], []])
    loaded = load_shards(rlds_shards(folder, STATIC, Timing(5.0, 4, 8)), workers=1)
    assert len(loaded.episodes) == 1 and "00001-of-00002 has no record" in loaded.report.damage[0]


def test_a_data_set_in_array_record_gives_the_same_episodes(tmp_path: Path) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    (expected,), _ = read(
        write_rlds(tmp_path / "1.0.0", "jaco_play", [[steps("jaco_play")]]), BOTH, timing_of("jaco_play")
    )
    (tmp_path / "2.0.0").mkdir()
    writer = module.ArrayRecordWriter(
        str(tmp_path / "2.0.0" / "jaco_play-train.array_record-00000-of-00001"), "group_size:1"
    )
    writer.write(encoded(steps("jaco_play")))
    writer.close()
    (episode,), _ = read(tmp_path / "2.0.0", BOTH, timing_of("jaco_play"))
    np.testing.assert_array_equal(episode.actions, expected.actions)
    np.testing.assert_array_equal(episode.images["wrist"], expected.images["wrist"])


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no NAME-train\.tfrecord"):
        rlds_shards(tmp_path, STATIC, Timing(5.0, 4, 8))
    with pytest.raises(SourceError, match="is not a folder"):
        rlds_shards(tmp_path / "absent", STATIC, Timing(5.0, 4, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps/observation/image": None}, r"record 0 has no feature 'steps/observation/image'"),
        ({"steps/observation/image": [b"no picture"] * STEPS}, r"record 0 is damaged: 10 bytes are not a JPEG"),
        ({"steps/observation/image": [b""]}, r"lists of different lengths"),
        ({"steps/action/gripper_closedness_action": [b""]}, r"is a list of another kind"),
        ({"steps/observation/end_effector_cartesian_pos": [0.0] * 7 * STEPS}, r"not a rotation"),
        ({"steps/observation/end_effector_cartesian_pos": [float("nan")] * 7 * STEPS}, r"not finite"),
    ],
)  # fmt: skip
def test_a_record_unlike_its_data_set_is_named(tmp_path: Path, change: dict, message: str) -> None:
    record = {name: values for name, values in (steps("jaco_play") | change).items() if values is not None}
    folder = write_rlds(tmp_path / "1.0.0", "jaco_play", [[record]])
    with pytest.raises(SourceError, match=message):
        read(folder, STATIC, Timing(5.0, 4, 8))


ODD = [
    {"steps/observation/image": None},
    {"steps/observation/image": [b"no picture"] * STEPS},
    {"steps/observation/end_effector_cartesian_pos": [float("nan")] * 7 * STEPS},
    {"steps/observation/end_effector_cartesian_pos": [0.1] * 6},
    {"steps/action/gripper_closedness_action": [float("inf")] * STEPS, "steps/observation/image": [b""] * STEPS},
]


@pytest.mark.parametrize("change", ODD)
def test_an_unreadable_record_is_skipped_and_reported(tmp_path: Path, caplog, change: dict) -> None:
    odd = {name: values for name, values in (steps("jaco_play") | change).items() if values is not None}
    good = steps("jaco_play")
    folder = write_rlds(tmp_path / "1.0.0", "jaco_play", [[good, odd, good, odd], [good]])
    loaded = load_shards(rlds_shards(folder, STATIC, Timing(5.0, 4, 8)), workers=1)
    assert [episode.source[-2:] for episode in loaded.episodes] == ["#0", "#2", "#0"]
    (text,) = loaded.report.damage
    assert text.startswith(f"{folder}/jaco_play-train.tfrecord-00000-of-00002: 2 of 4 records are unreadable")
    assert "(record 1" in text and text in caplog.text


def test_a_record_of_one_step_is_too_short_but_readable(tmp_path: Path) -> None:
    """No motion follows the only step; nothing is left of it."""
    short = {name: values[: len(values) // STEPS] for name, values in steps("jaco_play").items()}
    folder = write_rlds(tmp_path / "1.0.0", "jaco_play", [[short, steps("jaco_play")]])
    loaded = load_shards(rlds_shards(folder, STATIC, Timing(5.0, 4, 8)), workers=1)
    assert len(loaded.episodes) == 1 and not loaded.report.dropped and not loaded.report.damage
