# SPDX-License-Identifier: Apache-2.0
"""The store: each shard decoded once, into a folder beside it, for all runs, ranks and processes that read it.

`.vla_store/NAME-KEY/` is an entry; it appears whole, by a rename. The process that writes one holds its lock file and
works in `NAME-KEY.partial`; if it is killed, the next process that wants the entry removes that folder. A store may be
any folder of the user's, so only what is recognised by name and content as written by a store is ever removed.
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

import filelock

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError, StoreError
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.entry import (
    ELSEWHERE,
    LOCK,
    MANIFEST,
    MARKER,
    NAME,
    EntryWriter,
    MappedFiles,
    Stamps,
    content_digest,
    entry_key,
    entry_name,
    lock_of,
    open_entry,
    partial_of,
    read_manifest,
    reader_digest,
    safe_name,
    shard_of,
    stamps,
)
from vla_ros.files import write_json

STORE_NAME = ".vla_store"

Progress = Callable[[int, int], None]  # (shards done, shards in all)

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The episodes of shards in their order, what was left out, and the digest of each shard's files."""

    episodes: list[Episode]
    report: DecodeReport
    contents: tuple[str, ...]


def load_shards(
    shards: Sequence[SourceShard], store: Path | None = None, workers: int = 0, progress: Progress | None = None
) -> Loaded:
    """Return the episodes of `shards`, their images mapped instead of loaded, and log a warning for each damage.

    Shards that the store, None for `.vla_store` beside each shard, lacks are decoded by `workers` processes (0: one per
    core). Other runs and ranks that want the same shards share the work, each shard being decoded by one of them.

    Raises:
        StoreError: the store can't be written or locked.
        UserError: a shard can't be read.
    """
    episodes: list[Episode] = []
    dropped: Counter[str] = Counter()
    manifests: list[dict[str, Any]] = []
    files = MappedFiles()
    for entry in _decode_all(shards, store, workers, progress):
        manifest = read_manifest(entry)
        if manifest is None:
            raise StoreError(f"{entry} was removed or damaged while it was read; run the same command again")
        episodes += open_entry(entry, manifest, files)
        dropped.update(manifest["dropped"])
        manifests.append(manifest)
    damage = tuple(text for manifest in manifests for text in manifest["damage"])
    for text in damage:  # every time: whoever trains on the rest should know
        logger.warning("%s", text)
    hint = next((manifest["hint"] for manifest in manifests if manifest["hint"]), "")
    return Loaded(episodes, DecodeReport(+dropped, hint, damage), tuple(one["content"] for one in manifests))


def ensure(shard: SourceShard, store: Path | None, wait: bool = True, reader: str = "") -> Path | None:
    """Return the entry of `shard`, decoding it if necessary; None if another process does and `wait` is False.

    `reader` is the `reader_digest`, if the caller knows it: computing it takes a third of a second.
    """
    reader = reader or reader_digest()
    folder = store_of(shard, store)
    seen = _seen(shard, folder)
    content = _content(shard, folder, seen)
    entry = folder / entry_name(shard.name, entry_key(content, shard.settings, reader))
    if read_manifest(entry) is not None:
        return entry
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {folder} for decoded demonstrations can't be created ({error.strerror}); {ELSEWHERE}"
        ) from None
    with locked(lock_of(entry), wait) as ours:
        if not ours:
            return None
        if read_manifest(entry) is None:
            if entry.exists():
                logger.warning("%s is damaged and is decoded again", entry)
                remove_folder(entry)
            _decode(shard, folder, entry, content, seen, reader)
    return entry


def store_of(shard: SourceShard, store: Path | None) -> Path:
    """Return the folder of the store that keeps `shard`; StoreError if what lies beside it is a link elsewhere."""
    if store is not None:
        return store
    folder = shard.root / STORE_NAME
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link to {os.path.realpath(folder)}; name that folder as the store: data.store=FOLDER of "
            "`vla fit`, --store FOLDER of `vla replay`"
        )
    return folder


@contextlib.contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path` and remove it at the end; yield False at once if it is taken and `wait` is False.

    The system releases the lock when its process ends, however it ends.

    Raises:
        StoreError: the folder is not writable, or its disk does not support locks.
    """
    lock = filelock.FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise StoreError(
            f"decoded demonstrations are kept in {path.parent}, which can't be locked ({error}); make it writable, or "
            f"{ELSEWHERE}"
        ) from None
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while it is held: a process waiting for it notices, and creates a new one
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a running process holds the lock file `path`."""
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False


def _decode_all(
    shards: Sequence[SourceShard], store: Path | None, workers: int, progress: Progress | None
) -> list[Path]:
    """Return the entry of each shard."""
    reader = reader_digest()
    present = _present(shards, store)
    entries = [_find_entry(shard, store_of(shard, store), present, reader) for shard in shards]
    missing = [index for index, entry in enumerate(entries) if entry is None]
    if missing:
        try:
            with _pool(workers or len(os.sched_getaffinity(0)), len(missing)) as pool:
                # Concurrent runs share the work: each decodes what no other has begun, then waits for the rest.
                for wait in (False, True):
                    futures = {pool.submit(ensure, shards[index], store, wait, reader): index for index in missing}
                    _collect(pool, futures, entries, progress)
                    missing = [index for index in missing if entries[index] is None]
        except concurrent.futures.process.BrokenProcessPool:
            raise StoreError(
                "a decoding process was killed, most often because memory ran out; finished shards are kept. Run the "
                "same command again with fewer processes: --set data.workers=1"
            ) from None
    return [entry for entry in entries if entry is not None]


def _collect(
    pool: concurrent.futures.Executor,
    futures: dict[concurrent.futures.Future[Path | None], int],
    entries: list[Path | None],
    progress: Progress | None,
) -> None:
    """Put the results of `futures` into `entries` as they arrive."""
    try:
        for future in concurrent.futures.as_completed(futures):
            entries[futures[future]] = future.result()
            if progress and future.result() is not None:
                progress(sum(entry is not None for entry in entries), len(entries))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _present(shards: Sequence[SourceShard], store: Path | None) -> dict[Path, dict[str, list[Path]]]:
    """List the entries of each store by shard name, so that no store is listed once per shard."""
    found: dict[Path, dict[str, list[Path]]] = {}
    for folder in {store_of(shard, store) for shard in shards}:
        found[folder] = {}
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (name := shard_of(entry)) is not None:
                found[folder].setdefault(name, []).append(entry)
    return found


def _find_entry(
    shard: SourceShard, store: Path, present: dict[Path, dict[str, list[Path]]], reader: str
) -> Path | None:
    """Return the shard's entry if it is found without reading the shard's files."""
    if not (candidates := present[store].get(safe_name(shard.name))):
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
    # Not forked: the caller may have threads, and a fork copies their locks in whatever state they are.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(min(workers, shards), mp_context=context)


def _decode(shard: SourceShard, store: Path, entry: Path, content: str, seen: Stamps, reader: str) -> None:
    """Decode `shard` into `entry`; the caller holds its lock."""
    partial = partial_of(entry)
    if partial.exists():
        remove_folder(partial)
    writer = EntryWriter(partial)
    about = {
        "name": shard.name,
        "key": entry_key(content, shard.settings, reader),
        "content": content,
        "files": seen,
        "settings": shard.settings,
        "reader": reader,
    }
    try:
        report = shard.decode(writer.add)
        if _seen(shard, store) != seen:
            raise SourceError(f"{shard.name} changed while it was read; run again when it is complete")
        writer.finish(report, about)
        partial.rename(entry)
    except BaseException as error:
        writer.close()
        if partial.exists():
            remove_folder(partial)
        if isinstance(error, MemoryError):
            raise StoreError(
                f"there is not enough memory to decode {shard.name}; finished shards are kept. Close other programs, "
                "or run the same command again with fewer processes: --set data.workers=1"
            ) from None
        raise


def _content(shard: SourceShard, store: Path, seen: Stamps) -> str:
    """Return the digest of a shard's files, reading them only if no entry was made of files that look the same."""
    entries = [entry for entry in sorted(store.glob("*")) if shard_of(entry) == safe_name(shard.name)]
    manifests = {entry: manifest for entry in entries if (manifest := read_manifest(entry)) is not None}
    for manifest in manifests.values():
        if manifest["files"] == seen:
            return str(manifest["content"])
    with _explain_read_errors(shard):
        content = content_digest(shard.files)
    for entry, manifest in manifests.items():
        if manifest["content"] == content:  # copied or touched, but the same
            _note_files(entry, {**manifest, "files": seen})
    return content


def _seen(shard: SourceShard, store: Path) -> Stamps:
    with _explain_read_errors(shard):
        return stamps(shard.files, store)


@contextlib.contextmanager
def _explain_read_errors(shard: SourceShard) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename or shard.root / shard.name
        raise SourceError(f"{name} is missing or can't be read ({error.strerror})") from None


def _note_files(entry: Path, manifest: dict[str, Any]) -> None:
    """Record how the files look now; if that fails, they are read again next time."""
    with contextlib.suppress(OSError, StoreError), locked(lock_of(entry), wait=False) as ours:
        if ours:
            write_json(entry / MANIFEST, manifest)


def is_ours(path: Path) -> bool:
    """Return whether a store made `path`, an entry, a partial one or a lock, judging by its name and content."""
    match = NAME.fullmatch(path.name)
    if match is None or path.is_symlink():
        return False
    if match["ending"] == LOCK:
        return path.is_file() and path.stat().st_size == 0
    # Empty if killed before the marker was written.
    return path.is_dir() and ((path / MARKER).is_file() or not any(path.iterdir()))


def remove_folder(folder: Path) -> None:
    """Remove an entry's folder, its marker last, so that the rest of an interrupted removal is still recognised.

    Raises:
        StoreError: see `require_ours`; nothing was removed.
    """
    require_ours(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MARKER):
        path.unlink()
    folder.rmdir()


def require_ours(path: Path) -> None:
    """Raise StoreError if `path` must not be removed: no store made it, or somebody put a folder into it."""
    if not is_ours(path) or (path.is_dir() and any(one.is_dir() and not one.is_symlink() for one in path.iterdir())):
        raise StoreError(
            f"{path} is not removed, because vla_ros did not make it or it was changed since. Move it away, or "
            f"{ELSEWHERE}"
        )
