# SPDX-License-Identifier: Apache-2.0
"""Read recorded bags as episodes on the control grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.cutting import MOVED_BY_THE_POLICY, EpisodeCutter, PolicyFrames
from vla_ros.datasets.bags.episodes.segmentation import annotations_of
from vla_ros.datasets.bags.open_bag import find_bags, open_bag
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.entry import sampling_settings
from vla_ros.robot import Robot

# Stamps and receive times this far apart come from two clocks: no network delays a message that long.
CLOCKS_APART_S = 5.0


class BagReader:
    """Reads the episodes of one bag, a folder or one storage file, sampled as the live node samples.

    They lack the frames before their first twist and those whose observation is refused; a gap or a change of the
    command splits an episode. A damaged or cut-off bag is read as far as possible.

    Args:
        include_failures: also read episodes that were marked as failed.
        policy_frames: in a bag recorded beside a policy, "drop" what the policy did, or "imitate" it too.

    Raises:
        BagError: the table of annotations is malformed.
    """

    def __init__(
        self,
        bag: Path,
        robot: Robot,
        spec: ObservationSpec,
        timing: Timing,
        include_failures: bool = False,
        policy_frames: PolicyFrames = "drop",
    ) -> None:
        self._bag = bag
        self._robot, self._spec, self._timing = robot, spec, timing
        self._include_failures, self._policy_frames = include_failures, policy_frames
        # Read here, once, so that what identifies the shard is also what is decoded.
        self._annotations = annotations_of(bag)
        self.report = DecodeReport({})  # complete once `episodes` is exhausted

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes in order of time.

        Raises:
            BagError: the bag is missing, empty or unreadable, lacks a topic, or contradicts the robot file.
        """
        with open_bag(self._bag) as recording:
            inputs = (recording, self._robot, self._spec, self._timing, self._annotations, self._policy_frames)
            cutter = EpisodeCutter(*inputs)
            yield from cutter.episodes(self._include_failures)
            damage = tuple(f"{self._bag}: {text}" for text in recording.damage)
        self.report = DecodeReport(dict(+cutter.dropped), _hint(cutter), damage)

    def shard(self) -> SourceShard:
        """Return the bag as a shard for the store."""
        bag, rows = self._bag, self._annotations
        settings = {
            "format": "bags",
            "robot": dataclasses.asdict(self._robot),
            "include_failures": self._include_failures,
            "policy_frames": self._policy_frames,
            **sampling_settings(self._spec, self._timing),
            "name": bag.name,
            # Without line numbers: editing another bag's rows leaves this bag's episodes valid.
            "annotations": None if rows is None else [{**dataclasses.asdict(row), "where": ""} for row in rows],
        }
        files = (file for file in bag.iterdir() if file.is_file()) if bag.is_dir() else (bag,)
        return SourceShard(bag.name, bag.parent, tuple(sorted(files)), settings, self._decode)

    def _decode(self, add: Callable[[Episode], None]) -> DecodeReport:
        for episode in self.episodes():
            add(episode)
        return self.report


def bag_shards(
    paths: Sequence[str | Path],
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool = False,
    policy_frames: PolicyFrames = "drop",
) -> list[SourceShard]:
    """Return a shard for each bag at `paths`, in the order of `find_bags`; see `BagReader`."""
    bags = find_bags(paths)
    return [BagReader(bag, robot, spec, timing, include_failures, policy_frames).shard() for bag in bags]


def _hint(cutter: EpisodeCutter) -> str:
    """Return what to check if no episode was found."""
    if not cutter.segmentation.segments:
        return (
            ". It has neither episode markers nor a language command: start episodes with the recorder's services, or "
            "describe them with `vla annotate`"
        )
    if cutter.dropped[MOVED_BY_THE_POLICY]:
        return (
            ". It was recorded beside a policy (it has the topic `intervention`), so only a person's corrections are "
            "learned; set data.policy_frames: imitate to learn from the policy's actions, too"
        )
    if abs(delay_s := cutter.labels.delay_s) > CLOCKS_APART_S:
        return (
            f". Messages were received {delay_s:.0f} s after their stamps: the recording mixes two clocks, or a "
            "publisher leaves its stamps empty. Record a simulation with --use-sim-time; synchronize the clocks of the "
            "robot's computers; set stamp: receive in the robot file for streams without stamps"
        )
    return ""
