# SPDX-License-Identifier: Apache-2.0
"""Open a recorded bag, whoever wrote it and however it ended: find its storage files, with or without metadata.yaml.

A file that can't be opened is left out and said in words: `Recording.damage`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.storage.entries import Container, Damage
from vla_ros.datasets.bags.storage.files import (
    METADATA,
    Metadata,
    listed_files,
    open_file,
    parse_metadata,
    storage_files,
)
from vla_ros.datasets.bags.writer import PARTIAL
from vla_ros.datasets.errors import BagError, unreadable


@contextlib.contextmanager
def open_bag(path: str | Path) -> Iterator[Recording]:
    """Open a rosbag2 bag: its folder (MCAP or sqlite3, compressed or not, split or not), or one storage file.

    A folder without metadata.yaml, or files that are cut off, are read up to where they are whole; `damage` tells.

    Raises:
        BagError: it is not there, empty, or nothing of it can be read; or the disk or its permissions don't let it.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            files, metadata, damage = _open_files(path, stack)
        except OSError as error:
            raise unreadable(path, error) from None
        metadata = metadata or _own_metadata(files)
        count = sum(len(file.entries) for file in files)
        if count == 0:
            lost = f" ({'; '.join(damage)})" if damage else "; were the publishers running?"
            raise BagError(f"bag {path} is empty: no message was recorded, or none reached the disk{lost}")
        if metadata is not None and (metadata.messages or 0) > count:
            damage.append(f"{METADATA} counts {metadata.messages} messages, {count} are there")
        yield Recording(path, files, metadata.custom_data if metadata else {}, damage)


def _open_files(path: Path, stack: contextlib.ExitStack) -> tuple[list[Container], Metadata | None, list[str]]:
    """Open the storage files of a bag until `stack` ends; return them, its metadata, and what is damaged."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vla_bag_")))
    paths, metadata, damage = _contents(path)
    files: list[Container] = []
    for number, file_path in enumerate(paths):
        (scratch / str(number)).mkdir()
        try:
            file = open_file(file_path, scratch / str(number))
        except Damage as error:
            damage.append(f"{file_path.name}: {error}")
            continue
        stack.callback(file.close)
        files.append(file)
        damage += [f"{file_path.name}: {text}" for text in file.damage]
    return files, metadata, damage


def _contents(path: Path) -> tuple[list[Path], Metadata | None, list[str]]:
    """Return the storage files of a bag, its metadata where it has any, and what is wrong so far."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.is_file():
        return [path], None, []
    inner = path / path.name.removesuffix(PARTIAL)  # of a recorder of ours that was killed
    if path.name.endswith(PARTIAL) and inner.is_dir():
        path = inner
    damage: list[str] = []
    missing: list[str] = []
    metadata = None
    if (path / METADATA).is_file():
        try:
            metadata = parse_metadata((path / METADATA).read_text(errors="replace"))
        except Damage as error:
            damage.append(f"{METADATA} is damaged ({error}); it is not needed")
    else:
        damage.append(f"it has no {METADATA}: its recorder was killed or is still running; what is on the disk is used")
    if metadata is None or not metadata.files:
        files = storage_files(path)
    else:
        files, missing = listed_files(path, metadata)
    damage += [f"{name}, which {METADATA} lists, is not there" for name in missing]
    if not files:
        listed = f"; {METADATA} lists {', '.join(missing)}. Are the files renamed? Then delete {METADATA}"
        raise BagError(f"{path} is no bag: it holds no .mcap or .db3 file{listed if missing else ''}")
    return files, metadata, damage


def _own_metadata(files: Sequence[Container]) -> Metadata | None:
    """Metadata of a bag without metadata.yaml: some recorders write it into the storage, too, before anything else."""
    for file in files:
        if file.metadata:
            with contextlib.suppress(Damage):
                return dataclasses.replace(parse_metadata(file.metadata), messages=None)
    return None
