# SPDX-License-Identifier: Apache-2.0
"""List what is decoded beside demonstrations, and remove what is stale.

  vla store bags/                  the decoded demonstrations beside the bags in a folder
  vla store bags/ --clean          remove what no run will use again
  vla store bags/ --clean --all    remove all of it: the next run decodes the bags anew

Stale is an entry whose recording was changed or removed, that another version of vla_ros or of its libraries made, or
that a killed run left half done. Entries in use are not touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.store.entry import read_manifest
from vla_ros.datasets.store.fingerprint import content_digest, reader_digest, stamps
from vla_ros.datasets.store.lock import exclusive, is_held
from vla_ros.datasets.store.names import LOCK, PARTIAL, is_ours, lock_of, partial_of, remove_folder, require_ours
from vla_ros.datasets.store.store import STORE_NAME

CURRENT, IN_WORK = "current", "being made"
KEPT_STATES = (CURRENT, IN_WORK)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder (or what is left of one) in a store: what it was made of, its size, and why it is stale if it is."""

    path: Path
    name: str
    state: str
    episodes: int
    frames: int
    size_bytes: int

    @property
    def stale(self) -> bool:
        return self.state not in KEPT_STATES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla store`."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a folder of demonstrations, or a store (data.store)"
    )
    parser.add_argument("--clean", action="store_true", help="remove the stale entries")
    parser.add_argument("--all", action="store_true", help="with --clean: remove the others too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the list as JSON too")


def run(args: argparse.Namespace) -> int:
    """List the entries of the stores at `args.paths`, and clean them if asked to."""
    if args.all and not args.clean:
        raise StoreError("--all is for --clean: it says which entries to remove")
    stores = find_stores(args.paths)
    if not stores:
        raise StoreError(
            f"there is no store at {', '.join(map(str, args.paths))}: `vla fit` makes {STORE_NAME} beside the "
            "demonstrations that it reads"
        )
    found = [entry for store in stores for entry in entries(store)]
    show(found, Console())
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in found]
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    if args.clean:
        removed = [entry for entry in found if (entry.stale or args.all) and remove(entry)]
        print(f"removed {len(removed)} entries, {_size(sum(entry.size_bytes for entry in removed))}")
    return 0


def find_stores(paths: Sequence[Path]) -> list[Path]:
    """Return the stores that `paths` mean: themselves, inside them or their folders, or beside them."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise StoreError(f"{path} is no folder")
        inside = [path / STORE_NAME, *(child / STORE_NAME for child in sorted(path.iterdir()) if child.is_dir())]
        itself = [path] if path.name == STORE_NAME or any(map(is_ours, path.iterdir())) else []
        for store in itself or [store for store in inside if store.is_dir()] or [path.absolute().parent / STORE_NAME]:
            if store.is_dir():
                found[store.resolve()] = store
    return list(found.values())


def entries(store: Path) -> Iterator[Entry]:
    """Yield the entries of a store, by name; other things in its folder are passed over."""
    for path in sorted(filter(is_ours, store.iterdir())):
        if path.name.endswith(LOCK):
            if not is_held(path) and not partial_of(path).exists():
                yield Entry(path, path.name, "left by a killed run", 0, 0, 0)
        else:
            yield _entry(path, store)


def remove(entry: Entry) -> bool:
    """Remove an entry; False where a process is at work on it. Processes that have it open keep what they have.

    Raises:
        StoreError: it is not one that a store made, or was changed since.
    """
    require_ours(entry.path)
    with exclusive(lock_of(entry.path), wait=False) as mine:
        if mine and entry.path.is_dir():
            # Under another name first: an entry must never be there in part.
            doomed = partial_of(entry.path)
            if doomed != entry.path:
                if doomed.exists():
                    remove_folder(doomed)
                entry.path.rename(doomed)
            remove_folder(doomed)
        return mine


def show(found: Sequence[Entry], console: Console) -> None:
    """Print entries as a table with a line of totals."""
    table = Table("entry", "state", "episodes", "frames", "size")
    for entry in found:
        style = "yellow" if entry.stale else ""
        numbers = (str(entry.episodes), str(entry.frames), _size(entry.size_bytes))
        table.add_row(escape(entry.path.name), entry.state, *numbers, style=style)
    console.print(table)
    stale = [entry for entry in found if entry.stale]
    total, wasted = (_size(sum(entry.size_bytes for entry in part)) for part in (found, stale))
    console.print(f"{len(found)} entries, {total}; {len(stale)} of them stale, {wasted}")


def _entry(path: Path, store: Path) -> Entry:
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    if path.name.endswith(PARTIAL):
        held = is_held(lock_of(path))
        return Entry(path, path.name, IN_WORK if held else "left by a killed run", 0, 0, size)
    manifest = read_manifest(path)
    if manifest is None:
        return Entry(path, path.name, "damaged, or no entry of this version", 0, 0, size)
    counts = len(manifest["episodes"]), manifest["frames"]
    return Entry(path, manifest["name"], _state(manifest, store), *counts, size)


def _state(manifest: dict, store: Path) -> str:
    if manifest["reader"] != reader_digest():
        return "made by another version"
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
