# SPDX-License-Identifier: Apache-2.0
"""Inspect a data set that is no bag: how it is read, what training would make of it, and what of it is missing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.calvin.segments import WithoutLanguage
from vla_ros.datasets.contents import Contents
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.inspection.episode_metrics import EpisodeMetrics
from vla_ros.datasets.inspection.inspection import THUMBNAIL_PIXELS
from vla_ros.datasets.inspection.report import Thumbnails
from vla_ros.datasets.shards import SourceShard
from vla_ros.datasets.sources import CONTENTS, FORMATS, Source
from vla_ros.errors import UserError

# Of a large data set this many shards are decoded, evenly spaced: the whole of DROID would take days.
SAMPLED_SHARDS = 4


class Inspected(NamedTuple):
    """A report as on bags, its images, and how the data set was read; None if it can't be."""

    report: dict[str, Any]
    thumbnails: Thumbnails
    source: Source
    contents: Contents | None


def inspect_source(source: Source, control_hz: float | None = None, every_shard: bool = False) -> Inspected:
    """Inspect the data set at the one path of `source`, with all its cameras and states.

    Args:
        control_hz: the rate to sample at; None, or more than the data set has, for that of the data set.
        every_shard: decode more than `SAMPLED_SHARDS`.
    """
    path = Path(source.paths[0])
    about: dict[str, Any] = {"format": source.format, "paths": [str(path)], "read_as": source.format, "notes": []}
    try:
        contents = CONTENTS[source.format](path)
        rate_hz = control_hz if control_hz and control_hz <= contents.rate_hz else float(contents.rate_hz)
        cameras = tuple(Camera(name, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, "pad") for name in contents.cameras)
        sampling = ObservationSpec(cameras, contents.states), Timing(rate_hz, 1, 1, settle_s=0.0)
        source, shards, notes = _list(source, *sampling)
    except UserError as error:
        return Inspected(_report(about, EpisodeMetrics(()), 1.0, problems=[_problem(path, error)]), [], source, None)
    count = len(shards) if every_shard else min(SAMPLED_SHARDS, len(shards))
    chosen = [shards[index] for index in np.linspace(0, len(shards) - 1, count).round().astype(int)]
    about |= {
        "read_as": contents.read_as,
        "rate_hz": float(contents.rate_hz),
        "control_hz": rate_hz,
        "shards": [len(chosen), len(shards)],
        "notes": list(dict.fromkeys([*notes, *(note for shard in shards for note in shard.notes)])),
    }
    metrics = EpisodeMetrics(contents.cameras)
    report = _report(about, metrics, 1 / rate_hz, **_decode(chosen, metrics, 1 / rate_hz))
    return Inspected(report, metrics.thumbnails, source, contents)


def _list(source: Source, spec: ObservationSpec, timing: Timing) -> tuple[Source, list[SourceShard], list[str]]:
    """Return the shards, and how they were listed: a split of CALVIN without language is read as motion."""
    try:
        return source, FORMATS[source.format](source, spec, timing), []
    except WithoutLanguage as error:
        motion = dataclasses.replace(source, motion_only=True)
        return motion, FORMATS[source.format](motion, spec, timing), [str(error)]


def _decode(shards: Sequence[SourceShard], metrics: EpisodeMetrics, period_s: float) -> dict[str, Any]:
    """Decode `shards` into `metrics`, and return what a report says beside them."""
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    damage: list[str] = []
    problems: list[dict[str, str]] = []
    for shard in shards:

        def add(episode: Episode, shard: SourceShard = shard) -> None:
            metrics.add(episode)
            rows.append(_row(shard, episode, period_s))

        try:
            report = shard.decode(add)
        except UserError as error:
            problems.append(_problem(shard.root / shard.name, error))
            continue
        dropped.update(report.dropped)
        damage += report.damage
    if not rows and not problems:
        problems.append({"bag": str(shards[0].root), "problem": "it has no usable episode"})
    left_out = [{"why": why, "count": count} for why, count in dropped.most_common() if count]
    return {"episodes": rows, "dropped": left_out, "damage": damage, "problems": problems}


def _problem(where: Path, error: UserError) -> dict[str, str]:
    return {"bag": str(where), "problem": str(error)}


def _row(shard: SourceShard, episode: Episode, period_s: float) -> dict[str, Any]:
    return {
        "bag": str(shard.root),
        "source": episode.source,
        "from": "held out" if shard.held_out else "",
        "task": episode.task,
        "command": episode.command,
        "phrasings": list(episode.phrasings),
        "outcome": episode.outcome,
        "by_hand": None,
        "frames": len(episode),
        "pieces": 1,
        "duration_s": len(episode) * period_s,
    }


def _report(about: dict[str, Any], metrics: EpisodeMetrics, period_s: float, **found: Any) -> dict[str, Any]:
    """Return a report with the keys of one on bags, those on messages being empty."""
    empty: dict[str, Any] = {"topics": {}, "streams": {}, "skew_s": None, "transforms": []}
    empty |= {"agreement": [], "doubts": [], "grippers": {}}
    rows: dict[str, Any] = {"episodes": [], "dropped": [], "damage": [], "problems": []}
    return {"source": about, **empty, **rows, **found, **metrics.report(None, period_s)}
