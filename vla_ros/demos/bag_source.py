# SPDX-License-Identifier: Apache-2.0
"""Recorded bags as parts for the store: one part a bag."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.annotations import annotations_of
from vla_ros.demos.bag import hint
from vla_ros.demos.cutting import EpisodeCutter
from vla_ros.demos.episode import Episode
from vla_ros.demos.finding import find_bags
from vla_ros.demos.parts import Decoded, Part, sampling_settings
from vla_ros.demos.recording import open_bag
from vla_ros.robot import Robot


def bag_parts(
    paths: Sequence[str | Path], robot: Robot, spec: ObservationSpec, timing: Timing, include_failures: bool = False
) -> list[Part]:
    """Return a part for each bag that `paths` mean, in the order of `find_bags`.

    Raises:
        BagError: as `find_bags`.
    """
    settings = {
        "format": "bags",
        "robot": dataclasses.asdict(robot),
        "include_failures": include_failures,
        **sampling_settings(spec, timing),
    }
    return [
        Part(
            name=bag.name,
            home=bag.parent,
            files=_files(bag),
            settings={**settings, "name": bag.name, "annotations": _rows(bag)},
            decode=functools.partial(_decode, bag, robot, spec, timing, include_failures),
        )
        for bag in find_bags(paths)
    ]


def _files(bag: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in bag.iterdir() if file.is_file())) if bag.is_dir() else (bag,)


def _rows(bag: Path) -> list[dict[str, Any]] | None:
    """Return what a person wrote about a bag: its own rows, so that a change to another's makes nothing anew."""
    rows = annotations_of(bag)
    return None if rows is None else [{**dataclasses.asdict(row), "where": ""} for row in rows]


def _decode(
    bag: Path,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool,
    add: Callable[[Episode], None],
) -> Decoded:
    with open_bag(bag) as recording:
        cutter = EpisodeCutter(recording, robot, spec, timing)
        for episode in cutter.episodes(include_failures):
            add(episode)
        damage = tuple(f"{bag}: {text}" for text in recording.damage)
    return Decoded({why: count for why, count in cutter.dropped.items() if count}, hint(cutter), damage)
