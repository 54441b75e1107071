# SPDX-License-Identifier: Apache-2.0
"""List and clean the decode cache: demonstrations that are stored decoded, beside the recordings.

  vla store bags/                  list the entries beside the bags in a folder
  vla store bags/ --clean          remove stale entries, which no run will use again
  vla store bags/ --clean --all    remove all entries; the next run decodes the bags again

An entry is stale if its recording was changed or removed, if it was decoded by another version of vla_ros or its
libraries, or if the run that was writing it was killed. Entries in use are not touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.store.entry import LOCK, content_digest, lock_of, partial_of, read_manifest, reader_digest, stamps
from vla_ros.datasets.store.store import STORE_NAME, is_locked, is_ours, locked, remove_folder, require_ours
from vla_ros.files import PARTIAL, write_text

CURRENT, BEING_WRITTEN = "current", "being written"


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of a store, or what is left of one: what it holds, its size, and why it is stale if it is."""

    path: Path
    name: str
    state: str
    episodes: int = 0
    frames: int = 0
    size_bytes: int = 0

    @property
    def stale(self) -> bool:
        return self.state not in (CURRENT, BEING_WRITTEN)


class Arguments(argparse.Namespace):
    paths: list[Path]
    clean: bool
    all: bool
    json: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla store`."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a folder of demonstrations, or a store (data.store)"
    )
    parser.add_argument("--clean", action="store_true", help="remove stale entries")
    parser.add_argument("--all", action="store_true", help="with --clean: remove current entries too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the list as JSON")


def run(args: Arguments) -> int:
    """List the entries of the stores at `args.paths`, and clean them if asked to."""
    if args.all and not args.clean:
        raise StoreError("--all only goes with --clean")
    stores = find_stores(args.paths)
    if not stores:
        raise StoreError(
            f"there is no store at {', '.join(map(str, args.paths))}; `vla fit` creates {STORE_NAME} beside the "
            "demonstrations that it reads"
        )
    found = [entry for store in stores for entry in list_entries(store)]
    show(found, Console())
    if args.json:
        rows = [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in found]
        write_text(args.json, json.dumps(rows, indent=2) + "\n")
    if args.clean:
        removed = [entry for entry in found if (entry.stale or args.all) and remove(entry)]
        print(f"removed {len(removed)} entries, {_size(sum(entry.size_bytes for entry in removed))}")
    return 0


def find_stores(paths: Sequence[Path]) -> list[Path]:
    """Return the stores that `paths` refer to: themselves, inside them or their folders, or beside them."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise StoreError(f"{path} is not a folder")
        inside = [path / STORE_NAME, *(child / STORE_NAME for child in sorted(path.iterdir()) if child.is_dir())]
        itself = [path] if path.name == STORE_NAME or any(map(is_ours, path.iterdir())) else []
        for store in itself or [store for store in inside if store.is_dir()] or [path.absolute().parent / STORE_NAME]:
            if store.is_dir():
                found[store.resolve()] = store
    return list(found.values())


def list_entries(store: Path) -> Iterator[Entry]:
    """Yield the entries of a store by name; other files in its folder are ignored."""
    for path in sorted(filter(is_ours, store.iterdir())):
        if not path.name.endswith(LOCK):
            yield _entry(path, store)
        elif not is_locked(path) and not partial_of(path).exists():
            yield Entry(path, path.name, "left by a killed run")


def remove(entry: Entry) -> bool:
    """Remove an entry; return False if a process is working on it. Processes that have it open keep what they read.

    Raises:
        StoreError: no store made it, or it was changed since.
    """
    require_ours(entry.path)
    with locked(lock_of(entry.path), wait=False) as ours:
        if ours and entry.path.is_dir():
            # Renamed first, so that no entry is ever there in part.
            doomed = partial_of(entry.path)
            if doomed != entry.path:
                if doomed.exists():
                    remove_folder(doomed)
                entry.path.rename(doomed)
            remove_folder(doomed)
        return ours


def show(found: Sequence[Entry], console: Console) -> None:
    """Print entries as a table, with totals below."""
    table = Table("entry", "state", "episodes", "frames", "size")
    for entry in found:
        style = "yellow" if entry.stale else ""
        numbers = (str(entry.episodes), str(entry.frames), _size(entry.size_bytes))
        table.add_row(escape(entry.path.name), entry.state, *numbers, style=style)
    console.print(table)
    stale = [entry for entry in found if entry.stale]
    total, wasted = (_size(sum(entry.size_bytes for entry in entries)) for entries in (found, stale))
    console.print(f"{len(found)} entries, {total}; {len(stale)} of them stale, {wasted}")


def _entry(path: Path, store: Path) -> Entry:
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    if path.name.endswith(PARTIAL):
        state = BEING_WRITTEN if is_locked(lock_of(path)) else "left by a killed run"
        return Entry(path, path.name, state, size_bytes=size)
    manifest = read_manifest(path)
    if manifest is None:
        return Entry(path, path.name, "damaged, or of another store version", size_bytes=size)
    return Entry(path, manifest["name"], _state(manifest, store), len(manifest["episodes"]), manifest["frames"], size)


def _state(manifest: dict[str, Any], store: Path) -> str:
    if manifest["reader"] != reader_digest():
        return "decoded by another version"
    files = [store / name for name, _, _ in manifest["files"]]
    try:
        same = stamps(files, store) == manifest["files"] or content_digest(files) == manifest["content"]
    except OSError:
        return "its recording is gone"
    return CURRENT if same else "its recording was changed"


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
