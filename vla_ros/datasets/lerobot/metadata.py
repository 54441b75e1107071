# SPDX-License-Identifier: Apache-2.0
"""The metadata of LeRobot data sets of version 3 (huggingface/lerobot, src/lerobot/datasets), without LeRobot.

LeRobot does not say what the columns of a data set mean. meta/vla_ros.json does, beside its metadata: `vla convert`
writes the file, and for other data sets a person does (docs/data.md).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros import actions, schema
from vla_ros.datasets.errors import SourceError
from vla_ros.grid import Grid

if TYPE_CHECKING:
    import pyarrow  # imported on use: it is an extra

VERSION = "v3.0"
INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
EPISODES = Path("meta/episodes")
MAPPING = Path("meta/vla_ros.json")
FILES_PER_CHUNK = 1000
PATHS = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
# Our own column of meta/episodes: the recorded episode, of which several in the data set may be pieces.
SOURCE = "vla_ros/source"

Floats = NDArray[np.float64]


def _from_matrix_columns(values: Floats) -> Rotation:
    first, second = values[:, :3], values[:, 3:]
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=2))


# How many columns there are, and how to read them.
_ROTATIONS: dict[str, tuple[int, Callable[[Floats], Rotation]]] = {
    "quaternion_xyzw": (4, Rotation.from_quat),
    "euler_xyz": (3, functools.partial(Rotation.from_euler, "xyz")),
    "rotation_vector": (3, Rotation.from_rotvec),
    "matrix_columns": (6, _from_matrix_columns),
}


@dataclasses.dataclass(frozen=True)
class PoseColumns:
    """The tool's pose in the robot's base frame.

    Attributes:
        position: columns of `feature`, in m.
        rotation: columns of `feature`.
        rotation_as: a quaternion x y z w, fixed-axis xyz Euler angles [rad], a rotation vector [rad], or the first two
            columns of the rotation matrix, one after the other.
    """

    feature: str
    position: tuple[int, int, int]
    rotation: tuple[int, ...]
    rotation_as: Literal["quaternion_xyzw", "euler_xyz", "rotation_vector", "matrix_columns"]

    def __post_init__(self) -> None:
        expected = _ROTATIONS[self.rotation_as][0]
        if len(self.rotation) != expected:
            raise SourceError(
                f"pose.rotation has {len(self.rotation)} columns of {self.feature}; {self.rotation_as} needs {expected}"
            )

    def poses(self, values: Floats) -> Floats:
        """Return poses (S, 7), position in m and quaternion x y z w, from the feature (S, D).

        Raises:
            ValueError: a rotation is invalid or not finite.
        """
        rotation = values[:, self.rotation]
        if not np.isfinite(rotation).all():
            raise ValueError("a rotation is not a finite number")
        rotations = _ROTATIONS[self.rotation_as][1](rotation)
        return np.concatenate([values[:, self.position], rotations.as_quat()], axis=1)


@dataclasses.dataclass(frozen=True)
class TwistColumns:
    """The commanded twist in the base frame during the step: six columns of `feature`, in m/s and rad/s."""

    feature: str
    columns: tuple[int, int, int, int, int, int]


@dataclasses.dataclass(frozen=True)
class OpeningColumn:
    """The gripper's opening: a column of `feature`, and its values when closed and when open."""

    feature: str
    column: int
    closed: float = 0.0
    open: float = 1.0

    def openings(self, values: Floats) -> Floats:
        """Return openings (S,) in [0, 1] from the feature (S, D)."""
        return actions.opening_from_value(values[:, self.column], self.closed, self.open)


@dataclasses.dataclass(frozen=True)
class FeatureMapping:
    """What the features of a data set mean.

    Without the commanded twist, labels are the measured motion of `pose` from one step to the next.
    """

    cameras: dict[str, str]  # our name -> the feature
    gripper: OpeningColumn  # commanded
    twist: TwistColumns | None = None
    pose: PoseColumns | None = None
    opening: OpeningColumn | None = None  # measured

    def __post_init__(self) -> None:
        if self.twist is None and self.pose is None:
            raise SourceError("twist and pose are both missing; labels are made from one of them")

    def columns(self) -> dict[str, int]:
        """Return the numeric features that are needed, and how many columns each must have at least."""
        uses = [(one.feature, one.column) for one in (self.gripper, self.opening) if one is not None]
        if self.twist is not None:
            uses.append((self.twist.feature, max(self.twist.columns)))
        if self.pose is not None:
            uses.append((self.pose.feature, max(*self.pose.position, *self.pose.rotation)))
        return {name: 1 + max(last for other, last in uses if other == name) for name, _ in uses}


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
    """What a data set says of itself: `features` are name -> (dtype, shape), `tasks` number -> text."""

    rate_hz: Fraction
    features: Mapping[str, tuple[str, tuple[int, ...]]]
    tasks: Mapping[int, str]
    episodes: Sequence[StoredEpisode]


def load_mapping(folder: Path) -> FeatureMapping:
    """Read the feature mapping of the data set in `folder`; SourceError if it is missing or malformed."""
    path = folder / MAPPING
    data = _read_json(
        path,
        f"{path} is missing: LeRobot does not say what the columns of a data set mean; docs/data.md says what to "
        "write there",
    )
    try:
        return schema.parse(FeatureMapping, data, str(path), SourceError)
    except SourceError as error:
        text = str(error)
        raise SourceError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of the data set in `folder`; SourceError if it is damaged, or not of version 3."""
    info = _read_info(folder)
    try:
        features = {
            name: (str(feature["dtype"]), tuple(int(size) for size in feature["shape"]))
            for name, feature in info["features"].items()
        }
        rate_hz = Grid(info["fps"]).rate_hz
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{folder / INFO} is damaged: {error!r}") from None
    videos = [name for name, (kind, _) in features.items() if kind == "video"]
    try:
        # pandas gives an index without a name the name __index_level_0__.
        rows = read_table(folder / TASKS).to_pylist()
        tasks = {
            int(row["task_index"]): str(row["task"] if "task" in row else row["__index_level_0__"]) for row in rows
        }
        rows = [row for file in sorted((folder / EPISODES).glob("*/*.parquet")) for row in _episode_rows(file)]
        episodes = [_episode(folder, row, videos) for row in sorted(rows, key=lambda row: row["episode_index"])]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the metadata of {folder} are damaged: {error!r}") from None
    if not episodes:
        raise SourceError(f"{folder} has no episode in {EPISODES}; was its recording finished (`finalize`)?")
    return Metadata(rate_hz, features, tasks, episodes)


def read_table(
    path: Path, columns: Sequence[str] | None = None, episodes: Sequence[int] | None = None
) -> pyarrow.Table:
    """Read a parquet file, or only the rows of some episodes; raise SourceError if it can't be read."""
    import pyarrow.parquet

    filters = None if episodes is None else [("episode_index", "in", list(episodes))]
    try:
        return pyarrow.parquet.read_table(path, columns=columns, filters=filters, use_threads=False, partitioning=None)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path} is damaged or can't be read: {error}") from None


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    info = _read_json(path, f"{folder} is not a LeRobot data set: it has no {INFO}")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != VERSION:
        raise SourceError(
            f"{path} has codebase_version {version!r}, but only {VERSION} is supported. LeRobot converts older data "
            "sets: python -m lerobot.scripts.convert_dataset_v21_to_v30"
        )
    for name, expected in PATHS.items():
        if info.get(name, expected) not in (expected, None):
            raise SourceError(f"{path} has {name} {info[name]!r}; must be {expected!r}")
    return dict(info)


def _read_json(path: Path, if_missing: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(if_missing) from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} can't be read as JSON: {error}") from None


def _episode_rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(file).names
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{file} is damaged or can't be read: {error}") from None
    return list(read_table(file, [name for name in names if not name.startswith("stats/")]).to_pylist())


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
