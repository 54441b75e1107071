# SPDX-License-Identifier: Apache-2.0
"""RLDS data sets (arXiv:2111.02767) as TensorFlow Datasets writes them, read without TensorFlow: one part a shard.

The folder is the one of a version, such as fractal20220817_data/0.1.0: it holds features.json and the shards of its
training split, NAME-train.tfrecord-00000-of-01024. NAME says how to read them (`rlds_datasets.LAYOUTS`).
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.rlds.catalogue import FIRST_BRIDGE, LAYOUTS, Floats, Layout
from vla_ros.datasets.rlds.tfrecord import Example, records
from vla_ros.datasets.shards import DecodeReport, SourceShard, skipped_records
from vla_ros.datasets.store.fingerprint import sampling_settings
from vla_ros.datasets.trajectory import TOO_SHORT, WITHOUT_TEXT, Trajectory, require_rate, to_episode
from vla_ros.files import absolute
from vla_ros.imaging import images
from vla_ros.schema import suggestion

_SHARD = re.compile(r"(?P<name>.+)-train\.tfrecord-\d+-of-(?P<shards>\d+)")
FAILED = "episode failure"


def rlds_shards(folder: Path, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    """Return a part for each shard of the training split in `folder`, in their order.

    Raises:
        SourceError: there are no shards or some are missing, the data set is not known, or it has not what the contract
            wants.
    """
    folder = absolute(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder; give a version's, with features.json: fractal20220817_data/0.1.0")
    shards = {file: match for file in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(file.name))}
    names = sorted({match["name"] for match in shards.values()})
    if len(names) != 1:
        found = f"the shards of {', '.join(names)}" if names else "no NAME-train.tfrecord-00000-of-00001"
        raise SourceError(f"{folder} holds {found}; give the folder of one data set's version, with features.json")
    expected = int(next(iter(shards.values()))["shards"])
    if len(shards) != expected:
        raise SourceError(f"{folder} holds {len(shards)} of {expected} shards of {names[0]}; copy the others too")
    if names[0] not in LAYOUTS:
        raise SourceError(
            f"{folder}: the data set {names[0]!r} is not known here; {suggestion(names[0], LAYOUTS)}. docs/data.md "
            "says how to add one"
        )
    _check(names[0], spec, timing)
    settings = {"format": "rlds", "dataset": names[0], **sampling_settings(spec, timing)}
    return [
        SourceShard(
            name=shard.name,
            root=folder,
            files=(shard,),
            settings={**settings, "name": shard.name},
            decode=functools.partial(_decode, shard, names[0], spec, timing),
        )
        for shard in shards
    ]


def _check(name: str, spec: ObservationSpec, timing: Timing) -> None:
    layout = LAYOUTS[name]
    require_rate(layout.rate_hz, timing, name)
    for camera in spec.cameras:
        if camera.name not in layout.cameras:
            raise SourceError(f"{name} has no camera {camera.name!r}; it has {', '.join(layout.cameras)}")


def _decode(
    shard: Path, name: str, spec: ObservationSpec, timing: Timing, add: Callable[[Episode], None]
) -> DecodeReport:
    """Decode a shard. Records that are odd are left out and told; where all are, the shard is something else."""
    dropped: Counter[str] = Counter()
    odd: list[str] = []
    count = 0
    for index, record in enumerate(records(shard)):
        count += 1
        source = f"{shard.name}#{index}"
        try:
            example = Example(record)
            first_release = name == "bridge" and "steps/action/open_gripper" in example
            trajectory = _trajectory(example, LAYOUTS[FIRST_BRIDGE if first_release else name], spec, source)
            why = FAILED if _failed(example) else "" if trajectory.command else WITHOUT_TEXT
            episode = None if why else to_episode(trajectory, spec, timing)
        except KeyError as error:
            odd.append(f"record {index}: there is no feature {error}; it is not {name!r}")
            continue
        except ValueError as error:
            odd.append(f"record {index} is damaged: {error}")
            continue
        if episode is not None:
            add(episode)
        else:
            dropped[why or TOO_SHORT] += len(trajectory)
    return DecodeReport(dropped, damage=skipped_records(shard, "records", odd, count))


def _trajectory(example: Example, layout: Layout, spec: ObservationSpec, source: str) -> Trajectory:
    """Return the steps of a record that have a label: all but the last, which no motion follows."""
    numbers = {name: _numbers(example, name, size) for name, size in layout.numbers.items()}
    pictures = {camera.name: example.bytes_list(f"steps/{layout.cameras[camera.name]}") for camera in spec.cameras}
    lengths = {name: len(values) for name, values in numbers.items()}
    lengths |= {name: len(values) for name, values in pictures.items()}
    steps = next(iter(lengths.values()))
    if set(lengths.values()) != {steps}:
        raise ValueError(f"lists of different lengths: {lengths}")
    kept = slice(layout.first_step, max(layout.first_step, steps - 1))
    poses = layout.poses(numbers)
    if not np.isfinite(poses).all() or (len(poses) and np.linalg.norm(poses[:, 3:], axis=1).min() < 0.5):
        raise ValueError("a pose that is not finite, or no rotation")

    def picture(camera: str, step: int) -> NDArray[np.uint8]:
        shown = images.decode_image_file(bytes(pictures[camera][layout.first_step + step]))
        return np.ascontiguousarray(shown[:, :, ::-1]) if camera in layout.cameras_in_bgr else shown

    moved = actions.twist_between(*_split(poses[:-1]), *_split(poses[1:]), 1 / float(layout.rate_hz))
    openings = None if layout.openings is None else layout.openings(numbers)[kept]
    texts = _texts(example, layout)
    return Trajectory(
        rate_hz=layout.rate_hz,
        picture=picture,
        twists=moved[layout.first_step :],
        grippers=layout.grippers(numbers)[kept],
        poses=poses[kept],
        openings=openings,
        command=texts[0] if texts else "",
        task=texts[0] if texts else "",
        outcome="unknown",
        source=source,
        phrasings=texts if len(texts) > 1 else (),
    )


def _split(poses: Floats) -> tuple[Floats, Floats]:
    """Return positions (S, 3) and quaternions (S, 4) of poses (S, 7)."""
    return poses[:, :3], poses[:, 3:]


def _numbers(example: Example, name: str, size: int) -> Floats:
    values = example.numbers(f"steps/{name}")
    if len(values) % size:
        raise ValueError(f"steps/{name} has {len(values)} numbers, not a multiple of {size}")
    return values.reshape(-1, size)


def _texts(example: Example, layout: Layout) -> tuple[str, ...]:
    """Return of each feature the first text that says something, each once."""
    found = []
    for name in layout.commands:
        said = example.bytes_list(f"steps/{name}") if f"steps/{name}" in example else []
        words = (bytes(text).decode("utf-8", errors="replace").strip() for text in said)
        found.append(next(filter(None, words), ""))
    return tuple(dict.fromkeys(filter(None, found)))


def _failed(example: Example) -> bool:
    """Whether the episode is one of DROID's that were recorded as failures; the others do not say."""
    name = "episode_metadata/file_path"
    return name in example and any(b"/failure/" in bytes(path) for path in example.bytes_list(name))
