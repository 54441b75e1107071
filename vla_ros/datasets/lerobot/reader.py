# SPDX-License-Identifier: Apache-2.0
"""LeRobot's data sets of version 3: parquet files and mp4 videos, read without LeRobot, some episodes a part.

What the columns mean stands in meta/vla_ros.json (`lerobot_layout`). Frames are at the data set's steady rate; labels
are the commanded twists, or the measured motion from one frame to the next, which the last frame of an episode lacks.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.layout import LAYOUT, Layout, load_layout, openings, poses
from vla_ros.datasets.shards import DecodeReport, SourceShard, skipped_records
from vla_ros.datasets.store.fingerprint import sampling_settings
from vla_ros.datasets.trajectory import TOO_SHORT, WITHOUT_TEXT, Trajectory, require_rate, to_episode
from vla_ros.files import absolute
from vla_ros.imaging import images

if TYPE_CHECKING:  # at run time where it is used: pyarrow and PyAV are an extra
    import pyarrow

    from vla_ros.datasets.lerobot.metadata import Metadata, StoredEpisode

EPISODES_IN_A_PART = 32

Floats = NDArray[np.float64]
Picture = Callable[[str, int], NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class _DataSet:
    """What all parts of a data set share."""

    folder: Path
    rate_hz: Fraction
    layout: Layout
    tasks: Mapping[int, str]


def lerobot_shards(folder: Path, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    """Return the parts of a data set: its episodes in their order, `EPISODES_IN_A_PART` at a time.

    Raises:
        SourceError: the folder is no data set of version 3, its layout is missing or does not fit it, or the contract
            wants another camera or a higher control rate.
    """
    from vla_ros.datasets.lerobot.metadata import INFO, TASKS, read_metadata

    folder = absolute(folder)
    metadata, layout = read_metadata(folder), load_layout(folder)
    require_rate(metadata.rate_hz, timing, str(folder))
    _check(folder, layout, metadata, spec)
    dataset = _DataSet(folder, metadata.rate_hz, layout, metadata.tasks)
    settings = {
        "format": "lerobot",
        "name": folder.name,
        "layout": dataclasses.asdict(layout),
        "rate_hz": str(metadata.rate_hz),
        "libraries": {name: importlib.metadata.version(name) for name in ("av", "pyarrow")},
        **sampling_settings(spec, timing),
    }
    videos = [layout.cameras[camera.name] for camera in spec.cameras]
    parts = []
    for first in range(0, len(metadata.episodes), EPISODES_IN_A_PART):
        chosen = tuple(metadata.episodes[first : first + EPISODES_IN_A_PART])
        used = [(one.data, *(one.videos[name][0] for name in videos if name in one.videos)) for one in chosen]
        parts.append(
            SourceShard(
                name=f"{folder.name}.{first // EPISODES_IN_A_PART:05d}",
                root=folder,
                files=(folder / INFO, folder / TASKS, *dict.fromkeys(itertools.chain(*used))),
                settings={**settings, "episodes": [_plain(folder, one) for one in chosen]},
                decode=functools.partial(_decode, dataset, chosen, spec, timing),
            )
        )
    return parts


def _check(folder: Path, layout: Layout, metadata: Metadata, spec: ObservationSpec) -> None:
    """Raise SourceError where the layout names what the data set lacks, or lacks what the contract wants."""
    where = folder / LAYOUT
    for camera in spec.cameras:
        if camera.name not in layout.cameras:
            raise SourceError(f"{where} has no camera {camera.name!r}; it has {', '.join(layout.cameras) or 'none'}")
        name = layout.cameras[camera.name]
        kind = metadata.features.get(name, ("missing", ()))[0]
        if kind not in ("video", "image"):
            has = ", ".join(key for key, (other, _) in metadata.features.items() if other in ("video", "image"))
            raise SourceError(f"{where}: the feature {name!r} of camera {camera.name!r} is {kind}; pictures are: {has}")
    for name, count in layout.columns().items():
        kind, shape = metadata.features.get(name, ("missing", ()))
        if not kind.startswith("float") or len(shape) != 1 or shape[0] < count:
            raise SourceError(
                f"{where} names column {count - 1} of {name!r}, which is {kind} of the shape {list(shape)}; expected a "
                f"float feature of {count} columns or more"
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
    odd: list[str] = []
    for stored, rows in _tables(dataset, episodes, spec):
        try:
            for trajectory, phrasings in _trajectories(dataset, stored, rows, spec):
                episode = to_episode(trajectory, spec, timing) if trajectory.command else None
                if episode is None:
                    dropped[TOO_SHORT if trajectory.command else WITHOUT_TEXT] += len(trajectory)
                else:
                    add(dataclasses.replace(episode, phrasings=phrasings))
        except ValueError as error:
            odd.append(f"episode {stored.index}: {error}")
    return DecodeReport(dropped, damage=skipped_records(dataset.folder, "episodes", odd, len(episodes)))


def _tables(dataset: _DataSet, episodes: Sequence[StoredEpisode], spec: ObservationSpec) -> Any:
    """Yield each episode with its rows (step, column)."""
    from vla_ros.datasets.lerobot.metadata import table

    pictures = [dataset.layout.cameras[camera.name] for camera in spec.cameras]
    for path, group in itertools.groupby(episodes, key=lambda episode: episode.data):
        members = list(group)
        columns = [*dataset.layout.columns(), *(name for name in pictures if name not in members[0].videos)]
        rows = table(path, ["episode_index", "task_index", *columns], [episode.index for episode in members])
        numbers = rows.column("episode_index").to_numpy()
        for episode in members:
            at = np.flatnonzero(numbers == episode.index)
            if len(at) != episode.length or (len(at) and at[-1] - at[0] != len(at) - 1):
                raise SourceError(
                    f"{path} has {len(at)} rows of episode {episode.index}, of {episode.length} that the metadata "
                    "count; copy the data set again"
                )
            yield episode, rows.slice(at[0] if len(at) else 0, len(at))


def _trajectories(
    dataset: _DataSet, stored: StoredEpisode, rows: pyarrow.Table, spec: ObservationSpec
) -> list[tuple[Trajectory, tuple[str, ...]]]:
    """Return an episode, cut where its task changes, and the ways to say each piece's command.

    Raises:
        ValueError: a number is not finite, a rotation is none, a picture or a task is not there.
    """
    values = {name: _numbers(name, rows) for name in dataset.layout.columns()}
    tasks = rows.column("task_index").to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), len(tasks)]
    result = []
    for start, stop in itertools.pairwise(cuts):
        if start == stop:
            continue
        if int(tasks[start]) not in dataset.tasks:
            raise ValueError(f"its task {tasks[start]} is none of the {len(dataset.tasks)} of the data set")
        command = dataset.tasks[int(tasks[start])].strip()
        phrasings = tuple(dict.fromkeys(text.strip() for text in stored.tasks)) if len(cuts) == 2 else ()
        picture = _pictures(dataset, stored, rows, spec, start, stop)
        piece = {name: array[start:stop] for name, array in values.items()}
        trajectory = _trajectory(dataset, piece, picture, command, f"{dataset.folder.name}#{stored.source}")
        result.append((trajectory, phrasings if len(phrasings) > 1 and command in phrasings else ()))
    return result


def _trajectory(
    dataset: _DataSet, values: Mapping[str, Floats], picture: Picture, command: str, source: str
) -> Trajectory:
    layout = dataset.layout
    measured = poses(layout.pose, values[layout.pose.feature]) if layout.pose is not None else None
    grippers = openings(layout.gripper, values[layout.gripper.feature])
    if layout.twist is not None:
        twists = values[layout.twist.feature][:, layout.twist.columns]
    else:
        assert measured is not None  # as Layout demands without a twist
        begin, end, step_s = measured[:-1], measured[1:], float(1 / dataset.rate_hz)
        twists = actions.twist_between(begin[:, :3], begin[:, 3:], end[:, :3], end[:, 3:], step_s)
    steps = len(twists)
    opened = None if layout.opening is None else openings(layout.opening, values[layout.opening.feature])[:steps]
    return Trajectory(
        rate_hz=dataset.rate_hz,
        image=picture,
        twists=twists,
        grippers=grippers[:steps],
        poses=None if measured is None else measured[:steps],
        openings=opened,
        command=command,
        task=command,
        outcome="unknown",
        source=source,
    )


def _pictures(
    dataset: _DataSet, stored: StoredEpisode, rows: pyarrow.Table, spec: ObservationSpec, start: int, stop: int
) -> Picture:
    """Return what gives the pictures of steps start .. stop - 1, counted from 0; those of videos are small already."""
    from vla_ros.datasets.lerobot.video import read_pictures

    decoded: dict[str, Sequence[NDArray[np.uint8]]] = {}
    for camera in spec.cameras:
        name = dataset.layout.cameras[camera.name]
        if name in stored.videos:
            path, from_s = stored.videos[name]
            small = functools.partial(images.resize, camera=camera)
            decoded[camera.name] = read_pictures(path, from_s, range(start, stop), dataset.rate_hz, small)

    def picture(camera: str, step: int) -> NDArray[np.uint8]:
        if camera in decoded:
            return decoded[camera][step]
        content = rows.column(dataset.layout.cameras[camera])[start + step].as_py()
        if not isinstance(content, dict) or not content.get("bytes"):
            raise ValueError(f"a picture of the camera {camera} is not in the file")
        return images.decode_image_file(content["bytes"])

    return picture


def _numbers(name: str, rows: pyarrow.Table) -> Floats:
    """Return a feature (S, D). Raises ValueError where a row has another length or a number is missing."""
    import pyarrow.compute

    column = rows.column(name).combine_chunks()
    nested = pyarrow.types.is_nested(column.type)  # a feature of one column is stored without lists
    flat = column.flatten() if nested else column
    lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(column)) if nested else [1]
    if len(column) == 0 or len(lengths) != 1 or flat.null_count or column.null_count:
        raise ValueError(f"the rows of {name} are not of one length, or have gaps")
    values: Floats = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"a number of {name} is not finite")
    return values
