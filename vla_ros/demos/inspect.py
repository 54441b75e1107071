# SPDX-License-Identifier: Apache-2.0
"""Say what is in recorded bags: topics and rates, episodes, what training would leave out and why, and action ranges.

  vla inspect bags/open_drawer                     one bag, of the simulated arm
  vla inspect bags --robot config/robots/mine.yaml all bags in a folder, of your robot
  vla inspect bags --json report.json              the same for programs
  vla inspect --recover bags/open_drawer.partial   save what a killed recorder left

Exit status: 0, or 1 when training could not use a bag.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros.contract import ARM_AXES, ARM_UNITS, PROPRIOCEPTION_UNITS, Camera, ObservationSpec, Timing
from vla_ros.demos.cutting import EpisodeCutter
from vla_ros.demos.episode import Episode
from vla_ros.demos.errors import BagError
from vla_ros.demos.recording import Recording, find_bags, open_bag
from vla_ros.demos.recovery import recover
from vla_ros.robot import Robot, load_robot

# Counts do not depend on the size of the pictures.
PIXELS = 64
# As the shipped recipe reads bags (config/train/tabletop.json); less where the control period is shorter.
SETTLE_S = 0.04


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla inspect`."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="a bag's folder, or a folder of bags")
    parser.add_argument(
        "--robot", default="tabletop", help="name in config/robots, or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--control-hz", type=float, default=10.0, help="rate to sample at (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    parser.add_argument(
        "--recover", action="store_true", help="save each unfinished BAG.partial as BAG_recovered, then inspect it"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report on `args.bags`; return 1 when one of them could not be used."""
    robot = load_robot(args.robot)
    paths = [recover(path) for path in args.bags] if args.recover else args.bags
    report = inspect(find_bags(paths), robot, args.control_hz)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    show(report, Console())
    return 1 if report["problems"] else 0


def inspect(bags: Sequence[Path], robot: Robot, control_hz: float) -> dict[str, Any]:
    """Return what is in `bags` as plain data: topics, episodes, frames, dropped, actions, problems."""
    timing = Timing(control_hz, 1, 1, min(SETTLE_S, 0.8 / control_hz if control_hz > 0 else SETTLE_S))
    times_ns: dict[str, tuple[str, list[list[int]]]] = {}
    rows: list[dict[str, Any]] = []
    episodes: list[Episode] = []
    dropped: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    for bag in bags:
        try:
            with open_bag(bag) as recording:
                for topic, received in recording.receive_times_ns().items():
                    times_ns.setdefault(topic, (recording.topics[topic].type, []))[1].append(received)
                cutter = EpisodeCutter(recording, robot, _everything(robot), timing)
                found = list(cutter.episodes(include_failures=True))
        except BagError as error:
            problems.append({"bag": str(bag), "problem": str(error)})
            continue
        rows += _episode_rows(recording, cutter, found)
        episodes += found
        dropped += cutter.dropped
        if not found:
            problems.append({"bag": str(bag), "problem": "no episode is left of it"})
    return {
        "topics": {topic: _topic_row(kind, received) for topic, (kind, received) in sorted(times_ns.items())},
        "episodes": rows,
        "frames": sum(map(len, episodes)),
        "dropped": [{"why": why, "count": count} for why, count in dropped.most_common() if count],
        "actions": _action_ranges(episodes),
        "problems": problems,
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report of `inspect` as tables."""
    topics = [
        (topic, row["type"], row["messages"], "-" if row["rate_hz"] is None else f"{row['rate_hz']:.1f}")
        for topic, row in report["topics"].items()
    ]
    _table(console, "topics", ("topic", "type", "messages", "rate [Hz]"), topics)
    episodes = [
        (row["source"], row["task"], row["command"], row["outcome"], row["frames"], f"{row['duration_s']:.1f}")
        for row in report["episodes"]
    ]
    _table(console, "episodes", ("episode", "task", "command", "outcome", "frames", "duration [s]"), episodes)
    ranges = [
        (axis, row["unit"], f"{row['min']:.3f}", f"{row['mean']:.3f}", f"{row['max']:.3f}")
        for axis, row in report["actions"].items()
    ]
    _table(console, "actions", ("axis", "unit", "min", "mean", "max"), ranges)
    _table(console, "left out", ("why", "frames"), [(row["why"], row["count"]) for row in report["dropped"]])
    usable = Counter(row["outcome"] for row in report["episodes"] if row["frames"])
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in usable.most_common()) or "none"
    console.print(f"{report['frames']} frames in {sum(usable.values())} episodes ({outcomes})")
    for row in report["problems"]:
        console.print(f"[bold red]problem[/] {escape(row['bag'])}: {escape(row['problem'])}")


def _everything(robot: Robot) -> ObservationSpec:
    """All that the robot's file names, as if a policy wanted it."""
    names = tuple(
        name for name in PROPRIOCEPTION_UNITS
        if (robot.ee_pose if name.startswith("ee_") else robot.gripper_state) is not None
    )  # fmt: skip
    return ObservationSpec(tuple(Camera(name, PIXELS, PIXELS) for name in robot.cameras), names)


def _episode_rows(recording: Recording, cutter: EpisodeCutter, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """One row for each episode of the recording, usable or not, whether it was cut or not."""
    rows = []
    for segment in cutter.commands.segments:
        pieces = [episode for episode in episodes if segment.start_ns <= episode.start_ns < segment.stop_ns]
        rows.append({
            "bag": str(recording.path),
            "source": f"{recording.path.name}#{segment.number}",
            "task": segment.task,
            "command": pieces[0].command if pieces else "",
            "outcome": segment.outcome,
            "frames": sum(map(len, pieces)),
            "pieces": len(pieces),
            "duration_s": (segment.stop_ns - segment.start_ns) / 1e9,
        })  # fmt: skip
    return rows


def _topic_row(kind: str, received: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Type, number and rate of a topic's messages; the rate is of the median interval, so pauses do not count."""
    intervals_s = [gap / 1e9 for times_ns in received for gap in np.diff(sorted(times_ns)).tolist()]
    interval_s = statistics.median(intervals_s) if len(intervals_s) > 1 else 0.0
    messages = sum(map(len, received))
    return {"type": kind, "messages": messages, "rate_hz": 1 / interval_s if interval_s > 0 else None}


def _action_ranges(episodes: Sequence[Episode]) -> dict[str, dict[str, Any]]:
    if not episodes:
        return {}
    actions = np.concatenate([episode.actions for episode in episodes])
    columns = zip((*ARM_AXES, "gripper"), (*ARM_UNITS, "0 closed, 1 open"), actions.T, strict=True)
    return {
        axis: {"unit": unit, "min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
        for axis, unit, values in columns
    }


def _table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name, value in zip(header, rows[0], strict=True):
        numeric = isinstance(value, int) or name.endswith("]") or name in ("min", "mean", "max")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)
