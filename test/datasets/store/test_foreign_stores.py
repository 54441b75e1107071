# SPDX-License-Identifier: Apache-2.0
"""A store that came with a copied data set reads and writes nothing outside of it, and makes no objects of bytes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.entry import MANIFEST, read_manifest
from vla_ros.datasets.store.store import load_shards

LENGTH = 5


def decode(add: Callable[[Episode], None]) -> DecodeReport:
    images = np.arange(LENGTH * 36, dtype=np.uint8).reshape(LENGTH, 3, 4, 3)
    add(Episode(
        images={"static": images}, proprioception=np.zeros((LENGTH, 2), np.float32), actions=np.zeros((LENGTH, 7)),
        command="go", task="go", outcome="unknown", source="a#0", start_ns=0, ticks=np.arange(LENGTH),
    ))  # fmt: skip
    return DecodeReport({})


@pytest.fixture
def shard(tmp_path: Path) -> SourceShard:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_text("a")
    return SourceShard("a", tmp_path / "set", (tmp_path / "set" / "a",), {"name": "a"}, functools.partial(decode))


@pytest.fixture
def entry(shard: SourceShard) -> Path:
    load_shards([shard])
    (found,) = (shard.root / ".vla_store").iterdir()
    return found


def edit(entry: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((entry / MANIFEST).read_text())
    change(manifest)
    (entry / MANIFEST).write_text(json.dumps(manifest))


def rename(name: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["arrays"][name] = manifest["arrays"].pop("images.static")

    return change


def negative(manifest: dict[str, Any]) -> None:
    manifest["arrays"]["images.static"]["shape"] = [-3, -4, 3]


@pytest.mark.parametrize("kind", ["|O", "|V4", "|S4", "M8[ns]", "c8"])
def test_arrays_that_are_not_numbers_are_decoded_anew(kind: str, shard: SourceShard, entry: Path) -> None:
    edit(entry, lambda manifest: manifest["arrays"]["images.static"].update(type=kind, shape=[]))
    (entry / "images.static").write_bytes(bytes(LENGTH * np.dtype(kind).itemsize))
    assert read_manifest(entry) is None
    (episode,) = load_shards([shard]).episodes
    assert episode.images["static"].dtype == np.uint8 and episode.images["static"].shape == (LENGTH, 3, 4, 3)


@pytest.mark.parametrize("name", ["images.../../secret", "../../../secret", "/secret", "images./../../../secret"])
def test_arrays_outside_of_the_entry_are_not_read(name: str, shard: SourceShard, entry: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * LENGTH * 36)
    edit(entry, rename(str(tmp_path / "secret") if name == "/secret" else name))
    assert read_manifest(entry) is None
    (episode,) = load_shards([shard]).episodes
    assert list(episode.images) == ["static"]


def test_a_linked_array_is_not_read(shard: SourceShard, entry: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * LENGTH * 36)
    (entry / "images.static").unlink()
    (entry / "images.static").symlink_to(tmp_path / "secret")
    (episode,) = load_shards([shard]).episodes
    assert episode.images["static"][0, 0, 0, 0] == 0
    assert (tmp_path / "secret").read_bytes() == b"s" * LENGTH * 36


def test_negative_sizes_are_not_read(entry: Path) -> None:
    edit(entry, negative)
    assert read_manifest(entry) is None


def test_nothing_is_written_through_a_linked_entry_or_store(shard: SourceShard, entry: Path, tmp_path: Path) -> None:
    moved = entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(moved)
    before = (moved / MANIFEST).read_bytes()
    (shard.root / "a").touch()
    with pytest.raises(StoreError, match=r"is not removed"):
        load_shards([shard])
    assert (moved / MANIFEST).read_bytes() == before
    entry.unlink()
    (shard.root / ".vla_store").rmdir()
    (shard.root / ".vla_store").symlink_to(tmp_path)
    with pytest.raises(StoreError, match=r"\.vla_store is a link to .*data\.store=FOLDER"):
        load_shards([shard])


def test_a_linked_lock_does_not_empty_its_target(shard: SourceShard, entry: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("hours")
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    entry.with_name(entry.name + ".lock").symlink_to(tmp_path / "precious")
    try:
        load_shards([shard])
    except StoreError as error:
        assert "can't be locked" in str(error)
    assert (tmp_path / "precious").read_text() == "hours"
