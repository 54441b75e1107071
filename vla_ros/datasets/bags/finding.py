# SPDX-License-Identifier: Apache-2.0
"""Which bags a path means: itself, or those in a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from vla_ros.datasets.bags.storage.files import METADATA, are_one_recording, is_storage_file, storage_files
from vla_ros.datasets.bags.writer import PARTIAL
from vla_ros.datasets.errors import BagError

logger = logging.getLogger(__name__)


def absolute(path: str | Path) -> Path:
    """Return a path whose name and parent are those of the folder or file it means: not so for `.` and `a/..`.

    Links stay, for a bag is called as its link is.
    """
    return Path(path).resolve() if ".." in Path(path).parts else Path(path).absolute()


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """Return the bags that `paths` mean, by absolute path: each a bag's folder, a storage file, or a folder of either.

    A bag's folder has a metadata.yaml, or only the storage files of one recording, whose recorder was killed. Loose
    .mcap and .db3 files of several recordings in a folder are a bag each.

    Raises:
        BagError: a path does not exist, or holds no bag.
    """
    bags: list[Path] = []
    for path in map(absolute, paths):
        if not path.exists():
            raise BagError(f"bag {path} does not exist")
        found = _here(path) or _inside(path)
        if not found:
            raise BagError(
                f"{path} is no bag and holds none: a bag is a folder that `ros2 bag record` made, or an .mcap or .db3 "
                "file"
            )
        bags += found
    return _without_repeats(bags)


def _here(path: Path) -> list[Path]:
    """The bag that `path` is, or those whose files lie in it loosely."""
    if path.is_file():
        return [path] if is_storage_file(path) else []
    if path.name.endswith(PARTIAL):
        inner = path / path.name.removesuffix(PARTIAL)
        return _here(inner) if inner.is_dir() else []
    if (path / METADATA).is_file():
        return [path]
    files = storage_files(path)
    return [path] if files and are_one_recording(files) else files


def _inside(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    found: list[Path] = []
    for child in sorted(child for child in path.iterdir() if child.is_dir()):
        bags = _here(child)
        if not bags and child.name.endswith(PARTIAL):
            logger.warning("%s is an unfinished recording without a message and is left out", child)
        found += bags
    return found


def _without_repeats(paths: Iterable[Path]) -> list[Path]:
    """Each bag once; a storage file of a bag that is there as a folder is a part of that."""
    found = {path.resolve(): path for path in paths}
    return [path for resolved, path in found.items() if resolved.parent not in found]
