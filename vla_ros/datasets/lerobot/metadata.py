# SPDX-License-Identifier: Apache-2.0
"""The metadata of LeRobot data sets of versions 2 and 3 (huggingface/lerobot, src/lerobot/datasets), without LeRobot.

Version 2 has a parquet file and videos for each episode, and lists episodes and tasks as JSON lines; version 3 joins
many episodes in a file, and lists them in parquet. Everything after the metadata is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import string
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.mapping import read_json
from vla_ros.files import is_plain_name
from vla_ros.grid import Grid

if TYPE_CHECKING:
    import pyarrow  # imported on use: it is an extra

VERSION = "v3.0"
SEPARATE = ("v2.0", "v2.1")  # a file for each episode; 2.1 only added statistics
INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
EPISODES = Path("meta/episodes")
TASK_LINES, EPISODE_LINES = Path("meta/tasks.jsonl"), Path("meta/episodes.jsonl")
FILES_PER_CHUNK = 1000
PATHS = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
_SEPARATE_PATHS = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
# Our own column of meta/episodes: the recorded episode, of which several in the data set may be pieces.
SOURCE = "vla_ros/source"

_POINTER = b"version https://git-lfs.github.com/spec"


@dataclasses.dataclass(frozen=True)
class StoredEpisode:
    """Where an episode is stored; `videos` has the file and the time of the first frame [s] for each video feature."""

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    tasks: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a data set says of itself: `features` are name -> (dtype, shape), `tasks` number -> text.

    `depth` are the video and image features that are depth maps; `files` are those of the metadata that name tasks.
    """

    rate_hz: Fraction
    features: Mapping[str, tuple[str, tuple[int, ...]]]
    tasks: Mapping[int, str]
    episodes: Sequence[StoredEpisode]
    depth: frozenset[str]
    files: tuple[Path, ...]


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of the data set in `folder`; SourceError if it is damaged, or of another version."""
    info = _read_info(folder)
    try:
        features = {
            name: (str(feature["dtype"]), tuple(int(size) for size in feature["shape"]))
            for name, feature in info["features"].items()
        }
        depth = frozenset(name for name, feature in info["features"].items() if _is_depth(feature))
        rate_hz = Grid(info["fps"]).rate_hz
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{folder / INFO} is damaged: {error!r}") from None
    videos = [name for name, (kind, _) in features.items() if kind == "video"]
    for name in videos:
        if not is_plain_name(name):
            raise SourceError(f"{folder / INFO} has the video {name!r}, which would be read outside of its folder")
    separate = info["codebase_version"] in SEPARATE
    tasks_file = TASK_LINES if separate else TASKS
    try:
        if separate:
            task_rows, rows = (_read_lines(folder / file) for file in (TASK_LINES, EPISODE_LINES))
        else:
            task_rows = read_table(folder / TASKS).to_pylist()
            rows = [row for file in sorted((folder / EPISODES).glob("*/*.parquet")) for row in _episode_rows(file)]
        # pandas gives an index without a name the name __index_level_0__.
        tasks = {
            int(row["task_index"]): str(row["task"] if "task" in row else row["__index_level_0__"]) for row in task_rows
        }
        files = _Files(folder, info, separate)
        episodes = [_episode(files, row, videos) for row in sorted(rows, key=lambda row: row["episode_index"])]
    except KeyError as error:
        raise SourceError(f"the metadata of {folder} are damaged: they have no {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"the metadata of {folder} are damaged: {error}") from None
    repeated = [one.index for one, other in itertools.pairwise(episodes) if one.index == other.index]
    if repeated:
        raise SourceError(f"the metadata of {folder} list episode {repeated[0]} twice; delete one of the entries")
    if not episodes:
        where = EPISODE_LINES if separate else EPISODES
        raise SourceError(f"{folder} has no episode in {where}; was its recording finished (`finalize`)?")
    return Metadata(rate_hz, features, tasks, episodes, depth, (folder / INFO, folder / tasks_file))


def read_table(
    path: Path, columns: Sequence[str] | None = None, episodes: Sequence[int] | None = None
) -> pyarrow.Table:
    """Read a parquet file, or only the rows of some episodes; raise SourceError if it can't be read."""
    import pyarrow.parquet

    filters = None if episodes is None else [("episode_index", "in", list(episodes))]
    try:
        return pyarrow.parquet.read_table(path, columns=columns, filters=filters, use_threads=False, partitioning=None)
    except FileNotFoundError:
        raise missing(path) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def missing(path: Path) -> SourceError:
    """Return the error for a file that the metadata name."""
    return SourceError(f"{path} is missing; copy the data set again, or correct the paths in {INFO}")


def damaged(path: Path, error: Exception) -> SourceError:
    """Return the error for a file that can't be read; git leaves a pointer where it has not fetched a large file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return SourceError(f"{path} is only a pointer of Git LFS; run `git lfs pull` in the data set")
    first_line = (str(error).splitlines() or [repr(error)])[0]  # pyarrow goes on with the schema
    return SourceError(f"{path} is damaged or can't be read: {first_line}")


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    info = read_json(path, f"{folder} is not a LeRobot data set: it has no {INFO}")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in (*SEPARATE, VERSION):
        raise SourceError(
            f"{path} has codebase_version {version!r}, but only {', '.join(SEPARATE)} and {VERSION} are supported; "
            "convert it with LeRobot's scripts convert_dataset_..."
        )
    return dict(info)


def _is_depth(feature: Mapping[str, Any]) -> bool:
    stated: list[Mapping[str, Any]] = [feature, *(feature.get(key) or {} for key in ("info", "video_info"))]
    return any(one.get(key) for one in stated for key in ("video.is_depth_map", "is_depth_map"))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def _episode_rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(file).names
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(file, error) from None
    return list(read_table(file, [name for name in names if not name.startswith("stats/")]).to_pylist())


class _Files:
    """Where a data set has its files: info.json's paths, or else those that its version has.

    Raises:
        SourceError: a path has another placeholder than its version has.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any], separate: bool) -> None:
        self.separate = separate
        self._folder = folder
        self._chunk = int(info.get("chunks_size") or FILES_PER_CHUNK)
        usual = _SEPARATE_PATHS if separate else PATHS
        self._paths = {kind: str(info.get(kind) or path) for kind, path in usual.items()}
        for kind, path in self._paths.items():
            names = [name for _, name, _, _ in string.Formatter().parse(path) if name is not None]
            known = {name for _, name, _, _ in string.Formatter().parse(usual[kind])}
            if not set(names) <= known or Path(path).is_absolute() or ".." in Path(path).parts:
                raise SourceError(f"{folder / INFO} has {kind} {path!r}; must be a path as {usual[kind]!r}")

    def find(self, kind: str, row: Mapping[str, Any], prefix: str, video_key: str = "") -> Path:
        """Return the file of an episode, whose place in version 3 is in columns that begin with `prefix`."""
        if self.separate:
            index = _whole(row, "episode_index")
            numbers = {"episode_index": index, "episode_chunk": index // self._chunk}
        else:
            numbers = {key: _whole(row, f"{prefix}/{key}") for key in ("chunk_index", "file_index")}
        return self._folder / self._paths[kind].format(**numbers, video_key=video_key)


def _finite(row: Mapping[str, Any], column: str) -> float:
    value = row[column]
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"column {column!r} of episode {row['episode_index']} is {value}, not a number; tools that edit data sets "
            "leave such gaps: merge or export it again"
        )
    return float(value)


def _whole(row: Mapping[str, Any], column: str) -> int:
    value = _finite(row, column)
    if value != int(value):
        raise ValueError(f"column {column!r} of episode {row['episode_index']} is {value}, not a whole number")
    return int(value)


def _episode(files: _Files, row: Mapping[str, Any], videos: Sequence[str]) -> StoredEpisode:
    index = _whole(row, "episode_index")

    def video(name: str) -> tuple[Path, float]:
        from_s = 0.0 if files.separate else _finite(row, f"videos/{name}/from_timestamp")
        return files.find("video_path", row, f"videos/{name}", name), from_s

    return StoredEpisode(
        index=index,
        length=_whole(row, "length"),
        data=files.find("data_path", row, "data"),
        videos={name: video(name) for name in videos},
        tasks=tuple(str(task) for task in row.get("tasks") or ()),
        source=str(row.get(SOURCE) or index),
    )
