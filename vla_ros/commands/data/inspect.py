# SPDX-License-Identifier: Apache-2.0
"""Say what is in recorded bags: streams, episodes, what training would leave out and why, and how good the rest is.

  vla inspect bags/open_drawer                     one bag, of the simulated arm
  vla inspect bags --robot config/robots/mine.yaml all bags in a folder, of your robot
  vla inspect bags --html report.html              with pictures and histograms, one file to look at or to send
  vla inspect bags --json report.json              the same for programs
  vla inspect --recover bags/open_drawer.partial   write what a killed recorder left as a whole bag

Exit status: 0, or 1 when training could not use a bag.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.cutting import EpisodeCutter
from vla_ros.datasets.bags.episodes.segmentation import annotations_of
from vla_ros.datasets.bags.open_bag import find_bags, open_bag
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.recovery import recover
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import BagError
from vla_ros.datasets.inspection import tables
from vla_ros.datasets.inspection.html import page
from vla_ros.datasets.inspection.metrics import (
    StreamFigures,
    action_figures,
    motion_figures,
    picture_figures,
    topic_figures,
)
from vla_ros.robot import Robot, load_robot

# Counts do not depend on the size of the pictures; thumbnails are this big.
PIXELS = 96
# As the shipped recipe reads bags (config/train/tabletop.json); less where the control period is shorter.
SETTLE_S = 0.04
# Episodes whose pictures are shown.
SHOWN_EPISODES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vla inspect`."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="a bag, or a folder of bags")
    parser.add_argument(
        "--robot", default="tabletop", help="name in config/robots, or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--control-hz", type=float, default=10.0, help="rate to sample at (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report with pictures as one HTML file")
    parser.add_argument(
        "--recover", action="store_true", help="write each unfinished bag as the whole bag BAG_recovered, inspect it"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report on `args.bags`; return 1 when one of them could not be used."""
    robot = load_robot(args.robot)
    paths = [recover(path) for path in args.bags] if args.recover else args.bags
    inspection = Inspection(robot, args.control_hz)
    for bag in find_bags(paths):
        inspection.add(bag)
    report = inspection.report()
    for path, text in (
        (args.json, json.dumps(report, indent=2) + "\n"),
        (args.html, page(tables.of(report), report, inspection.thumbnails)),
    ):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    tables.show(report, Console())
    return 1 if report["problems"] else 0


class Inspection:
    """Collects figures bag by bag; pictures are kept only as thumbnails.

    thumbnails: (name and command, camera -> first, middle and last picture) of the first episodes.
    """

    def __init__(self, robot: Robot, control_hz: float) -> None:
        self._robot = robot
        self._timing = Timing(control_hz, 1, 1, min(SETTLE_S, 0.8 / control_hz if control_hz > 0 else SETTLE_S))
        self.thumbnails: list[tuple[str, dict[str, list[NDArray]]]] = []
        self._received: dict[str, tuple[str, list[NDArray[np.int64]]]] = {}
        self._streams: list[StreamFigures] = []
        self._rows: list[dict[str, Any]] = []
        self._actions: list[NDArray[np.float64]] = []
        self._commands: Counter[str] = Counter()
        self._pictures: dict[str, Counter[str]] = {name: Counter() for name in robot.cameras}
        self._dropped: Counter[str] = Counter()
        self._damage: list[str] = []
        self._faults: list[str] = []
        self._problems: list[dict[str, str]] = []

    def add(self, bag: Path) -> None:
        """Inspect one bag; one that training could not use is a problem in the report."""
        try:
            with open_bag(bag) as recording:
                try:
                    self._add(recording)
                finally:
                    self._damage += [f"{bag}: {text}" for text in recording.damage]
        except BagError as error:
            self._problems.append({"bag": str(bag), "problem": str(error)})

    def _add(self, recording: Recording) -> None:
        for topic, times_ns in recording.receive_times_ns().items():
            self._received.setdefault(topic, (recording.topics[topic].type, []))[1].append(times_ns)
        rows = annotations_of(recording.path)
        cutter = EpisodeCutter(recording, self._robot, _everything(self._robot), self._timing, rows)
        found = list(cutter.episodes(include_failures=True))
        self._streams.append(StreamFigures(recording, self._robot))
        self._faults += [f"{recording.path}: {text}" for text in self._streams[-1].faults]
        self._rows += _episode_rows(recording, cutter, found, self._timing.period_ns)
        self._dropped += cutter.dropped
        for episode in found:
            self._add_episode(episode)
        if not found:
            self._problems.append({"bag": str(recording.path), "problem": "no episode is left of it"})

    def _add_episode(self, episode: Episode) -> None:
        self._actions.append(episode.actions)
        self._commands[episode.command] += len(episode)
        for camera, pictures in episode.images.items():
            self._pictures[camera].update(picture_figures(pictures))
        if len(self.thumbnails) < SHOWN_EPISODES:
            shown = dict.fromkeys((0, len(episode) // 2, len(episode) - 1))
            pictures_of = {name: [pictures[index] for index in shown] for name, pictures in episode.images.items()}
            self.thumbnails.append((f"{episode.source}: {episode.command}", pictures_of))

    def report(self) -> dict[str, Any]:
        """Return what is in the bags as plain data."""
        actions = np.concatenate([np.zeros((0, 7)), *self._actions])
        return {
            "topics": {name: topic_figures(kind, times) for name, (kind, times) in sorted(self._received.items())},
            "streams": {name: self._stream(name) for name in _names(self._streams)},
            "skew_s": _quantiles(np.concatenate([np.zeros(0), *(figures.skews_s for figures in self._streams)])),
            "episodes": self._rows,
            "frames": len(actions),
            "dropped": [{"why": why, "count": count} for why, count in self._dropped.most_common() if count],
            "damage": self._damage,
            "transforms": self._faults,
            "actions": action_figures(actions),
            "motion": motion_figures(self._actions, self._robot, self._timing.period_ns / 1e9),
            "cameras": {name: dict(figures) for name, figures in self._pictures.items()},
            "language": dict(self._commands.most_common()),
            "problems": self._problems,
        }

    def _stream(self, name: str) -> dict[str, Any]:
        """Figures of one stream over all bags: medians of delays and lags, sums of what is wrong with stamps."""
        delays = [figures.delays[name] for figures in self._streams if name in figures.delays]
        lags = [lag for figures in self._streams if (lag := figures.lags.get(name)) is not None]
        lag_s = float(np.median([lag.lag_s for lag in lags])) if lags else None
        configured = _latency_s(self._robot, name)
        return {
            "delay_s": float(np.median([median for median, _ in delays])) if delays else None,
            "delay_95_s": float(np.max([high for _, high in delays])) if delays else None,
            "out_of_order": sum(figures.out_of_order.get(name, 0) for figures in self._streams),
            "repeated_stamps": sum(figures.repeated.get(name, 0) for figures in self._streams),
            "latency_s": configured,
            "lag_behind_ee_pose_s": lag_s,
            "lag_correlation": float(np.median([lag.correlation for lag in lags])) if lags else None,
            "suggested_latency_s": configured + lag_s if lag_s is not None else None,
        }


def known_proprioception(robot: Robot) -> tuple[str, ...]:
    """Return all states that the robot's file gives."""
    return tuple(
        name for name in PROPRIOCEPTION_UNITS
        if (robot.ee_pose if name.startswith("ee_") else robot.gripper_state) is not None
    )  # fmt: skip


def _everything(robot: Robot) -> ObservationSpec:
    """All that the robot's file names, as if a policy wanted it."""
    return ObservationSpec(
        tuple(Camera(name, PIXELS, PIXELS, "pad") for name in robot.cameras), known_proprioception(robot)
    )


def _episode_rows(
    recording: Recording, cutter: EpisodeCutter, episodes: Sequence[Episode], period_ns: int
) -> list[dict[str, Any]]:
    """One row for each episode of the recording, usable or not, whether it was cut or not."""
    rows, who = [], cutter.interventions
    for segment in cutter.segmentation.segments:
        pieces = [episode for episode in episodes if segment.start_ns <= episode.start_ns < segment.stop_ns]
        rows.append({
            "bag": str(recording.path),
            "source": f"{recording.path.name}#{segment.number}",
            "from": cutter.segmentation.origin,
            "task": segment.task,
            "command": pieces[0].command if pieces else "",
            "phrasings": list(segment.texts),
            "outcome": segment.outcome,
            "by_hand": None if who is None else who.share(segment, period_ns),
            "frames": sum(map(len, pieces)),
            "pieces": len(pieces),
            "duration_s": (segment.stop_ns - segment.start_ns) / 1e9,
        })  # fmt: skip
    return rows


def _names(streams: Sequence[StreamFigures]) -> list[str]:
    return list(dict.fromkeys(name for figures in streams for name in figures.out_of_order))


def _latency_s(robot: Robot, name: str) -> float:
    if name in robot.cameras:
        return robot.cameras[name].latency_s
    return float(getattr(robot, name).latency_s)


def _quantiles(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"median": float(np.median(values)), "q95": float(np.quantile(values, 0.95)), "max": float(values.max())}
