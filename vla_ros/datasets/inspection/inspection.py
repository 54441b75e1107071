# SPDX-License-Identifier: Apache-2.0
"""Inspect recorded bags: what training would make of them, and how good it is, as one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PROPRIOCEPTION_UNITS, Camera, ObservationSpec, Timing
from vla_ros.datasets.agreement.agreement import Agreement, compare
from vla_ros.datasets.agreement.remedies import refuses, remedy
from vla_ros.datasets.agreement.tracks import Track
from vla_ros.datasets.bags.episodes.cutting import EpisodeCutter
from vla_ros.datasets.bags.episodes.segmentation import annotations_of
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import BagError
from vla_ros.datasets.inspection.episode_metrics import EpisodeMetrics
from vla_ros.datasets.inspection.metrics import GRIPPERS, StreamMetrics, topic_metrics
from vla_ros.datasets.sources import dropped_text
from vla_ros.grid import Grid
from vla_ros.robot import Robot

# The shipped recipe's (config/train/tabletop.json); less if the control period is shorter.
SETTLE_S = 0.04
THUMBNAIL_PIXELS = 96


def everything(robot: Robot, control_hz: float, height: int, width: int) -> tuple[ObservationSpec, Timing]:
    """Return how to sample all cameras, at one size, and all states that the robot file provides."""
    cameras = tuple(Camera(name, height, width, "pad") for name in robot.cameras)
    sources = {name: robot.ee_pose if name.startswith("ee_") else robot.gripper_state for name in PROPRIOCEPTION_UNITS}
    states = tuple(name for name, source in sources.items() if source is not None)
    settle_s = min(SETTLE_S, 0.8 / control_hz) if control_hz > 0 else SETTLE_S
    return ObservationSpec(cameras, states), Timing(control_hz, 1, 1, settle_s)


class Inspection:
    """Collects metrics bag by bag."""

    def __init__(self, robot: Robot, control_hz: float) -> None:
        self._robot = robot
        self._spec, self._timing = everything(robot, control_hz, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
        self.episodes = EpisodeMetrics(tuple(robot.cameras))
        self._received: dict[str, tuple[str, list[NDArray[np.int64]]]] = {}
        self._streams: list[StreamMetrics] = []
        self._rows: list[dict[str, Any]] = []
        self._dropped: Counter[str] = Counter()
        self._damage: list[str] = []
        self._faults: list[str] = []
        self._problems: list[dict[str, str]] = []
        self._doubts: list[str] = []
        self._agreements: list[dict[str, Any]] = []

    def add(self, bag: Path) -> None:
        """Inspect one bag. If training could not use it, the report says so as a problem."""
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
        cutter = EpisodeCutter(recording, self._robot, self._spec, self._timing, annotations_of(recording.path))
        found = list(cutter.episodes(include_failures=True))
        self._streams.append(StreamMetrics(recording, self._robot))
        self._faults += [f"{recording.path}: {text}" for text in self._streams[-1].faults]
        self._rows += _episode_rows(recording, cutter, found, self._timing.grid)
        self._dropped += cutter.dropped
        for episode in found:
            self.episodes.add(episode)
        self._compare(recording.path, found)
        if not found:
            problem = f"it has no usable episode; left out: {dropped_text(cutter.dropped)}"
            self._problems.append({"bag": str(recording.path), "problem": problem})

    def _compare(self, bag: Path, episodes: Sequence[Episode]) -> None:
        """Compare actions with measured motion; what `vla fit` would refuse is a problem."""
        tracks = [Track.of(episode, self._spec.proprioception) for episode in episodes]
        agreement = compare(tracks, self._timing.grid.period_s)
        self._agreements += _agreement_rows(bag, agreement)
        for one in agreement.contradictions:
            text = f"{one.name}: {one.detail}; {remedy(one, agreement, 'bags', self._robot)}"
            if refuses(one, "bags"):
                self._problems.append({"bag": str(bag), "problem": text})
            else:
                self._doubts.append(f"{bag}: {text}")

    def report(self) -> dict[str, Any]:
        """Return the report on all bags as plain data."""
        streams = dict.fromkeys(name for metrics in self._streams for name in metrics.out_of_order)
        return {
            "topics": {name: topic_metrics(kind, times) for name, (kind, times) in sorted(self._received.items())},
            "streams": {name: self._stream(name) for name in streams},
            "skew_s": _quantiles(np.concatenate([np.zeros(0), *(metrics.skews_s for metrics in self._streams)])),
            "episodes": self._rows,
            "dropped": [{"why": why, "count": count} for why, count in self._dropped.most_common() if count],
            "damage": self._damage,
            "transforms": self._faults,
            "agreement": self._agreements,
            "doubts": self._doubts,
            "grippers": self._grippers(self.episodes.actions),
            **self.episodes.report(self._robot, self._timing.grid.period_s),
            "problems": self._problems,
        }

    def _grippers(self, actions: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        """Return the range of the raw values beside what the robot file calls closed and open, and of the labels."""
        rows = {}
        for name in GRIPPERS:
            ranges = [metrics.grippers[name] for metrics in self._streams if name in metrics.grippers]
            stream = getattr(self._robot, name)
            if ranges:
                low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
                rows[name] = {"min": low, "max": high, "closed": stream.closed, "open": stream.open}
        if len(actions):
            low, high = float(actions[:, 6].min()), float(actions[:, 6].max())
            rows["labels"] = {"min": low, "max": high, "closed": 0.0, "open": 1.0}
        return rows

    def _stream(self, name: str) -> dict[str, Any]:
        """Return one stream's metrics over all bags: medians of delays and lags, sums of bad stamps."""
        delays = [metrics.delays[name] for metrics in self._streams if name in metrics.delays]
        lags = [lag for metrics in self._streams if (lag := metrics.lags.get(name)) is not None]
        lag_s = float(np.median([lag.lag_s for lag in lags])) if lags else None
        stream = self._robot.cameras.get(name) or getattr(self._robot, name)
        latency_s = float(stream.latency_s)
        return {
            "key": f"cameras.{name}" if name in self._robot.cameras else name,
            "stamp": getattr(stream, "stamp", "receive"),
            "delay_s": float(np.median([median for median, _ in delays])) if delays else None,
            "delay_95_s": float(np.max([high for _, high in delays])) if delays else None,
            "out_of_order": sum(metrics.out_of_order.get(name, 0) for metrics in self._streams),
            "repeated_stamps": sum(metrics.repeated.get(name, 0) for metrics in self._streams),
            "latency_s": latency_s,
            "lag_behind_ee_pose_s": lag_s,
            "lag_error_s": float(np.median([lag.error_s for lag in lags])) if lags else None,
            "lag_correlation": float(np.median([lag.correlation for lag in lags])) if lags else None,
            "suggested_latency_s": latency_s + lag_s if lag_s is not None else None,
        }


def _agreement_rows(bag: Path, agreement: Agreement) -> list[dict[str, Any]]:
    """Return one row for the linear and one for the angular velocities, if the tool moved enough to compare them."""
    return [
        {
            "bag": str(bag),
            "velocities": name,
            "axes": ", ".join(part.moved),
            "correlation": part.correlation,
            "gain": None if part.gain is None else float(np.sqrt(part.gain[0] * part.gain[1])),
            "delay_s": None if part.delay is None else part.delay.delay_s,
            "delay_error_s": None if part.delay is None else part.delay.error_s,
        }
        for name, part in agreement.motion.items()
        if part.moved
    ]


def _episode_rows(
    recording: Recording, cutter: EpisodeCutter, episodes: Sequence[Episode], grid: Grid
) -> list[dict[str, Any]]:
    """Return one row per recorded episode, whether or not it is usable, and however many pieces it was cut into."""
    rows, interventions = [], cutter.interventions
    for segment in cutter.segmentation.segments:
        pieces = [episode for episode in episodes if segment.start_ns <= episode.start_ns < segment.stop_ns]
        row = {
            "bag": str(recording.path),
            "source": f"{recording.path.name}#{segment.number}",
            "from": cutter.segmentation.origin,
            "task": segment.task,
            "command": pieces[0].command if pieces else "",
            "phrasings": list(segment.texts),
            "outcome": segment.outcome,
            "by_hand": None if interventions is None else interventions.share(segment, grid),
            "frames": sum(map(len, pieces)),
            "pieces": len(pieces),
            "duration_s": (segment.stop_ns - segment.start_ns) / 1e9,
        }
        rows.append(row)
    return rows


def _quantiles(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"median": float(np.median(values)), "q95": float(np.quantile(values, 0.95)), "max": float(values.max())}
