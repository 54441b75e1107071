# SPDX-License-Identifier: Apache-2.0
"""A full disk, too little memory or a killed process is not damage to a demonstration and leaves no store entry."""

from __future__ import annotations

import contextlib
import errno
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import cv2
import numpy as np
import pytest
import slow_shard
from recordings import read_bag
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.bags.storage import container
from vla_ros.datasets.calvin.safe_pickle import read_npz
from vla_ros.datasets.errors import BagError, SourceError, StoreError
from vla_ros.datasets.rlds.tfrecord import records
from vla_ros.datasets.store.store import load_shards
from vla_ros.imaging import images

FULL = OSError(errno.ENOSPC, "No space left on device")


def failing(error: BaseException, after: int = 0) -> Callable[..., Any]:
    """A function that raises from its call number `after` on; the calls before that give nothing."""
    calls = iter(range(10**9))

    def fail(*_: Any, **__: Any) -> bytes:
        if next(calls) >= after:
            raise error
        return b""

    return fail


@pytest.fixture
def load(demonstration, robot, spec, timing, tmp_path: Path) -> Callable:
    demonstration.write(tmp_path / "bags" / "a")
    return lambda: load_shards(bag_shards([tmp_path / "bags"], robot, spec, timing), workers=1)


def rewritten(bag: Path, target: Path, storage: StoragePlugin, compression: CompressionMode) -> Path:
    """The bag's messages in another container."""
    writer = Writer(target, version=9, storage_plugin=storage)
    if compression is not CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with open_bag(bag) as recording, writer:
        topics: dict[str, Any] = {}
        for topic, time_ns, data in recording.serialized():
            if topic.name not in topics:
                topics[topic.name] = writer.add_connection(topic.name, topic.type, typestore=typestore())
            writer.write(topics[topic.name], time_ns, data)
    return target


@pytest.mark.parametrize(
    ("place", "error", "raised", "words"),
    [
        ("vla_ros.datasets.bags.storage.mcap.McapFile.read", OSError(errno.EIO, "Input/output error"), BagError,
         "can't be read: .*Input/output error"),
        ("vla_ros.datasets.bags.storage.mcap.McapFile.__init__", OSError(errno.EMFILE, "Too many open files"), BagError,
         "Too many open files.*run the same command again"),
        ("vla_ros.datasets.bags.open_bag.tempfile.TemporaryDirectory", FULL, BagError, "No space left.*TMPDIR"),
        ("vla_ros.datasets.bags.storage.mcap.McapFile.read", MemoryError(), StoreError, "memory.*a; .*data.workers=1"),
        ("vla_ros.imaging.images.cv2.imdecode", MemoryError(), StoreError, "not enough memory to decode a"),
    ],
)  # fmt: skip
def test_machine_errors_are_reported_and_leave_no_store_entry(
    load, tmp_path: Path, monkeypatch, place: str, error: BaseException, raised: type[Exception], words: str
) -> None:
    with monkeypatch.context() as context:
        context.setattr("vla_ros.imaging.images.simplejpeg", None)  # OpenCV decodes, whatever is installed
        context.setattr(place, failing(error))
        with pytest.raises(raised, match=words):
            load()
    assert not any((tmp_path / "bags" / ".vla_store").iterdir())
    (episode,), report, *_ = load()
    assert len(episode) == 20 and not report.dropped


def test_running_out_of_memory_in_simplejpeg_is_not_damage(load, monkeypatch) -> None:
    pytest.importorskip("simplejpeg")
    with monkeypatch.context() as context:
        context.setattr("vla_ros.imaging.images.simplejpeg.decode_jpeg", failing(MemoryError()))
        with pytest.raises(StoreError, match="not enough memory to decode a"):
            load()
    assert len(load()[0]) == 1


def test_running_out_of_memory_while_decoding_a_message_is_not_damage(load, monkeypatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(type(typestore()), "deserialize_cdr", failing(MemoryError()))
        with pytest.raises(StoreError, match="memory"):
            load()
    assert len(load()[0]) == 1


def test_running_out_of_memory_while_decompressing_a_chunk_is_not_damage(monkeypatch) -> None:
    class Decompressor:
        decompress = staticmethod(failing(MemoryError()))

    monkeypatch.setattr(container.zstd, "ZstdDecompressor", lambda: Decompressor)
    with pytest.raises(MemoryError):
        container.inflate(b"packed", "zstd", 100)


def test_a_full_disk_while_decompressing_a_file_is_not_damage(
    demonstration, robot, spec, timing, tmp_path: Path, monkeypatch
) -> None:
    plain = demonstration.write(tmp_path / "plain")
    bag = rewritten(plain, tmp_path / "bag", StoragePlugin.MCAP, CompressionMode.FILE)
    with monkeypatch.context() as context:
        context.setattr(container.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(BagError, match=r"does not fit on the disk.*TMPDIR"):
            read_bag(bag, robot, spec, timing)
    assert sum(map(len, read_bag(bag, robot, spec, timing)[0])) == 20


@pytest.fixture
def little_sqlite_memory() -> Iterator[None]:
    apsw.hard_heap_limit(200_000)
    yield
    apsw.hard_heap_limit(0)


def test_running_out_of_memory_in_sqlite_is_not_damage(
    demonstration, tmp_path: Path, little_sqlite_memory: None
) -> None:
    plain = demonstration.noise("/noise", 2).write(tmp_path / "plain")
    bag = rewritten(plain, tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.NONE)
    with pytest.raises(MemoryError), open_bag(bag) as recording:
        apsw.hard_heap_limit(1000)
        list(recording.serialized())


def test_a_cut_off_sqlite_file_is_damage(demonstration, tmp_path: Path) -> None:
    plain = demonstration.noise("/noise", 20).write(tmp_path / "plain")
    bag = rewritten(plain, tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.NONE)
    (file,) = bag.glob("*.db3")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with open_bag(bag) as recording:
        read = list(recording.serialized())
        assert read and any("cut off after" in text for text in recording.damage)


def test_running_out_of_memory_does_not_make_images_undecodable(monkeypatch) -> None:
    error = cv2.error("Insufficient memory")
    error.code, error.err = cv2.Error.StsNoMem, "Insufficient memory"
    monkeypatch.setattr(cv2, "imdecode", failing(error))
    with pytest.raises(MemoryError):
        images.decode_image_file(b"\xff\xd8 picture")


def test_an_image_of_impossible_size_is_a_value_error() -> None:
    """A BMP that says it is two million pixels wide: OpenCV raises an error of its own for that."""
    sizes = np.array([40, 1 << 21, 1], "<u4").tobytes() + np.array([1, 24], "<u2").tobytes()
    head = b"BM" + np.array([154, 0, 54], "<u4").tobytes() + sizes + bytes(24)
    with pytest.raises(ValueError, match="announce an image"):
        images.decode_image_file(head + bytes(100))


def test_files_that_the_disk_fails_to_deliver_are_not_reported_as_damaged(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "frame.npz").mkdir()  # any OSError will do
    with pytest.raises(SourceError, match=r"frame\.npz can't be read"):
        read_npz(tmp_path / "frame.npz", ("a",))
    with pytest.raises(SourceError, match=r"frame\.npz can't be read"):
        list(records(tmp_path / "frame.npz"))


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file may have more than 200 bytes: the system refuses the write, as it does on a full disk.

    Not around a whole test: pytest may be writing to a file itself.
    """
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_explained_and_leaves_nothing_behind(load, tmp_path: Path) -> None:
    message = r"can't be written to .*\.vla_store \(File too large\).*--clean.*data\.store="
    with full_disk(), pytest.raises(StoreError, match=message):
        load()
    assert not any((tmp_path / "bags" / ".vla_store").iterdir())


def test_a_killed_process_is_explained_and_finished_entries_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    good, deadly = slow_shard.slow_shard(tmp_path, 0), slow_shard.deadly_shard(tmp_path)
    load_shards([good], workers=1)
    with pytest.raises(StoreError, match=r"was killed.*memory.*data\.workers=1"):
        load_shards([good, deadly, slow_shard.deadly_shard(tmp_path, "other")], workers=2)
    assert len(load_shards([good], workers=1).episodes) == 2
    assert (tmp_path / "log").read_text().count("decoding") == 1
