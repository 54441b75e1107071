# SPDX-License-Identifier: Apache-2.0
"""The store: shards decoded once, in a folder beside them, for all runs, ranks and processes that read them.

`.vla_store/NAME-KEY/` is an entry; it appears whole, by a rename. While one is being made, its lock file is held and
its files are in `NAME-KEY.partial`: what a killed process leaves there is removed by the next that wants the entry.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError, StoreError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.entry import EntryWriter, open_entry, read_manifest, write_manifest
from vla_ros.datasets.store.fingerprint import Stamps, content_digest, entry_key, reader_digest, stamps
from vla_ros.datasets.store.lock import exclusive
from vla_ros.datasets.store.mapped_files import MappedFiles
from vla_ros.datasets.store.names import ELSEWHERE, entry_name, lock_of, partial_of, remove_folder, safe_name, shard_of

STORE_NAME = ".vla_store"

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The episodes of shards in their order, what was left out, and the digest of each shard's files."""

    episodes: list[Episode]
    report: DecodeReport
    contents: tuple[str, ...]


def load_shards(
    shards: Sequence[SourceShard], folder: Path | None = None, workers: int = 0, progress: Progress | None = None
) -> Loaded:
    """Return what is in `shards`, and tell by warnings what of them is damaged.

    Parts that are not in the store yet are decoded by `workers` processes (0: one for each core), and by whichever
    other run or rank wants the same: each shard by one of them. The episodes' images are mapped, not loaded.

    Args:
        folder: where the store is; None: in `.vla_store` beside each shard's home.
        progress: is told (shards done, shards in all).

    Raises:
        StoreError: the store can't be written or locked.
        UserError: a shard can't be read.
    """
    entries = _decode_all(shards, folder, workers, progress)
    episodes: list[Episode] = []
    dropped: Counter[str] = Counter()
    hint = ""
    damage: list[str] = []
    contents: list[str] = []
    files = MappedFiles()
    for entry in entries:
        manifest = read_manifest(entry)
        if manifest is None:
            raise StoreError(f"{entry} was removed or damaged while it was read; run the same command again")
        episodes += open_entry(entry, manifest, files)
        dropped.update(manifest["dropped"])
        hint = hint or manifest["hint"]
        damage += manifest["damage"]
        contents.append(manifest["content"])
    for text in damage:  # each time: whoever trains on the rest should know
        logger.warning("%s", text)
    return Loaded(episodes, DecodeReport(+dropped, hint, tuple(damage)), tuple(contents))


def ensure(shard: SourceShard, folder: Path | None, wait: bool = True, reader: str = "") -> Path | None:
    """Return the entry of `shard`, decoding it if need be; None where another process is at it and not to `wait` for.

    reader: the `reader_digest` of whoever knows it already, for finding it takes a third of a second.
    """
    reader = reader or reader_digest()
    store = store_folder(shard, folder)
    seen = _seen(shard, store)
    content = _content(shard, store, seen)
    key = entry_key(content, shard.settings, reader)
    entry = store / entry_name(shard.name, key)
    if read_manifest(entry) is not None:
        return entry
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {store} for decoded demonstrations can't be made ({error.strerror}); {ELSEWHERE}"
        ) from None
    with exclusive(lock_of(entry), wait) as mine:
        if not mine:
            return None
        if read_manifest(entry) is None:
            if entry.exists():
                logger.warning("%s is damaged and is decoded again", entry)
                remove_folder(entry)
            _decode(shard, store, entry, content, seen, reader)
    return entry


def store_folder(shard: SourceShard, folder: Path | None) -> Path:
    """Return where the store of a shard is."""
    return shard.root / STORE_NAME if folder is None else folder


def _decode_all(
    shards: Sequence[SourceShard], folder: Path | None, workers: int, progress: Progress | None
) -> list[Path]:  # fmt: skip
    """Return the entry of each shard."""
    there = _present(shards, folder)
    reader = reader_digest()
    entries = [_unread_entry(shard, store_folder(shard, folder), there, reader) for shard in shards]
    if all(entries):
        return [entry for entry in entries if entry is not None]
    try:
        _decode_missing(shards, folder, workers or _cores(), entries, progress, reader)
    except concurrent.futures.process.BrokenProcessPool:
        raise StoreError(
            "a process that decoded demonstrations was killed, most often because the memory ran out; what was done is "
            "kept. Run the same command again with fewer at once: --set data.workers=1"
        ) from None
    return [entry for entry in entries if entry is not None]


def _decode_missing(
    shards: Sequence[SourceShard],
    folder: Path | None,
    workers: int,
    entries: list[Path | None],
    progress: Progress | None,
    reader: str,
) -> None:
    """Fill in the `entries` that are None."""
    order = [index for index, entry in enumerate(entries) if entry is None]
    with _pool(workers, len(order)) as pool:
        # Runs that start together share the work: each takes what no other has begun, and waits for the rest then.
        for wait in (False, True):
            futures = {pool.submit(ensure, shards[index], folder, wait, reader): index for index in order}
            try:
                for future in concurrent.futures.as_completed(futures):
                    entries[futures[future]] = future.result()
                    if progress and future.result() is not None:
                        progress(sum(entry is not None for entry in entries), len(shards))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            order = [index for index in order if entries[index] is None]


def _present(shards: Sequence[SourceShard], folder: Path | None) -> dict[Path, dict[str, list[Path]]]:
    """List the entries of each store by the shard's name, so that no store is searched once for each shard."""
    found: dict[Path, dict[str, list[Path]]] = {}
    for store in {store_folder(shard, folder) for shard in shards}:
        found[store] = {}
        for entry in sorted(store.iterdir()) if store.is_dir() else ():
            if (name := shard_of(entry)) is not None:
                found[store].setdefault(name, []).append(entry)
    return found


def _unread_entry(
    shard: SourceShard, store: Path, there: dict[Path, dict[str, list[Path]]], reader: str
) -> Path | None:
    """Return the shard's entry if that can be told without reading the shard's files."""
    candidates = there[store].get(safe_name(shard.name))
    if not candidates:
        return None
    seen = _seen(shard, store)
    for entry in candidates:
        manifest = read_manifest(entry)
        if manifest is None or manifest["files"] != seen:
            continue
        if manifest["key"] == entry_key(manifest["content"], shard.settings, reader):
            return entry
    return None


def _pool(workers: int, shards: int) -> concurrent.futures.Executor:
    if workers == 1 or shards == 1:
        return concurrent.futures.ThreadPoolExecutor(1)
    # Not forked: the caller may have threads, and a fork copies their locks as they are.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(min(workers, max(1, shards)), mp_context=context)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _decode(shard: SourceShard, store: Path, entry: Path, content: str, seen: Stamps, reader: str) -> None:
    """Decode `shard` into `entry`; the caller holds its lock."""
    partial = partial_of(entry)
    if partial.exists():
        remove_folder(partial)
    writer = EntryWriter(partial)
    try:
        decoded = shard.decode(writer.add)
        if _seen(shard, store) != seen:
            raise SourceError(f"{shard.name} was changed while it was read; run again when it is complete")
        settings = dict(shard.settings)
        writer.finish(
            decoded,
            {
                "name": shard.name,
                "key": entry_key(content, settings, reader),
                "content": content,
                "files": seen,
                "settings": settings,
                "reader": reader,
            },
        )
        partial.rename(entry)
    except BaseException as error:
        writer.close()
        if partial.exists():
            remove_folder(partial)
        if isinstance(error, MemoryError):
            raise StoreError(
                f"the memory is too small to decode {shard.name}; what was done is kept. Close other programs or run "
                "the same command again with fewer processes: --set data.workers=1"
            ) from None
        raise


def _content(shard: SourceShard, store: Path, seen: Stamps) -> str:
    """Return the digest of a shard's files; they are read only where no entry was made of files that look the same."""
    entries = [entry for entry in sorted(store.glob("*")) if shard_of(entry) == safe_name(shard.name)]
    for entry in entries:
        manifest = read_manifest(entry)
        if manifest is not None and manifest["files"] == seen:
            return str(manifest["content"])
    with _readable(shard):
        content = content_digest(shard.files)
    for entry in entries:
        manifest = read_manifest(entry)
        if manifest is not None and manifest["content"] == content:  # copied or touched, but the same
            _note(entry, {**manifest, "files": seen})
    return content


def _seen(shard: SourceShard, store: Path) -> Stamps:
    with _readable(shard):
        return stamps(shard.files, store)


@contextlib.contextmanager
def _readable(shard: SourceShard) -> Iterator[None]:
    """Name a file of the shard that is gone, or that the disk does not give."""
    try:
        yield
    except OSError as error:
        name = error.filename or shard.root / shard.name
        raise SourceError(f"{name} is missing or can't be read ({error.strerror})") from None


def _note(entry: Path, manifest: dict[str, Any]) -> None:
    """Write down how the files look now; where that is not possible, they are read again next time."""
    try:
        write_manifest(entry, manifest)
    except OSError:
        logger.debug("%s can't be updated", entry)
