# SPDX-License-Identifier: Apache-2.0
"""List the training files of an RLDS data set: which data set it is, in which format, and what of it is missing.

TensorFlow Datasets calls them NAME-train.tfrecord-00000-of-01024, or .array_record. NAME and dataset_info.json say
which data set they are; the folder does not, because people rename it: droid/1.0.1 holds droid_101-train....
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.rlds.catalogue import DATASETS, FIRST_BRIDGE, NAMES
from vla_ros.schema import suggestion

INFO = "dataset_info.json"
TFRECORD, ARRAY_RECORD = "tfrecord", "array_record"
_SHARD = re.compile(
    r"(?P<name>.+)-(?P<split>\w+)\.(?P<format>tfrecord|array_record)-(?P<index>\d+)-of-(?P<count>\d+)(?P<ending>.*)"
)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a training split that are there."""

    folder: Path  # of the version
    name: str  # in the files' names
    dataset: str  # a key of `DATASETS`
    file_format: str  # `TFRECORD` or `ARRAY_RECORD`
    files: tuple[Path, ...]
    records: Mapping[Path, int]  # how many each of them has, if dataset_info.json says so
    notes: tuple[str, ...]  # what is not read


def list_shards(folder: Path) -> Listing:
    """List the training split in the folder of a data set's version, or in the only version below `folder`.

    Raises:
        SourceError: there are no such files, they are of several data sets or of an unknown one.
    """
    folder = _version_folder(folder)
    matches = {file: match for file in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(file.name))}
    unfinished = [file for file, match in matches.items() if match["ending"] or not file.is_file()]  # or a broken link
    whole = {file: match for file, match in matches.items() if match["split"] == "train" and file not in unfinished}
    formats = {match["format"] for match in whole.values()}
    file_format = TFRECORD if TFRECORD in formats else ARRAY_RECORD  # TFDS may keep a copy in the other format
    train = {file: match for file, match in whole.items() if match["format"] == file_format}
    kinds = sorted({(match["name"], int(match["count"])) for match in train.values()})
    if not kinds:
        raise SourceError(f"{folder} holds only unfinished copies, such as {unfinished[0].name}; copy them again")
    if len(kinds) > 1:
        found = " and ".join(f"{name}-train of {count} shards" for name, count in kinds)
        raise SourceError(f"{folder} mixes {found}; keep each data set's version in a folder of its own")
    [(name, count)] = kinds
    info = _read_info(folder)
    dataset = _dataset(folder, name, str(info.get("name", name)))
    here = {file: int(match["index"]) for file, match in train.items()}
    lengths = _lengths(info, count)
    others = Counter(match["split"] for match in matches.values() if not match["ending"] and match["split"] != "train")
    notes = [_missing(folder, name, sorted(here.values()), count, lengths)] if len(here) < count else []
    if unfinished:
        notes.append(f"{folder}: not read are {len(unfinished)} unfinished copies, such as {unfinished[0].name}")
    if others:
        splits = ", ".join(f"{split} ({number} shards)" for split, number in sorted(others.items()))
        notes.append(f"{folder}: not read is {splits}; held-out episodes are taken from train")
    records = {file: lengths[index] for file, index in here.items()} if lengths else {}
    return Listing(folder, name, dataset, file_format, tuple(train), records, tuple(notes))


def is_shard(file: Path) -> bool:
    """Return whether a file is named as one of an RLDS data set."""
    return _SHARD.fullmatch(file.name) is not None


def has_shards(folder: Path) -> bool:
    """Return whether training files are in `folder` itself, at any stage of their copying."""
    return any((match := _SHARD.fullmatch(file.name)) and match["split"] == "train" for file in folder.iterdir())


def versions_below(folder: Path) -> list[Path]:
    """Return the folders with training files that are at most two levels below `folder`."""
    depths = ("[!.]*", "[!.]*/[!.]*")  # without the store, whose entries are named after the files
    found = {file.parent for depth in depths for file in folder.glob(f"{depth}/*-train.*-of-*")}
    return sorted(path for path in found if has_shards(path))


def _version_folder(folder: Path) -> Path:
    wanted = "the folder of a data set's version, such as fractal20220817_data/0.1.0"
    if not folder.is_dir():
        raise SourceError(f"{folder} is {'one file' if folder.is_file() else 'not a folder'}; must be {wanted}")
    if has_shards(folder):
        return folder
    below = versions_below(folder)
    if len(below) == 1:
        return below[0]
    found = ""
    if below:
        found = f"; it has {', '.join(str(path.relative_to(folder)) for path in below)}: list each as a source"
    elif splits := sorted({match["split"] for file in folder.iterdir() if (match := _SHARD.fullmatch(file.name))}):
        found = f"; it has only the split {' and '.join(splits)}"
    raise SourceError(f"{folder} holds no NAME-train.tfrecord-00000-of-00001; must be {wanted}{found}")


def _read_info(folder: Path) -> dict[str, Any]:
    """Return dataset_info.json; an empty one if it is missing or damaged, as the files' names are enough."""
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _dataset(folder: Path, name: str, by_info: str) -> str:
    known_names = {*DATASETS, *NAMES} - {FIRST_BRIDGE}
    known = {NAMES.get(each, each) for each in (name, by_info)} & DATASETS.keys()
    if len(known) > 1:
        raise SourceError(f"{folder}: the files are called {name}, but {INFO} says {by_info}; which one is it?")
    if not known:
        raise SourceError(
            f"{folder}: the data set {name!r} is unknown; {suggestion(name, sorted(known_names))}. docs/data.md "
            "explains how to add one"
        )
    return known.pop()


def _lengths(info: dict[str, Any], count: int) -> list[int]:
    """Return how many records each of the `count` training files has; empty if dataset_info.json does not say."""
    try:
        [train] = [split for split in info["splits"] if split["name"] == "train"]
        lengths = [int(length) for length in train["shardLengths"]]
    except (KeyError, TypeError, ValueError):
        return []
    return lengths if len(lengths) == count else []


def _missing(folder: Path, name: str, here: list[int], count: int, lengths: list[int]) -> str:
    """Return which shards are missing, and how many episodes those that are there hold, if that is known."""
    missing = sorted(set(range(count)) - set(here))
    episodes = f", with {sum(lengths[index] for index in here)} of {sum(lengths)} episodes" if lengths else ""
    return (
        f"{folder}: {len(here)} of {count} shards of {name} are there{episodes}; only these are read. Missing: "
        f"{_ranges(missing)}"
    )


def _ranges(numbers: list[int]) -> str:
    """Return sorted numbers as the first few runs, such as `00002-00004, 00007`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [f"{first:05d}" if first == last else f"{first:05d}-{last:05d}" for first, last in runs]
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more runs" if len(texts) > 4 else "")
