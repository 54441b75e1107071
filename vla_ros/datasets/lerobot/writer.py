# SPDX-License-Identifier: Apache-2.0
"""Write episodes as a LeRobot data set of version 3, which LeRobot and `lerobot_shards` read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from vla_ros.contract import ARM_AXES
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.mapping import MAPPING, FeatureMapping, OpeningColumn, PoseColumns, TwistColumns
from vla_ros.datasets.lerobot.metadata import EPISODES_PATH, FILES_PER_CHUNK, INFO, PATHS, SOURCE, STATS, TASKS, VERSION
from vla_ros.datasets.lerobot.video import ImageStats, Stats, VideoFile, vector_stats
from vla_ros.files import atomic_write

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
DATA_FILE_BYTES, VIDEO_FILE_BYTES = 100 << 20, 200 << 20
_NUMBERS = {"timestamp": "float32", **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")}

Array = NDArray[Any]


class LeRobotWriter:
    """Appends episodes to a data set under construction; see `create`.

    Raises:
        SourceError: an episode differs from those before in its cameras or states.
    """

    def __init__(self, folder: Path, rate_hz: Fraction, states: Sequence[str], robot: str) -> None:
        self._folder, self._rate_hz, self._states, self._robot = folder, rate_hz, tuple(states), robot
        self._cameras: dict[str, tuple[int, ...]] = {}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._numbers: dict[str, list[Array]] = {}
        self._images: dict[str, ImageStats] = {}
        self._videos: dict[str, tuple[int, VideoFile]] = {}
        self._data: tuple[int, Path, pyarrow.parquet.ParquetWriter] | None = None
        self.frames = 0

    @classmethod
    @contextlib.contextmanager
    def create(cls, folder: Path, rate_hz: Fraction, states: Sequence[str], robot: str) -> Iterator[LeRobotWriter]:
        """Write a data set to `folder`, which appears complete at the end of the context, or not at all.

        Args:
            rate_hz: of the episodes' ticks.
            states: names of their proprioception, in order.
            robot: what recorded them.

        Raises:
            SourceError: the folder exists, or no episode was added.
        """
        if folder.exists():
            raise SourceError(f"{folder} exists and is not overwritten; choose another --output, or remove it")
        with atomic_write(folder) as partial:
            writer = cls(partial, rate_hz, states, robot)
            try:
                yield writer
            finally:
                writer._close_files()
            if not writer.episodes:
                raise SourceError(f"there is no episode to write to {folder}")
            writer._write_metadata()

    @property
    def episodes(self) -> int:
        return len(self._rows)

    def add(self, episode: Episode) -> None:
        """Append an episode."""
        shapes = {camera: images.shape[1:] for camera, images in episode.images.items()}
        if (self._rows and shapes != self._cameras) or episode.proprioception.shape[1] != len(self._states):
            raise SourceError(
                f"{episode.source} has cameras {shapes} and {episode.proprioception.shape[1]} states, but the data set "
                f"has {self._cameras} and {len(self._states)}"
            )
        self._cameras = shapes
        for command in episode.commands:
            self._tasks.setdefault(command, len(self._tasks))
        numbers = self._numbers_of(episode)
        stats: dict[str, Stats] = {}
        for name, values in numbers.items():
            rows = values.reshape(len(values), -1)
            stats[name] = vector_stats(rows)
            self._numbers.setdefault(name, []).append(rows)
        row = {
            "episode_index": len(self._rows),
            "tasks": list(episode.commands),
            "length": len(episode),
            SOURCE: episode.source,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(episode),
            **self._write_rows(numbers),
        }
        for camera, mapped in episode.images.items():
            images = np.asarray(mapped)
            row |= self._write_images(camera, images)
            counted = ImageStats()
            counted.add(images)
            self._images.setdefault(IMAGES + camera, ImageStats()).merge(counted)
            stats[IMAGES + camera] = counted.stats()
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {f"stats/{name}/{key}": value.tolist() for name, one in stats.items() for key, value in one.items()}
        self._rows.append(row)
        self.frames += len(episode)

    def _numbers_of(self, episode: Episode) -> dict[str, Array]:
        steps = np.arange(len(episode))
        numbers: dict[str, Array] = {ACTION: episode.actions.astype(np.float32)}
        if self._states:
            numbers[STATE] = np.asarray(episode.proprioception, np.float32)
        return numbers | {
            "timestamp": (steps / float(self._rate_hz)).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(episode), len(self._rows)),
            "index": self.frames + steps,
            "task_index": np.full(len(episode), self._tasks[episode.command]),
        }

    def _write_rows(self, numbers: Mapping[str, Array]) -> dict[str, int]:
        """Write an episode's rows as one row group, and return where they are."""
        rows = pyarrow.Table.from_arrays([_column(values) for values in numbers.values()], names=list(numbers))
        number, path, file = self._data or (-1, None, None)
        if file is None or path is None or path.stat().st_size >= DATA_FILE_BYTES:
            if file is not None:
                file.close()
            number += 1
            path = self._new_file("data_path", number)
            file = pyarrow.parquet.ParquetWriter(path, rows.schema, compression="snappy")
            self._data = (number, path, file)
        file.write_table(rows)
        return {f"data/{key}": index for key, index in _indices(number).items()}

    def _write_images(self, camera: str, images: NDArray[np.uint8]) -> dict[str, Any]:
        """Append an episode's images to the camera's video, and return where they are."""
        number, video = self._videos.get(camera, (-1, None))
        if video is None or video.path.stat().st_size >= VIDEO_FILE_BYTES:
            if video is not None:
                video.close()
            number += 1
            path = self._new_file("video_path", number, video_key=IMAGES + camera)
            video = VideoFile(path, self._rate_hz, *images.shape[1:3])
            self._videos[camera] = (number, video)
        from_s = video.duration_s
        video.append(images)
        where: dict[str, Any] = {**_indices(number), "from_timestamp": from_s, "to_timestamp": video.duration_s}
        return {f"videos/{IMAGES}{camera}/{key}": value for key, value in where.items()}

    def _new_file(self, kind: str, number: int, **more: str) -> Path:
        path = self._folder / PATHS[kind].format(**_indices(number), **more)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _close_files(self) -> None:
        for _, video in self._videos.values():
            video.close()
        if self._data is not None:
            self._data[2].close()

    def _write_metadata(self) -> None:
        stats = {name: vector_stats(np.concatenate(values)) for name, values in self._numbers.items()}
        stats |= {name: images.stats() for name, images in self._images.items()}
        plain = {name: {key: value.tolist() for key, value in one.items()} for name, one in stats.items()}
        path = self._folder / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        for name, content in ((STATS, plain), (INFO, self._info()), (MAPPING, dataclasses.asdict(self._mapping()))):
            (self._folder / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        _write_tasks(self._folder / TASKS, self._tasks)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self._rows), path, compression="snappy")

    def _info(self) -> dict[str, Any]:
        features: dict[str, Any] = {ACTION: _feature("float32", [7], [*ARM_AXES, "gripper"])}
        if self._states:
            features[STATE] = _feature("float32", [len(self._states)], list(self._states))
        for camera, (height, width, channels) in self._cameras.items():
            details = {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "gbrp",
                "video.fps": _fps(self._rate_hz),
                "video.channels": channels,
                "has_audio": False,
                "is_depth_map": False,
            }
            shape = _feature("video", [height, width, channels], ["height", "width", "channels"])
            features[IMAGES + camera] = {**shape, "info": details}
        features |= {name: _feature(kind, [1], None) for name, kind in _NUMBERS.items()}
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "total_episodes": len(self._rows),
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_BYTES >> 20,
            "video_files_size_in_mb": VIDEO_FILE_BYTES >> 20,
            "fps": _fps(self._rate_hz),
            "splits": {"train": f"0:{len(self._rows)}"},
            **PATHS,
            "features": features,
        }

    def _mapping(self) -> FeatureMapping:
        """Return what the columns mean; pose and opening only if all of their states are there."""
        column = {name: index for index, name in enumerate(self._states)}
        pose = opening = None
        if {"ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6))} <= column.keys():
            position = (column["ee_x"], column["ee_y"], column["ee_z"])
            rotation = tuple(column[f"ee_r{index}"] for index in range(6))
            pose = PoseColumns(STATE, position, rotation, "matrix_columns")
        if "gripper_opening" in column:
            opening = OpeningColumn(STATE, column["gripper_opening"])
        cameras = {camera: IMAGES + camera for camera in self._cameras}
        twist = TwistColumns(ACTION, (0, 1, 2, 3, 4, 5))
        return FeatureMapping(cameras, OpeningColumn(ACTION, 6), twist, pose, opening)


def _feature(kind: str, shape: Sequence[int], names: Sequence[str] | None) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "names": names}


def _fps(rate_hz: Fraction) -> int | float:
    return int(rate_hz) if rate_hz.denominator == 1 else float(rate_hz)


def _indices(number: int) -> dict[str, int]:
    return dict(zip(("chunk_index", "file_index"), divmod(number, FILES_PER_CHUNK)))


def _column(values: Array) -> pyarrow.Array:
    """Return a column of numbers, or of lists of one length."""
    flat = pyarrow.array(values.ravel())
    return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """Write the tasks as the index of a pandas table, which is how LeRobot reads them."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, (kind, numpy_kind) in kinds.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    rows = pyarrow.table({"task_index": pyarrow.array(tasks.values(), pyarrow.int64()), "task": list(tasks)})
    pyarrow.parquet.write_table(rows.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)
