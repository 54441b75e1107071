# SPDX-License-Identifier: Apache-2.0
"""Recorded bags to episodes, with an account of every frame that did not make it."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import logging
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.cutting import EpisodeCutter
from vla_ros.demos.episode import Episode
from vla_ros.demos.errors import BagError
from vla_ros.demos.finding import find_bags
from vla_ros.demos.recording import open_bag
from vla_ros.robot import Robot

__all__ = ["BagError", "ReadReport", "find_bags", "read_bag", "read_bags"]

# Two clocks in one recording: stamps and receive times lie further apart than any network delays a message.
CLOCKS_APART_S = 5.0

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """What was read: frames and episodes, and (why, how many frames) for each reason to drop some, largest first.

    damage: what of the bags could not be read, a sentence each, with the bag's path in front.
    """

    frames: int
    episodes: int
    dropped: tuple[tuple[str, int], ...]
    damage: tuple[str, ...] = ()

    def dropped_text(self) -> str:
        """Return the reasons as one line for people."""
        return "; ".join(f"{why}: {count} frames" for why, count in self.dropped) or "nothing"


@dataclasses.dataclass(frozen=True)
class _Read:
    """What came out of one bag; hint: what to check where that is nothing."""

    episodes: list[Episode]
    dropped: collections.Counter[str]
    hint: str
    damage: tuple[str, ...]


def read_bag(
    path: str | Path, robot: Robot, spec: ObservationSpec, timing: Timing, include_failures: bool = False
) -> tuple[list[Episode], ReadReport]:
    """Read the episodes of one bag, sampled on the control grid as the live node samples.

    Frames before an episode's first twist and frames whose observation is refused are not in it; a gap cuts the
    episode into pieces, and so does a change of the command. Discarded and unfinished episodes are left out, failures
    too unless asked for. Of a bag that is damaged or cut off, what can be read is used; the report and a warning tell.

    Raises:
        BagError: the bag is missing or empty, nothing of it can be read, it lacks a topic, or no episode is left of it.
    """
    return _report([_read(Path(path), robot, spec, timing, include_failures)], f"the bag {path}")


def read_bags(
    paths: Sequence[str | Path],
    robot: Robot,
    spec: ObservationSpec,
    timing: Timing,
    include_failures: bool = False,
    workers: int = 1,
) -> tuple[list[Episode], ReadReport]:
    """Read the episodes of several bags, or folders of bags, in the order of `find_bags`, with `workers` processes.

    Raises:
        BagError: as `read_bag`, but nothing need be left of a bag (it may hold one failed episode), as long as another
            gives an episode.
    """
    arguments = [(bag, robot, spec, timing, include_failures) for bag in find_bags(paths)]
    if workers > 1 and len(arguments) > 1:
        # Not forked: the caller may have threads, and a fork copies their locks as they are.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(min(workers, len(arguments)), mp_context=context) as pool:
            results = list(pool.map(_read, *zip(*arguments, strict=True)))
    else:
        results = [_read(*one) for one in arguments]
    return _report(results, f"{len(arguments)} bags in {', '.join(map(str, paths))}")


def _read(path: Path, robot: Robot, spec: ObservationSpec, timing: Timing, include_failures: bool) -> _Read:
    with open_bag(path) as recording:
        cutter = EpisodeCutter(recording, robot, spec, timing)
        episodes = list(cutter.episodes(include_failures))
        damage = tuple(f"{path}: {text}" for text in recording.damage)
    return _Read(episodes, cutter.dropped, hint(cutter), damage)


def hint(cutter: EpisodeCutter) -> str:
    """What to check where no episode came out."""
    if not cutter.segmentation.segments:
        return (
            ". It has neither an episode marker nor a language command: start episodes with the recorder's services, "
            "or write them into a table with `vla annotate`"
        )
    delay_s = cutter.labelling.delay_s
    if abs(delay_s) > CLOCKS_APART_S:
        return (
            f". Messages were received {delay_s:.0f} s after their stamps: two clocks are in this recording, or a "
            "publisher leaves its stamps empty. Record a simulation with --use-sim-time; synchronise the clocks of a "
            "robot and its computers; write stamp: receive into the robot's file for streams without stamps"
        )
    return ""


def _report(results: Sequence[_Read], source: str) -> tuple[list[Episode], ReadReport]:
    episodes = [episode for result in results for episode in result.episodes]
    dropped = sum((result.dropped for result in results), collections.Counter[str]())
    counted = tuple((why, count) for why, count in dropped.most_common() if count)
    damage = tuple(text for result in results for text in result.damage)
    for text in damage:
        logger.warning("%s", text)
    report = ReadReport(sum(map(len, episodes)), len(episodes), counted, damage)
    if not episodes:
        hint = next((result.hint for result in results if result.hint), "")
        lost = f"; damaged: {'; '.join(damage)}" if damage else ""
        raise BagError(f"no episode is left of {source}; dropped: {report.dropped_text()}{lost}{hint}")
    return episodes, report
