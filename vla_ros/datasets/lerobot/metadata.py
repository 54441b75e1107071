# SPDX-License-Identifier: Apache-2.0
"""The metadata of LeRobot's data sets of version 3 (huggingface/lerobot, src/lerobot/datasets), without LeRobot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from vla_ros.datasets.errors import SourceError

VERSION = "v3.0"
INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
EPISODES = Path("meta/episodes")
FILES_IN_A_CHUNK = 1000
PATHS = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
# Our own column of meta/episodes: the recorded episode that several of the data set may be pieces of.
SOURCE = "vla_ros/source"


@dataclasses.dataclass(frozen=True)
class StoredEpisode:
    """Where an episode is: `videos` has for each video feature the file and the time of its first frame [s]."""

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    tasks: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Metadata:
    """features: name -> dtype and shape; tasks: number -> text."""

    rate_hz: Fraction
    features: Mapping[str, tuple[str, tuple[int, ...]]]
    tasks: Mapping[int, str]
    episodes: Sequence[StoredEpisode]


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of a data set.

    Raises:
        SourceError: the folder is no data set of version 3, or its metadata are damaged.
    """
    info = _info(folder)
    try:
        features = {
            name: (str(feature["dtype"]), tuple(int(size) for size in feature["shape"]))
            for name, feature in info["features"].items()
        }
        rate_hz = Fraction(info["fps"]).limit_denominator(1000)
        if rate_hz <= 0:
            raise ValueError(f"fps is {info['fps']}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{folder / INFO} is damaged: {error!r}") from None
    videos = [name for name, (kind, _) in features.items() if kind == "video"]
    try:
        tasks = {int(row["task_index"]): str(_task(row)) for row in table(folder / TASKS).to_pylist()}
        rows = [row for file in sorted((folder / EPISODES).glob("*/*.parquet")) for row in _episode_rows(file)]
        episodes = [_episode(folder, row, videos) for row in sorted(rows, key=lambda row: row["episode_index"])]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the metadata of {folder} are damaged: {error!r}") from None
    if not episodes:
        raise SourceError(f"{folder} has no episode in {EPISODES}: was its recording finished (`finalize`)?")
    return Metadata(rate_hz, features, tasks, episodes)


def table(path: Path, columns: Sequence[str] | None = None, episodes: Sequence[int] | None = None) -> pyarrow.Table:
    """Read a parquet file, all of it or the rows of some episodes. Raises SourceError where it can't be read."""
    filters = None if episodes is None else [("episode_index", "in", list(episodes))]
    try:
        return pyarrow.parquet.read_table(path, columns=columns, filters=filters, use_threads=False, partitioning=None)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path} is damaged or can't be read: {error}") from None


def _info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{folder} is no data set of LeRobot: it has no {INFO}") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder / INFO} can't be read as JSON: {error}") from None
    if not isinstance(info, dict) or info.get("codebase_version") != VERSION:
        found = info.get("codebase_version") if isinstance(info, dict) else None
        raise SourceError(
            f"{folder / INFO}: codebase_version is {found!r}; read is {VERSION}. LeRobot converts older data sets: "
            "python -m lerobot.scripts.convert_dataset_v21_to_v30"
        )
    for name, expected in PATHS.items():
        if info.get(name, expected) not in (expected, None):
            raise SourceError(f"{folder / INFO}: {name} is {info[name]!r}; expected {expected!r}")
    return info


def _task(row: Mapping[str, Any]) -> Any:
    """The text of a task: pandas calls an index without a name so."""
    return row["task"] if "task" in row else row["__index_level_0__"]


def _episode_rows(file: Path) -> list[dict[str, Any]]:
    try:
        names = pyarrow.parquet.read_schema(file).names
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{file} is damaged or can't be read: {error}") from None
    return list(table(file, [name for name in names if not name.startswith("stats/")]).to_pylist())


def _episode(folder: Path, row: Mapping[str, Any], videos: Sequence[str]) -> StoredEpisode:
    def file(name: str, prefix: str, **more: str) -> Path:
        numbers = {key: int(row[f"{prefix}/{key}"]) for key in ("chunk_index", "file_index")}
        return folder / PATHS[name].format(**numbers, **more)

    index = int(row["episode_index"])
    return StoredEpisode(
        index=index,
        length=int(row["length"]),
        data=file("data_path", "data"),
        videos={
            name: (file("video_path", f"videos/{name}", video_key=name), float(row[f"videos/{name}/from_timestamp"]))
            for name in videos
        },
        tasks=tuple(str(task) for task in row["tasks"]),
        source=str(row.get(SOURCE) or index),
    )
