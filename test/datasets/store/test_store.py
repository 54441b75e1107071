# SPDX-License-Identifier: Apache-2.0
"""Decoded once, whole or not at all, and the same frames as in the bag."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import slow_shard
from recordings import read_bag

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.episode import Episode, mapping_of
from vla_ros.datasets.errors import BagError, SourceError, StoreError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.sources import FORMATS, Source, load_source
from vla_ros.datasets.store import store
from vla_ros.datasets.store.store import is_locked, load_shards, locked
from vla_ros.robot import Robot

if TYPE_CHECKING:
    from recordings import BagBuilder


@pytest.fixture
def bags(demonstration: BagBuilder, bag: type[BagBuilder], tmp_path: Path) -> Path:
    demonstration.write(tmp_path / "bags" / "a")
    failed = bag().say(-9).gripper(-8, 0.08).move(0, 1100).mark(-1, "start").mark(1000.5, "failure")
    failed.write(tmp_path / "bags" / "b")
    return tmp_path / "bags"


@pytest.fixture
def load(robot: Robot, spec: ObservationSpec, timing: Timing, bags: Path) -> Callable:
    def load_all(robot: Robot = robot, spec: ObservationSpec = spec, timing: Timing = timing, **options) -> tuple:
        return load_shards(bag_shards([bags], robot, spec, timing, **options), workers=1)

    return load_all


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were decoded."""
    names: list[str] = []
    decode = store._decode

    def noted(shard: SourceShard, *rest) -> None:
        names.append(shard.name)
        decode(shard, *rest)

    monkeypatch.setattr(store, "_decode", noted)
    return names


def entries(bags: Path) -> list[str]:
    return sorted(path.name for path in (bags / ".vla_store").iterdir())


def equal(one: Episode, other: Episode) -> bool:
    arrays = ("proprioception", "actions", "ticks")
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    same &= all(getattr(one, name).dtype == getattr(other, name).dtype for name in arrays)
    same &= list(one.images) == list(other.images)
    same &= all(np.array_equal(one.images[camera], other.images[camera]) for camera in one.images)
    names = {field.name for field in dataclasses.fields(Episode)} - {"images", *arrays}
    return same and all(getattr(one, name) == getattr(other, name) for name in names)


def test_episodes_are_those_of_the_bag_bit_for_bit(load, bags, robot, spec, timing) -> None:
    for failures in (False, True):
        expected, report = read_bag(bags / "a", robot, spec, timing)
        if failures:
            expected += read_bag(bags / "b", robot, spec, timing, include_failures=True)[0]
        episodes, loaded, *_ = load(include_failures=failures)
        assert len(episodes) == len(expected) == 1 + failures
        assert all(map(equal, episodes, expected))
        assert loaded.dropped == dict(report.dropped) | ({} if failures else {"episode failure": 10})


def test_bags_are_decoded_once(load, bags, decodings) -> None:
    first, *_ = load()
    before = entries(bags)
    again, *_ = load()
    assert decodings == ["a", "b"] and entries(bags) == before
    assert all(map(equal, first, again))
    assert [name[:2] for name in before] == ["a-", "b-"]


def test_robot_size_and_rate_make_another_entry_but_not_history(load, decodings, robot, spec, timing) -> None:
    load()
    load(timing=dataclasses.replace(timing, history=1, chunk=2, settle_s=0.02))
    cameras = tuple(dataclasses.replace(camera, mean=(0.1, 0.2, 0.3)) for camera in spec.cameras)
    load(spec=dataclasses.replace(spec, cameras=cameras))
    assert decodings == ["a", "b"]
    load(spec=ObservationSpec((Camera("static", 8, 9), Camera("wrist", 8, 8)), spec.proprioception))
    load(timing=dataclasses.replace(timing, control_hz=5.0))
    load(robot=dataclasses.replace(robot, observation=dataclasses.replace(robot.observation, max_age_s=0.31)))
    load(include_failures=True)
    assert decodings == ["a", "b"] * 5


def test_a_copied_bag_is_recognised_and_a_changed_one_is_decoded_again(load, bags, decodings) -> None:
    load()
    shutil.copytree(bags / "a", bags / "copy")  # new times of change
    shutil.rmtree(bags / "a")
    (bags / "copy").rename(bags / "a")
    load()
    load()
    assert decodings == ["a", "b"]
    with (bags / "a" / "metadata.yaml").open("a") as file:
        file.write("\n")
    load()
    assert decodings == ["a", "b", "a"]


def test_changed_decoding_code_makes_another_entry(load, decodings, monkeypatch) -> None:
    load()
    monkeypatch.setattr("vla_ros.datasets.store.store.reader_digest", lambda: "another version")
    load()
    assert decodings == ["a", "b", "a", "b"]


def test_a_decoding_process_uses_the_given_digest_and_loads_no_scipy(
    bags: Path, robot: Robot, spec: ObservationSpec, timing: Timing
) -> None:
    """Both took longer than to decode a short bag. scipy.spatial is for rotations, which these bags' labels lack."""
    shards = bag_shards([bags], robot, spec, timing)
    code = (
        "import pickle, sys; from pathlib import Path; from vla_ros.datasets.store import entry as entries, store\n"
        "shard = pickle.load(sys.stdin.buffer)\n"
        "entry = store.ensure(shard, None, True, 'a digest')\n"
        "assert store.read_manifest(entry)['reader'] == 'a digest'\n"
        "assert entries.reader_digest.cache_info().misses == 0\n"
        "assert 'scipy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(shards[0]), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_frames_are_mapped_not_loaded(load) -> None:
    (episode,), *_ = load()
    assert all(mapping_of(images) is not None for images in episode.images.values())
    with pytest.raises(ValueError, match="read-only"):
        episode.images["static"][0, 0, 0, 0] = 1


def test_damage_is_logged_on_every_load(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("content")
    shard = SourceShard(
        "one", tmp_path, (tmp_path / "file",), {}, lambda add: DecodeReport({}, damage=("one: cut off at 3 s",))
    )
    for _ in range(2):
        caplog.clear()
        load_shards([shard], workers=1)
        assert "one: cut off at 3 s" in caplog.text


def test_damage_is_in_the_report_and_in_the_error_if_nothing_is_left(
    tmp_path: Path, spec: ObservationSpec, timing: Timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("content")
    whole, lost = slow_shard.slow_shard(tmp_path, 0), "one: cut off at 3 s"
    empty = SourceShard(
        "one", tmp_path, (tmp_path / "file",), {}, lambda add: DecodeReport({"no": 2}, ". Look there.", (lost,))
    )
    loaded = load_shards([whole, empty], workers=1)
    assert (loaded.report.damage, loaded.report.dropped, len(loaded.episodes)) == ((lost,), {"no": 2}, 2)
    monkeypatch.setitem(FORMATS, "bags", lambda *_: [empty])
    message = r"usable episode in all of it \(one\); dropped: no: 2 frames; damaged: one: cut .* s\. Look"
    with pytest.raises(SourceError, match=message):
        load_source(Source("all of it", "bags", []), spec, timing, workers=1)


@pytest.mark.parametrize("harm", ["cut", "gone", "manifest"])
def test_a_damaged_entry_is_decoded_again(load, bags, decodings, caplog, robot, spec, timing, harm: str) -> None:
    load()
    entry = next((bags / ".vla_store").glob("a-*"))
    if harm == "cut":
        os.truncate(entry / "images.static", 100)
    elif harm == "gone":
        (entry / "actions").unlink()
    else:
        (entry / "manifest.json").write_text('{"version": 1, ')
    again, *_ = load()
    assert decodings == ["a", "b", "a"] and "is damaged" in caplog.text
    assert all(map(equal, again, read_bag(bags / "a", robot, spec, timing)[0]))


def test_an_unreadable_bag_leaves_no_entry_and_the_others_stay(load, bags, decodings) -> None:
    (bags / "b" / "b.mcap").write_bytes(b"no bag")
    with pytest.raises(BagError, match="/b "):
        load()
    assert [name[:2] for name in entries(bags)] == ["a-"]


def test_an_unwritable_folder_is_an_error_with_a_way_out(load, bags, robot, spec, timing, tmp_path) -> None:
    (bags / ".vla_store").write_text("a file is in the way")
    with pytest.raises(StoreError, match=r"data\.store=FOLDER"):
        load()
    shards = bag_shards([bags], robot, spec, timing)
    assert len(load_shards(shards, tmp_path / "elsewhere", workers=1)[0]) == 1
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def start(folder: Path, pause_s: float) -> subprocess.Popen:
    """Load a slow shard in a process of its own, which prints the number of episodes."""
    if not (folder / "file").exists():
        (folder / "file").write_text("content")
    command = [sys.executable, slow_shard.__file__, str(folder), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_concurrent_runs_share_the_work(tmp_path: Path) -> None:
    runs = [start(tmp_path, 0.3) for _ in range(3)]
    assert [run.communicate(timeout=60)[0] for run in runs] == ["2\n"] * 3
    assert (tmp_path / "log").read_text().count("decoding") == 1
    assert len(entries(tmp_path)) == 1  # no lock, nothing partial


def test_a_killed_run_leaves_no_entry_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    run = start(tmp_path, 60)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".vla_store/*.partial/images.static")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert [name.rpartition(".")[2] for name in entries(tmp_path)] == ["lock", "partial"]
    episodes, *_ = load_shards([slow_shard.slow_shard(tmp_path, 0)], workers=1)
    assert [episode.images["static"].max() for episode in episodes] == [0, 1]
    assert len(entries(tmp_path)) == 1


def test_several_processes_decode_alike(bags, robot, spec, timing, tmp_path) -> None:
    progress: list[tuple[int, int]] = []
    shards = bag_shards([bags], robot, spec, timing, include_failures=True)
    episodes, *_ = load_shards(shards, workers=2, progress=lambda *done: progress.append(done))
    assert progress == [(1, 2), (2, 2)]
    alone = load_shards(shards, tmp_path / "alone", workers=1).episodes
    assert len(alone) == 2 and all(map(equal, episodes, alone))


def test_a_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / f"a-{'0' * 20}.lock"
    code = (
        "import sys, time; from pathlib import Path; from vla_ros.datasets.store.store import locked\n"
        "with locked(Path(sys.argv[1]), wait=True) as ours:\n    print(ours, flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    assert is_locked(path)
    with locked(path, wait=False) as ours:
        assert not ours
    holder.kill()
    holder.communicate()
    assert path.exists() and not is_locked(path)
    with locked(path, wait=True) as ours:
        assert ours and is_locked(path)
    assert not path.exists()


def test_a_read_only_store_is_read(load, bags, decodings, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    (bags / "a" / "metadata.yaml").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store.filelock.FileLock, "acquire", refuse)  # root may write anywhere
    assert len(load().episodes) == 1 and decodings == ["a", "b"]
    shutil.rmtree(bags / ".vla_store")
    with pytest.raises(StoreError, match=r"can't be locked .*Permission denied.*data\.store=FOLDER"):
        load()
