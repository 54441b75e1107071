# SPDX-License-Identifier: Apache-2.0
"""Write annotations.csv beside bags: a table of their episodes, to be corrected by a person and followed by training.

  vla annotate bags                                writes bags/annotations.csv, or adds missing bags to it
  vla annotate bags --robot config/robots/mine.yaml

One row per episode: bag, start and end in seconds from the bag's first message, text (phrasings separated by |), keep
(yes or no; if empty, yes as soon as there is a text), outcome (success, failure or unknown) and task. Rows are filled
in from the bags' markers, language commands and custom data. A bag without any of these gets one row without a text,
for you to fill in. Existing rows are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vla_ros.datasets.bags.episodes.segmentation import (
    TABLE,
    Annotation,
    Segment,
    find_segments,
    read_table,
    spoken_commands,
    write_table,
)
from vla_ros.datasets.bags.open_bag import find_bags, open_bag
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.episode import OUTCOMES
from vla_ros.datasets.errors import BagError
from vla_ros.files import absolute
from vla_ros.robot import Robot, load_robot


class Arguments(argparse.Namespace):
    bags: list[Path]
    robot: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla annotate`."""
    parser.add_argument("bags", nargs="+", type=absolute, metavar="BAG", help="a bag, or a folder of bags")
    parser.add_argument(
        "--robot", default="tabletop", help="name in config/robots, or YAML file (default: %(default)s)"
    )


def run(args: Arguments) -> int:
    """Write or extend the table of each folder with bags."""
    robot = load_robot(args.robot)
    by_folder: dict[Path, list[Path]] = {}
    for bag in find_bags(args.bags):
        by_folder.setdefault(bag.parent, []).append(bag)
    for folder, bags in by_folder.items():
        table = folder / TABLE
        known = read_table(table) if table.is_file() else []
        names = {row.bag for row in known}
        added = [row for bag in bags if bag.name not in names for row in describe(bag, robot)]
        write_table(table, [*known, *added])
        unclear = f", {sum(not row.text for row in added)} without a text" if any(not row.text for row in added) else ""
        print(f"{table}: {len(known)} rows kept, {len(added)} added{unclear}")
    return 0


def describe(bag: Path, robot: Robot) -> list[Annotation]:
    """Return the rows of a bag according to its recording; one row without a text if it says nothing.

    Raises:
        BagError: the bag can't be read, or a marker in it is malformed.
    """
    with open_bag(bag) as recording:
        spoken = spoken_commands(recording, robot)
        try:
            segments: Sequence[Segment] = find_segments(recording, robot, None).segments
        except BagError:
            if spoken:
                raise
            segments = []
        whole = Segment(recording.start_ns, recording.end_ns, 0, "", "unknown")
        return [_row(recording, segment, spoken) for segment in segments or [whole]]


def _row(recording: Recording, segment: Segment, spoken: Sequence[tuple[int, str]]) -> Annotation:
    said = [text for time_ns, text in spoken if text and time_ns < segment.stop_ns]
    text = " | ".join(segment.texts) or (said[-1] if said else "")
    start_s = (segment.start_ns - recording.start_ns) / 1e9
    end_s = (segment.stop_ns - recording.start_ns) / 1e9
    keep = None if segment.usable(include_failures=True) and not text else segment.usable(include_failures=True)
    task = segment.task if segment.task != text else ""
    outcome = segment.outcome if segment.outcome in OUTCOMES else "unknown"
    return Annotation(recording.path.name, max(start_s, 0.0), end_s, text, keep, outcome, task)
