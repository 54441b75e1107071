# SPDX-License-Identifier: Apache-2.0
"""Read LeRobot data sets of versions 2 and 3, parquet files and mp4 videos, without LeRobot.

meta/vla_ros.json says what the columns mean (`metadata.FeatureMapping`). Frames are at the data set's steady rate,
as the column `timestamp` must confirm: velocities are divided by its period, and LeRobot finds images by that column.
Labels are the commanded twists, or the measured motion from one frame to the next, which an episode's last frame lacks.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.contents import Contents, require_recorded, states_of
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.mapping import MAPPING, FeatureMapping, load_mapping
from vla_ros.datasets.lerobot.metadata import INFO, Metadata, StoredEpisode, missing, read_metadata, read_table
from vla_ros.datasets.shards import DecodeReport, SourceShard, skipped_records
from vla_ros.datasets.store.entry import sampling_settings
from vla_ros.datasets.trajectory import TOO_SHORT, WITHOUT_TEXT, Trajectory, to_episode
from vla_ros.imaging import images

if TYPE_CHECKING:
    import pyarrow  # imported on use, as PyAV is: both are an extra

EPISODES_PER_SHARD = 32
TIMESTAMP = "timestamp"
# How far a frame may be from where `fps` has it, in periods, before velocities and images are wrong.
TOLERANCE = 0.1
# Timestamps from here on are wall-clock times, not counted from the beginning of the episode's videos.
WALL_CLOCK_S = 1e8

Floats = NDArray[np.float64]
ImageReader = Callable[[str, int], NDArray[np.uint8]]  # (camera, step) -> image


@dataclasses.dataclass(frozen=True)
class _DataSet:
    """What all shards of a data set share."""

    folder: Path
    rate_hz: Fraction
    mapping: FeatureMapping
    tasks: Mapping[int, str]
    timestamped: bool  # has the column `timestamp`


def lerobot_shards(folder: Path, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    """Return the shards of a data set: its episodes in order, `EPISODES_PER_SHARD` at a time.

    Raises:
        SourceError: the folder is not a data set of version 2 or 3, its feature mapping is missing or does not fit
            it, or the contract requires another camera or a higher control rate.
    """
    metadata, mapping = read_metadata(folder), load_mapping(folder)
    require_recorded(_contents(folder, metadata, mapping), spec, timing)
    _check(folder, mapping, metadata, spec)
    dataset = _DataSet(folder, metadata.rate_hz, mapping, metadata.tasks, TIMESTAMP in metadata.features)
    settings = {
        "format": "lerobot",
        "name": folder.name,
        "mapping": dataclasses.asdict(mapping),
        "rate_hz": str(metadata.rate_hz),
        "libraries": {name: importlib.metadata.version(name) for name in ("av", "pyarrow")},
        **sampling_settings(spec, timing),
    }
    videos = [mapping.cameras[camera.name] for camera in spec.cameras]
    shards = []
    for first in range(0, len(metadata.episodes), EPISODES_PER_SHARD):
        chosen = tuple(metadata.episodes[first : first + EPISODES_PER_SHARD])
        used = [(one.data, *(one.videos[name][0] for name in videos if name in one.videos)) for one in chosen]
        for path in itertools.chain(*used):
            if not path.exists():
                raise missing(path)
        shards.append(
            SourceShard(
                name=f"{folder.name}.{first // EPISODES_PER_SHARD:05d}",
                root=folder,
                files=(*metadata.files, *dict.fromkeys(itertools.chain(*used))),
                settings={**settings, "episodes": [_plain(folder, one) for one in chosen]},
                decode=functools.partial(_decode, dataset, chosen, spec, timing),
            )
        )
    return shards


def lerobot_contents(folder: Path) -> Contents:
    """Return what the data set in `folder` has by its feature mapping; raise SourceError as `lerobot_shards` does."""
    metadata = read_metadata(folder)
    if not (folder / MAPPING).is_file():
        features = ", ".join(f"{name} ({kind} {list(shape)})" for name, (kind, shape) in metadata.features.items())
        raise SourceError(f"{folder / MAPPING} is missing; docs/data.md has one to copy. The features are {features}")
    return _contents(folder, metadata, load_mapping(folder))


def _contents(folder: Path, metadata: Metadata, mapping: FeatureMapping) -> Contents:
    states = states_of(mapping.pose is not None, mapping.opening is not None)
    where = str(folder / MAPPING)
    return Contents(where, f"LeRobot, with {where}", metadata.rate_hz, tuple(mapping.cameras), states)


def _check(folder: Path, mapping: FeatureMapping, metadata: Metadata, spec: ObservationSpec) -> None:
    """Raise SourceError if the mapping names what the data set lacks."""
    where = folder / MAPPING
    for camera in spec.cameras:
        name = mapping.cameras[camera.name]
        kind = metadata.features.get(name, ("missing", ()))[0]
        if kind not in ("video", "image"):
            known = ", ".join(key for key, (other, _) in metadata.features.items() if other in ("video", "image"))
            raise SourceError(f"{where}: feature {name!r} of camera {camera.name!r} is {kind}; must be one of {known}")
        if name in metadata.depth:
            raise SourceError(
                f"{where}: feature {name!r} of camera {camera.name!r} is depth, as {INFO} says; name colours"
            )
    for name, count in mapping.columns().items():
        kind, shape = metadata.features.get(name, ("missing", ()))
        if not kind.startswith(("float", "int", "uint", "bool")) or len(shape) != 1 or shape[0] < count:
            raise SourceError(
                f"{where} names column {count - 1} of {name!r}, which is {kind} of shape {list(shape)}; must be a "
                f"feature of numbers with at least {count} columns"
            )


def _plain(folder: Path, episode: StoredEpisode) -> list[Any]:
    videos = {name: [str(path.relative_to(folder)), from_s] for name, (path, from_s) in episode.videos.items()}
    return [episode.index, episode.length, str(episode.data.relative_to(folder)), videos, episode.tasks, episode.source]


def _decode(
    dataset: _DataSet,
    episodes: Sequence[StoredEpisode],
    spec: ObservationSpec,
    timing: Timing,
    add: Callable[[Episode], None],
) -> DecodeReport:
    dropped: Counter[str] = Counter()
    errors: list[str] = []
    for stored, rows in _tables(dataset, episodes, spec):
        try:
            for trajectory in _trajectories(dataset, stored, rows, spec):
                episode = to_episode(trajectory, spec, timing) if trajectory.command else None
                if episode is None:
                    dropped[TOO_SHORT if trajectory.command else WITHOUT_TEXT] += len(trajectory)
                else:
                    add(episode)
        except ValueError as error:
            errors.append(f"episode {stored.index}: {error}")
    return DecodeReport(dropped, damage=skipped_records(dataset.folder, "episodes", errors, len(episodes)))


def _tables(
    dataset: _DataSet, episodes: Sequence[StoredEpisode], spec: ObservationSpec
) -> Iterator[tuple[StoredEpisode, pyarrow.Table]]:
    """Yield each episode with its rows."""
    cameras = [dataset.mapping.cameras[camera.name] for camera in spec.cameras]
    for path, group in itertools.groupby(episodes, key=lambda episode: episode.data):
        members = list(group)
        columns = [*dataset.mapping.columns(), *(name for name in cameras if name not in members[0].videos)]
        if dataset.timestamped:
            columns.append(TIMESTAMP)
        rows = read_table(
            path, ["episode_index", "task_index", *dict.fromkeys(columns)], [episode.index for episode in members]
        )
        numbers = rows.column("episode_index").to_numpy()
        for episode in members:
            at = np.flatnonzero(numbers == episode.index)
            if len(at) != episode.length or (len(at) and at[-1] - at[0] != len(at) - 1):
                raise SourceError(
                    f"{path} has {len(at)} rows of episode {episode.index}, but the metadata count {episode.length}; "
                    "copy the data set again"
                )
            yield episode, rows.slice(at[0] if len(at) else 0, len(at))


def _trajectories(
    dataset: _DataSet, stored: StoredEpisode, rows: pyarrow.Table, spec: ObservationSpec
) -> list[Trajectory]:
    """Return an episode, cut where its task changes.

    Raises:
        ValueError: a number is not finite, a rotation is invalid, an image or a task is missing, or the timestamps are
            not at the data set's rate.
    """
    times_s = _times_s(dataset, rows)
    values = {name: _numbers(name, rows) for name in dataset.mapping.columns()}
    tasks = rows.column("task_index").to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), len(tasks)]
    result = []
    for start, stop in itertools.pairwise(cuts):
        if start == stop:
            continue
        if int(tasks[start]) not in dataset.tasks:
            raise ValueError(f"its task {tasks[start]} is not among the {len(dataset.tasks)} of the data set")
        command = dataset.tasks[int(tasks[start])].strip()
        phrasings = tuple(dict.fromkeys(text.strip() for text in stored.tasks)) if len(cuts) == 2 else ()
        piece = {name: array[start:stop] for name, array in values.items()}
        trajectory = dataclasses.replace(
            _trajectory(dataset, piece, _image_reader(dataset, stored, rows, times_s, spec, start, stop), command),
            source=f"{dataset.folder.name}#{stored.source}",
            phrasings=phrasings if len(phrasings) > 1 and command in phrasings else (),
        )
        result.append(trajectory)
    return result


def _trajectory(dataset: _DataSet, values: Mapping[str, Floats], image: ImageReader, command: str) -> Trajectory:
    mapping = dataset.mapping
    measured = mapping.pose.poses(values[mapping.pose.feature]) if mapping.pose is not None else None
    if mapping.twist is not None:
        twists = values[mapping.twist.feature][:, mapping.twist.columns]
    else:
        assert measured is not None  # FeatureMapping has one of the two
        begin, end, step_s = measured[:-1], measured[1:], float(1 / dataset.rate_hz)
        twists = actions.twist_between(begin[:, :3], begin[:, 3:], end[:, :3], end[:, 3:], step_s)
    steps, opening = len(twists), mapping.opening
    return Trajectory(
        rate_hz=dataset.rate_hz,
        image=image,
        twists=twists,
        grippers=mapping.gripper.openings(values[mapping.gripper.feature])[:steps],
        poses=None if measured is None else measured[:steps],
        openings=None if opening is None else opening.openings(values[opening.feature])[:steps],
        command=command,
        task=command,
        outcome="unknown",
        source="",
    )


def _times_s(dataset: _DataSet, rows: pyarrow.Table) -> Floats:
    """Return when each frame (S,) of an episode is, from the beginning of its videos.

    Raises:
        ValueError: the column `timestamp` says otherwise than `fps`, so that velocities and images would be wrong.
    """
    steady_s = np.arange(len(rows)) / float(dataset.rate_hz)
    if not dataset.timestamped or not len(rows):
        return steady_s
    times_s = _numbers(TIMESTAMP, rows)[:, 0]
    late = np.abs(times_s - times_s[0] - steady_s) * float(dataset.rate_hz)
    if len(rows) > 1 and (late > TOLERANCE).any():
        frame, mean_hz = int(np.argmax(late > TOLERANCE)), (len(rows) - 1) / max(times_s[-1] - times_s[0], 1e-9)
        raise ValueError(
            f"its timestamps are not those of fps {float(dataset.rate_hz):g} (frame {frame} is at "
            f"{times_s[frame] - times_s[0]:.4f} s, not {steady_s[frame]:.4f} s; the mean is {mean_hz:.4g} Hz). Correct "
            f"fps in {INFO}, or resample the episode to a steady rate"
        )
    return times_s if times_s[0] < WALL_CLOCK_S else times_s - times_s[0]


def _image_reader(
    dataset: _DataSet,
    stored: StoredEpisode,
    rows: pyarrow.Table,
    times_s: Floats,
    spec: ObservationSpec,
    start: int,
    stop: int,
) -> ImageReader:
    """Return what reads the images of steps start .. stop - 1, counted from 0; videos are decoded right away."""
    from vla_ros.datasets.lerobot.video import read_video

    decoded: dict[str, Sequence[NDArray[np.uint8]]] = {}
    for camera in spec.cameras:
        name = dataset.mapping.cameras[camera.name]
        if name in stored.videos:
            path, from_s = stored.videos[name]
            resize = functools.partial(images.resize, camera=camera)
            wanted_s = (from_s + times_s[start:stop]).tolist()
            decoded[camera.name] = read_video(path, wanted_s, dataset.rate_hz, resize, f"episode {stored.index}")

    def image(camera: str, step: int) -> NDArray[np.uint8]:
        if camera in decoded:
            return decoded[camera][step]
        content = rows.column(dataset.mapping.cameras[camera])[start + step].as_py()
        if not isinstance(content, dict) or not content.get("bytes"):
            raise ValueError(f"an image of camera {camera!r} is not in the file")
        return images.decode_image_file(content["bytes"])

    return image


def _numbers(name: str, rows: pyarrow.Table) -> Floats:
    """Return a feature (S, D); raise ValueError if rows differ in length or a number is missing."""
    import pyarrow.compute

    column = rows.column(name).combine_chunks()
    nested = pyarrow.types.is_nested(column.type)  # a feature of one column is stored without lists
    flat = column.flatten() if nested else column
    lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(column)) if nested else [1]
    if len(column) == 0 or len(lengths) != 1 or flat.null_count or column.null_count:
        raise ValueError(f"the rows of {name} differ in length, or a number is missing")
    values: Floats = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float64)
    if not np.isfinite(values).all():
        frame, column = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(
            f"a number of {name} is not finite (column {column} is {values[frame, column]} at frame {frame})"
        )
    return values
