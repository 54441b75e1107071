# SPDX-License-Identifier: Apache-2.0
"""Write episodes as a LeRobot data set of version 3, which LeRobot and `lerobot_shards` read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from vla_ros.contract import ARM_AXES
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.layout import Layout, Opening, Pose, Twist, save_layout
from vla_ros.datasets.lerobot.metadata import (
    EPISODES_PATH,
    FILES_IN_A_CHUNK,
    INFO,
    PATHS,
    SOURCE,
    STATS,
    TASKS,
    VERSION,
)
from vla_ros.datasets.lerobot.stats import PictureStats, Stats, vector_stats
from vla_ros.datasets.lerobot.video import VideoFile

STATE, ACTION, PICTURES = "observation.state", "action", "observation.images."
DATA_FILE_BYTES, VIDEO_FILE_BYTES = 100 << 20, 200 << 20
_NUMBERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
            "task_index": "int64"}  # fmt: skip


class LeRobotWriter:
    """Writes a data set into `folder`, which must not exist; it is there as a whole once the context ends.

    rate_hz: of the episodes' ticks; states: names of their proprioception, in its order; robot: what recorded them

    Raises:
        SourceError: the folder exists; no episode was added; or an episode is unlike those before.
    """

    def __init__(self, folder: Path, rate_hz: Fraction, states: Sequence[str], robot: str) -> None:
        if folder.exists():
            raise SourceError(f"{folder} exists and is not overwritten; give another --output, or remove it")
        self._folder, self._partial = folder, folder.with_name(folder.name + ".partial")
        if self._partial.exists():
            raise SourceError(f"{self._partial} is left of a conversion that was killed; remove it")
        self._rate_hz, self._states, self._robot = rate_hz, tuple(states), robot
        self._cameras: dict[str, tuple[int, ...]] = {}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._numbers: dict[str, list[NDArray]] = {}
        self._pictures: dict[str, PictureStats] = {}
        self._videos: dict[str, tuple[int, VideoFile]] = {}
        self._data: tuple[int, Path, Any] | None = None
        self.frames = 0
        (self._partial / "meta").mkdir(parents=True)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close_files()
            if error is None:
                self._finish()
        finally:
            if self._partial.exists():
                shutil.rmtree(self._partial)  # made by this object

    @property
    def episodes(self) -> int:
        return len(self._rows)

    def add(self, episode: Episode) -> None:
        """Append an episode."""
        shapes = {camera: pictures.shape[1:] for camera, pictures in episode.images.items()}
        if (self._rows and shapes != self._cameras) or episode.proprioception.shape[1] != len(self._states):
            raise SourceError(
                f"{episode.source} has cameras {shapes} and {episode.proprioception.shape[1]} states; the data set has "
                f"{self._cameras} and {len(self._states)}"
            )
        self._cameras = shapes
        for command in episode.commands:
            self._tasks.setdefault(command, len(self._tasks))
        numbers = self._numbers_of(episode)
        stats: dict[str, Stats] = {name: vector_stats(_two_axes(values)) for name, values in numbers.items()}
        for name, values in numbers.items():
            self._numbers.setdefault(name, []).append(_two_axes(values))
        row = {
            "episode_index": len(self._rows),
            "tasks": list(episode.commands),
            "length": len(episode),
            SOURCE: episode.source,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(episode),
            **self._write_rows(numbers),
        }
        for camera, pictures in episode.images.items():
            row |= self._write_pictures(camera, np.asarray(pictures))
            counted = PictureStats()
            counted.add(np.asarray(pictures))
            self._pictures.setdefault(PICTURES + camera, PictureStats()).merge(counted)
            stats[PICTURES + camera] = counted.stats()
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {f"stats/{name}/{key}": value.tolist() for name, one in stats.items() for key, value in one.items()}
        self._rows.append(row)
        self.frames += len(episode)

    def _numbers_of(self, episode: Episode) -> dict[str, NDArray]:
        steps = np.arange(len(episode))
        numbers: dict[str, NDArray] = {ACTION: episode.actions.astype(np.float32)}
        if self._states:
            numbers[STATE] = np.asarray(episode.proprioception, np.float32)
        return numbers | {
            "timestamp": (steps / float(self._rate_hz)).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(episode), len(self._rows)),
            "index": self.frames + steps,
            "task_index": np.full(len(episode), self._tasks[episode.command]),
        }

    def _write_rows(self, numbers: Mapping[str, NDArray]) -> dict[str, int]:
        """Write an episode's rows as one row group, and say where."""
        columns = [_column(values) for values in numbers.values()]
        rows = pyarrow.Table.from_arrays(columns, names=list(numbers))
        if self._data is not None and self._data[1].stat().st_size >= DATA_FILE_BYTES:
            self._data[2].close()
            self._data = (self._data[0] + 1, *self._open_data(self._data[0] + 1, rows.schema))
        elif self._data is None:
            self._data = (0, *self._open_data(0, rows.schema))
        self._data[2].write_table(rows)
        return {f"data/{key}": number for key, number in _place(self._data[0]).items()}

    def _open_data(self, number: int, schema: pyarrow.Schema) -> tuple[Path, Any]:
        path = self._partial / PATHS["data_path"].format(**_place(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, pyarrow.parquet.ParquetWriter(path, schema, compression="snappy")

    def _write_pictures(self, camera: str, pictures: NDArray[np.uint8]) -> dict[str, Any]:
        """Append an episode's pictures to the camera's video, and say where they are."""
        number, video = self._videos.get(camera, (-1, None))
        if video is None or video.path.stat().st_size >= VIDEO_FILE_BYTES:
            if video is not None:
                video.close()
            number += 1
            path = self._partial / PATHS["video_path"].format(video_key=PICTURES + camera, **_place(number))
            path.parent.mkdir(parents=True, exist_ok=True)
            video = VideoFile(path, self._rate_hz, *pictures.shape[1:3])
            self._videos[camera] = (number, video)
        from_s = video.duration_s
        video.append(pictures)
        place: dict[str, Any] = {**_place(number), "from_timestamp": from_s, "to_timestamp": video.duration_s}
        return {f"videos/{PICTURES}{camera}/{key}": value for key, value in place.items()}

    def _finish(self) -> None:
        if not self._rows:
            raise SourceError(f"there is no episode to write to {self._folder}")
        self._write_metadata()
        self._partial.rename(self._folder)

    def _close_files(self) -> None:
        for _, video in self._videos.values():
            video.close()
        if self._data is not None:
            self._data[2].close()

    def _write_metadata(self) -> None:
        stats = {name: vector_stats(np.concatenate(values)) for name, values in self._numbers.items()}
        stats |= {name: pictures.stats() for name, pictures in self._pictures.items()}
        plain = {name: {key: value.tolist() for key, value in one.items()} for name, one in stats.items()}
        _write_json(self._partial / STATS, plain)
        _write_json(self._partial / INFO, self._info())
        _write_tasks(self._partial / TASKS, self._tasks)
        save_layout(self._layout(), self._partial)
        path = self._partial / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self._rows), path, compression="snappy")

    def _info(self) -> dict[str, Any]:
        features: dict[str, Any] = {ACTION: _feature("float32", [7], [*ARM_AXES, "gripper"])}
        if self._states:
            features[STATE] = _feature("float32", [len(self._states)], list(self._states))
        for camera, (height, width, channels) in self._cameras.items():
            details = {
                "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": "gbrp",
                "video.fps": _fps(self._rate_hz), "video.channels": channels, "has_audio": False, "is_depth_map": False,
            }  # fmt: skip
            shape = _feature("video", [height, width, channels], ["height", "width", "channels"])
            features[PICTURES + camera] = {**shape, "info": details}
        features |= {name: _feature(kind, [1], None) for name, kind in _NUMBERS.items()}
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "total_episodes": len(self._rows),
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_IN_A_CHUNK,
            "data_files_size_in_mb": DATA_FILE_BYTES >> 20,
            "video_files_size_in_mb": VIDEO_FILE_BYTES >> 20,
            "fps": _fps(self._rate_hz),
            "splits": {"train": f"0:{len(self._rows)}"},
            **PATHS,
            "features": features,
        }

    def _layout(self) -> Layout:
        """What the columns mean; the pose and the opening as far as all of their states are there."""
        at = {name: index for index, name in enumerate(self._states)}
        pose = opening = None
        if {"ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6))} <= at.keys():
            rotation = tuple(at[f"ee_r{index}"] for index in range(6))
            pose = Pose(STATE, (at["ee_x"], at["ee_y"], at["ee_z"]), rotation, "matrix_columns")
        if "gripper_opening" in at:
            opening = Opening(STATE, at["gripper_opening"])
        cameras = {camera: PICTURES + camera for camera in self._cameras}
        return Layout(cameras, Opening(ACTION, 6), Twist(ACTION, (0, 1, 2, 3, 4, 5)), pose, opening)


def _feature(kind: str, shape: Sequence[int], names: Sequence[str] | None) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "names": names}


def _fps(rate_hz: Fraction) -> int | float:
    return int(rate_hz) if rate_hz.denominator == 1 else float(rate_hz)


def _place(number: int) -> dict[str, int]:
    return dict(zip(("chunk_index", "file_index"), divmod(number, FILES_IN_A_CHUNK)))


def _two_axes(values: NDArray) -> NDArray:
    return values.reshape(len(values), -1)


def _column(values: NDArray) -> pyarrow.Array:
    """A column of numbers, or of lists of one length."""
    flat = pyarrow.array(values.ravel())
    return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """Write the tasks as pandas writes a table whose index they are: so LeRobot reads them."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, (kind, numpy_kind) in kinds.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    rows = pyarrow.table({"task_index": pyarrow.array(tasks.values(), pyarrow.int64()), "task": list(tasks)})
    pyarrow.parquet.write_table(rows.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_json(path: Path, data: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=4)
        file.flush()
        os.fsync(file.fileno())
