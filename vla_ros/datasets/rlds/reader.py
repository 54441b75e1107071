# SPDX-License-Identifier: Apache-2.0
"""Read RLDS data sets (arXiv:2111.02767), as TensorFlow Datasets writes them, without TensorFlow.

The folder is that of a version, such as fractal20220817_data/0.1.0, with the files of the training split, each of which
is a shard. `catalogue.DATASETS` has the known data sets.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.contents import Contents, require_recorded, states_of
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.rlds import array_record, tfrecord
from vla_ros.datasets.rlds.catalogue import DATASETS, FIRST_BRIDGE, DatasetSpec, Floats
from vla_ros.datasets.rlds.listing import ARRAY_RECORD, INFO, Listing, list_shards
from vla_ros.datasets.rlds.tfrecord import Example
from vla_ros.datasets.shards import DecodeReport, SourceShard, skipped_records
from vla_ros.datasets.store.entry import sampling_settings
from vla_ros.datasets.trajectory import TOO_SHORT, WITHOUT_TEXT, Trajectory, to_episode
from vla_ros.imaging import images

FAILED = "episode failure"


def rlds_shards(folder: Path, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    """Return the shards of the training split in `folder` that are there, in order; their notes say which are not.

    Raises:
        SourceError: there are none, the data set is unknown or can't be read here, or it lacks what the contract
            requires.
    """
    listing = list_shards(folder)
    if listing.file_format == ARRAY_RECORD:
        array_record.require(listing.folder)
    require_recorded(_contents(listing), spec, timing)
    settings = {"format": "rlds", "dataset": listing.dataset, **sampling_settings(spec, timing)}
    return [
        SourceShard(
            name=file.name,
            root=listing.folder,
            files=(file,),
            settings={**settings, "name": file.name, "records": listing.records.get(file)},
            decode=functools.partial(
                _decode, file, listing.dataset, listing.file_format, listing.records.get(file), spec, timing
            ),
            notes=listing.notes,
        )
        for file in listing.files
    ]


def rlds_contents(folder: Path) -> Contents:
    """Return what the data set in `folder` has; raise SourceError as `rlds_shards` does."""
    return _contents(list_shards(folder))


def _contents(listing: Listing) -> Contents:
    dataset = DATASETS[listing.dataset]
    return Contents(
        name=listing.dataset,
        read_as=f"{listing.dataset} of the catalogue ({listing.file_format} files called {listing.name}-train)",
        rate_hz=dataset.rate_hz,
        cameras=tuple(dataset.cameras),
        states=states_of(pose=True, opening=dataset.openings is not None),
    )


def _decode(
    shard: Path,
    name: str,
    file_format: str,
    expected: int | None,
    spec: ObservationSpec,
    timing: Timing,
    add: Callable[[Episode], None],
) -> DecodeReport:
    """Decode a shard, skipping and reporting records that are not as the data set says.

    A file that was cut off between two records is intact by itself: `expected` is how many it should have, if known.
    """
    dropped: Counter[str] = Counter()
    errors: list[str] = []
    count = 0
    read = array_record.records if file_format == ARRAY_RECORD else tfrecord.records
    for index, record in enumerate(read(shard)):
        count += 1
        source = f"{shard.name}#{index}"
        try:
            example = Example(record)
            first_release = name == "bridge" and "steps/action/open_gripper" in example
            trajectory = _trajectory(example, DATASETS[FIRST_BRIDGE if first_release else name], spec, source)
            why = FAILED if _failed(example) else "" if trajectory.command else WITHOUT_TEXT
            episode = None if why else to_episode(trajectory, spec, timing)
        except KeyError as error:
            errors.append(f"record {index} has no feature {error}, which {name!r} has")
            continue
        except ValueError as error:
            errors.append(f"record {index} is damaged: {error}")
            continue
        if episode is not None:
            add(episode)
        else:
            dropped[why or TOO_SHORT] += len(trajectory)
    damage = skipped_records(shard, "records", errors, count)
    if expected is not None and count != expected:
        damage += (f"{shard} has {count} of the {expected} records that {INFO} counts; copy it again",)
    elif not count:
        damage += (f"{shard} has no record; copy it again",)
    return DecodeReport(dropped, damage=damage)


def _trajectory(example: Example, dataset: DatasetSpec, spec: ObservationSpec, source: str) -> Trajectory:
    """Return the steps of a record that have a label: all but the last, which has no motion after it."""
    numbers = {name: _numbers(example, name, size) for name, size in dataset.numbers.items()}
    encoded = {camera.name: example.bytes_list(f"steps/{dataset.cameras[camera.name]}") for camera in spec.cameras}
    lengths = {name: len(values) for name, values in numbers.items()}
    lengths |= {name: len(values) for name, values in encoded.items()}
    steps = next(iter(lengths.values()))
    if set(lengths.values()) != {steps}:
        raise ValueError(f"lists of different lengths: {lengths}")
    kept = slice(dataset.first_step, max(dataset.first_step, steps - 1))
    poses = dataset.poses(numbers)
    if not np.isfinite(poses).all() or (len(poses) and np.linalg.norm(poses[:, 3:], axis=1).min() < 0.5):
        raise ValueError("a pose is not finite, or its quaternion is not a rotation")

    def image(camera: str, step: int) -> NDArray[np.uint8]:
        decoded = images.decode_image_file(bytes(encoded[camera][dataset.first_step + step]))
        return np.ascontiguousarray(decoded[:, :, ::-1]) if camera in dataset.cameras_in_bgr else decoded

    before, after = poses[:-1], poses[1:]
    moved = actions.twist_between(before[:, :3], before[:, 3:], after[:, :3], after[:, 3:], 1 / float(dataset.rate_hz))
    openings = None if dataset.openings is None else dataset.openings(numbers)[kept]
    texts = _texts(example, dataset)
    return Trajectory(
        rate_hz=dataset.rate_hz,
        image=image,
        twists=moved[dataset.first_step :],
        grippers=dataset.grippers(numbers)[kept],
        poses=poses[kept],
        openings=openings,
        command=texts[0] if texts else "",
        task=texts[0] if texts else "",
        outcome="unknown",
        source=source,
        phrasings=texts if len(texts) > 1 else (),
    )


def _numbers(example: Example, name: str, size: int) -> Floats:
    values = example.numbers(f"steps/{name}")
    if len(values) % size:
        raise ValueError(f"steps/{name} has {len(values)} numbers, not a multiple of {size}")
    return values.reshape(-1, size)


def _texts(example: Example, dataset: DatasetSpec) -> tuple[str, ...]:
    """Return the first text of each feature that is not empty, without repeats."""
    found = []
    for name in dataset.commands:
        values = example.bytes_list(f"steps/{name}") if f"steps/{name}" in example else []
        words = (bytes(text).decode("utf-8", errors="replace").strip() for text in values)
        found.append(next(filter(None, words), ""))
    return tuple(dict.fromkeys(filter(None, found)))


def _failed(example: Example) -> bool:
    """Return whether the episode was recorded as a failure, which only DROID says."""
    name = "episode_metadata/file_path"
    return name in example and any(b"/failure/" in bytes(path) for path in example.bytes_list(name))
