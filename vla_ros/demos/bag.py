# SPDX-License-Identifier: Apache-2.0
"""Recorded bags to episodes, with an account of every frame that did not make it."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.commands import Commands
from vla_ros.demos.cutting import EpisodeCutter
from vla_ros.demos.episode import Episode
from vla_ros.demos.errors import BagError
from vla_ros.demos.recording import find_bags, open_bag
from vla_ros.robot import Robot

__all__ = ["BagError", "ReadReport", "find_bags", "read_bag", "read_bags"]

# Two clocks in one recording: stamps and receive times lie further apart than any network delays a message.
CLOCKS_APART_S = 5.0


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """What was read: frames and episodes, and (why, how many frames) for each reason to drop some, largest first."""

    frames: int
    episodes: int
    dropped: tuple[tuple[str, int], ...]

    def dropped_text(self) -> str:
        """Return the reasons as one line for people."""
        return "; ".join(f"{why}: {count} frames" for why, count in self.dropped) or "nothing"


def read_bag(
    path: str | Path, robot: Robot, spec: ObservationSpec, timing: Timing, include_failures: bool = False
) -> tuple[list[Episode], ReadReport]:
    """Read the episodes of one bag, sampled on the control grid as the live node samples.

    Frames before an episode's first twist and frames whose observation is refused are not in it; a gap cuts the
    episode into pieces, and so does a change of the command. Discarded and unfinished episodes are left out, failures
    too unless asked for.

    Raises:
        BagError: the bag is missing, unfinished, empty or damaged, lacks a topic, or no episode is left of it.
    """
    episodes, dropped, hint = _read(Path(path), robot, spec, timing, include_failures)
    return episodes, _report(episodes, dropped, f"the bag {path}", hint)


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
    episodes = [episode for found, _, _ in results for episode in found]
    dropped = sum((counts for _, counts, _ in results), collections.Counter[str]())
    hint = next((hint for _, _, hint in results if hint), "")
    return episodes, _report(episodes, dropped, f"{len(arguments)} bags in {', '.join(map(str, paths))}", hint)


def _read(
    path: Path, robot: Robot, spec: ObservationSpec, timing: Timing, include_failures: bool
) -> tuple[list[Episode], collections.Counter[str], str]:
    """Read one bag: its episodes (perhaps none), what was dropped, and what to check where nothing came out."""
    with open_bag(path) as recording:
        cutter = EpisodeCutter(recording, robot, spec, timing)
        episodes = list(cutter.episodes(include_failures))
    return episodes, cutter.dropped, _hint(cutter.commands)


def _hint(commands: Commands) -> str:
    """What to check where no episode came out."""
    if not commands.segments:
        return ". It has neither an episode marker nor a language command: start episodes with the recorder's services"
    if abs(commands.delay_s) > CLOCKS_APART_S:
        return (
            f". Messages were received {commands.delay_s:.0f} s after their stamps: two clocks are in this recording. "
            "Record a simulation with --use-sim-time; synchronise the clocks of a robot and its computers"
        )
    return ""


def _report(episodes: Sequence[Episode], dropped: collections.Counter[str], source: str, hint: str) -> ReadReport:
    counted = tuple((why, count) for why, count in dropped.most_common() if count)
    report = ReadReport(sum(map(len, episodes)), len(episodes), counted)
    if not episodes:
        raise BagError(f"no episode is left of {source}; dropped: {report.dropped_text()}{hint}")
    return report
