# SPDX-License-Identifier: Apache-2.0
"""However many shards a data set has, few files are open at once, and any window can be read."""

from __future__ import annotations

import functools
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vla_ros.datasets import episode as episodes_module
from vla_ros.datasets.episode import Episode, Frames, mapping_of
from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store import entry
from vla_ros.datasets.store.entry import ArrayFile, MappedFiles
from vla_ros.datasets.store.store import load_shards

SHARDS, LENGTH = 60, 5


def decode(number: int, add: Callable[[Episode], None]) -> DecodeReport:
    """One episode whose frames and actions say which part and which tick they are of."""
    ticks = np.arange(LENGTH, dtype=np.int64)
    shades = np.stack([np.full((3, 4, 3), number + tick, np.uint8) for tick in ticks])
    add(Episode(
        images={"static": shades, "wrist": 255 - shades},
        proprioception=np.full((LENGTH, 2), number, np.float32), actions=np.full((LENGTH, 7), number / 100),
        command="go", task="go", outcome="unknown", source=f"shard{number}#0", start_ns=0, ticks=ticks,
    ))  # fmt: skip
    return DecodeReport({})


@pytest.fixture
def shards(tmp_path: Path) -> list[SourceShard]:
    for number in range(SHARDS):
        (tmp_path / f"{number}").write_text(f"{number}")
    return [
        SourceShard(
            f"shard{number}", tmp_path, (tmp_path / f"{number}",), {"name": number}, functools.partial(decode, number)
        )
        for number in range(SHARDS)
    ]


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that may open 40 files more than it has open, fewer than there are shards."""
    monkeypatch.setattr(entry, "MAPS_AT_ONCE", 12)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_more_shards_than_open_files_are_allowed_are_loaded_and_read(shards: list[SourceShard]) -> None:
    episodes, *_ = load_shards(shards, workers=1)
    assert [episode.actions[0, 0] for episode in episodes] == [number / 100 for number in range(SHARDS)]
    static, wrist = (Frames([episode.images for episode in episodes], camera) for camera in ("static", "wrist"))
    random = np.random.default_rng(0)
    for _ in range(20):
        chosen, rows = random.integers(SHARDS, size=8), random.integers(LENGTH, size=(8, 3))
        shades = (chosen[:, None] + rows)[:, :, None, None, None]
        assert (static.gather(chosen, rows) == shades).all() and (wrist.gather(chosen, rows) == 255 - shades).all()


def test_a_map_is_closed_once_it_is_dropped_and_unused(shards: list[SourceShard], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(entry, "MAPS_AT_ONCE", 4)
    episodes, *_ = load_shards(shards[:10], workers=1)
    looked_at = episodes[0].images["static"]
    for episode in episodes:
        assert episode.images["wrist"].any()
    assert (looked_at[:, 0, 0, 0] == np.arange(LENGTH)).all()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{tmp_path}/.vla_store" in line]
    assert len(mapped) == 4 + 1


def test_pages_are_released_at_a_limit(shards: list[SourceShard], monkeypatch) -> None:
    class Spy(mmap.mmap):
        advised = 0

        def madvise(self, *arguments: int) -> None:
            Spy.advised += 1
            super().madvise(*arguments)

    monkeypatch.setattr("vla_ros.datasets.store.entry.mmap.mmap", Spy)
    monkeypatch.setattr(episodes_module, "RELEASE_AFTER_BYTES", 1000)
    episodes, *_ = load_shards(shards[:2], workers=1)
    read = Frames([episode.images for episode in episodes], "static")
    for _ in range(40):  # of 108 bytes: one window of 3 frames
        read.gather(np.array([1]), np.array([[0, 1, 2]]))
    assert Spy.advised == 4 and isinstance(mapping_of(episodes[1].images["static"]), Spy)


def test_a_file_that_was_removed_or_cut_off_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "images.static"
    with pytest.raises(StoreError, match=r"images\.static can't be read any more.*--resume"):
        MappedFiles().array(ArrayFile(path, "|u1", (4,)))
    for content in (b"", b"abc"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="can't be read any more"):
            MappedFiles().array(ArrayFile(path, "|u1", (4,)))
