# SPDX-License-Identifier: Apache-2.0
"""Recorded bags as parts for the store: one part a bag."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.annotations import Row, annotations_of
from vla_ros.datasets.bags.episodes.cutting import MOVED_BY_THE_POLICY, EpisodeCutter
from vla_ros.datasets.bags.episodes.interventions import PolicyFrames
from vla_ros.datasets.bags.finding import find_bags
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.fingerprint import sampling_settings
from vla_ros.robot import Robot

# Two clocks in one recording: stamps and receive times lie further apart than any network delays a message.
CLOCKS_APART_S = 5.0


def bag_shards(
    paths: Sequence[str | Path],
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool = False,
    policy_frames: PolicyFrames = "drop",
) -> list[SourceShard]:
    """Return a part for each bag that `paths` mean, in the order of `find_bags`.

    Of bags that were recorded beside a policy, what the policy did is left out, or imitated: `policy_frames`.

    Raises:
        BagError: as `find_bags`, or a table of annotations is malformed.
    """
    return [bag_shard(bag, robot, spec, timing, include_failures, policy_frames) for bag in find_bags(paths)]


def bag_shard(
    bag: Path,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool,
    policy_frames: PolicyFrames = "drop",
) -> SourceShard:
    """Return one bag, given by its absolute path, as a part.

    What a person wrote about it is read here, once: what identifies the part is then also what is decoded.

    Raises:
        BagError: the table of annotations is malformed.
    """
    rows = annotations_of(bag)
    settings = {
        "format": "bags",
        "robot": dataclasses.asdict(robot),
        "include_failures": include_failures,
        "policy_frames": policy_frames,
        **sampling_settings(spec, timing),
        "name": bag.name,
        "annotations": _plain(rows),
    }
    return SourceShard(
        name=bag.name,
        root=bag.parent,
        files=_files(bag),
        settings=settings,
        decode=functools.partial(_decode, bag, robot, spec, timing, include_failures, policy_frames, rows),
    )


def hint_of(cutter: EpisodeCutter) -> str:
    """What to check where no episode came out."""
    if not cutter.segmentation.segments:
        return (
            ". It has neither an episode marker nor a language command: start episodes with the recorder's services, "
            "or write them into a table with `vla annotate`"
        )
    if cutter.dropped[MOVED_BY_THE_POLICY]:
        return (
            ". It was recorded beside a policy (it has the topic `intervention`), of which only a person's corrections "
            "are learned; with data.policy_frames: imitate, what the policy did is imitated, too"
        )
    delay_s = cutter.labelling.delay_s
    if abs(delay_s) > CLOCKS_APART_S:
        return (
            f". Messages were received {delay_s:.0f} s after their stamps: two clocks are in this recording, or a "
            "publisher leaves its stamps empty. Record a simulation with --use-sim-time; synchronise the clocks of a "
            "robot and its computers; write stamp: receive into the robot's file for streams without stamps"
        )
    return ""


def _files(bag: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in bag.iterdir() if file.is_file())) if bag.is_dir() else (bag,)


def _plain(rows: Sequence[Row] | None) -> list[dict[str, Any]] | None:
    """The rows without their line numbers: a change to another bag's rows makes nothing anew."""
    return None if rows is None else [{**dataclasses.asdict(row), "where": ""} for row in rows]


def _decode(
    bag: Path,
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool,
    policy_frames: PolicyFrames,
    rows: Sequence[Row] | None,
    add: Callable[[Episode], None],
) -> DecodeReport:
    with open_bag(bag) as recording:
        cutter = EpisodeCutter(recording, robot, spec, timing, rows, policy_frames)
        for episode in cutter.episodes(include_failures):
            add(episode)
        damage = tuple(f"{bag}: {text}" for text in recording.damage)
    return DecodeReport({why: count for why, count in cutter.dropped.items() if count}, hint_of(cutter), damage)
