# SPDX-License-Identifier: Apache-2.0
"""The demonstrations that a recipe names, from whatever format, out of the store."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.source import bag_parts
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.parts import Part
from vla_ros.datasets.sources import PARTS, load_demonstrations, require_distinct
from vla_ros.robot import load_robot
from vla_ros.train.config import ConfigError, DataConfig, SourceConfig, TrainConfig
from vla_ros.train.data import split_episodes


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """The episodes of one source, and its weight among the sources (None: no source has one).

    ``key`` is its name in the recipe; ``parts`` are what it was read from, ``contents`` the digests of their files.
    """

    episodes: Sequence[Episode]
    weight: float | None = None
    key: str = ""
    parts: Sequence[Part] = ()
    contents: Sequence[str] = ()


def read_demonstrations(config: TrainConfig, spec: ObservationSpec, timing: Timing) -> list[Demonstrations]:
    """Read what ``config.data`` names, and say what was left out.

    Raises:
        ConfigError: it names nothing.
        UserError: a source can't be read, or a recording is named twice.
    """
    data = config.data
    if data.bags:
        sources = [_bags(data, data.bags, "data.bags", spec, timing)]
    elif data.sources:
        sources = [
            _load(data, _parts(data, source, spec, timing), f"data.sources[{index}]", source.weight)
            for index, source in enumerate(data.sources)
        ]
    else:
        raise ConfigError("data.bags is empty; list bag folders there, or give --bags PATH, or list data.sources")
    _require_distinct(sources)
    return sources


def read_rehearsed(
    config: TrainConfig, sources: Sequence[Demonstrations], spec: ObservationSpec, timing: Timing
) -> Sequence[Episode]:
    """Read the bags of old tasks, ``config.keep.bags``, and say what was left out.

    Raises:
        UserError: a bag can't be read, or is one of ``sources``, too: all of these are trained on.
    """
    rehearsed = _bags(config.data, config.keep.bags, "keep.bags", spec, timing)
    _require_distinct([*sources, rehearsed])
    return rehearsed.episodes


def split_demonstrations(
    sources: Sequence[Demonstrations], validation_fraction: float, seed: int
) -> tuple[list[Episode], list[Episode], list[tuple[int, float]]]:
    """Return (training, validation, shares): each source is split by itself, so that both parts have all of them.

    ``shares`` is (training episodes, weight) for each source, empty where sources have no weights.
    """
    training: list[Episode] = []
    validation: list[Episode] = []
    shares: list[tuple[int, float]] = []
    for source in sources:
        kept, held_out = split_episodes(source.episodes, validation_fraction, seed)
        training += kept
        validation += held_out
        if source.weight is not None:
            shares.append((len(kept), source.weight))
    return training, validation, shares


def _require_distinct(sources: Sequence[Demonstrations]) -> None:
    require_distinct([(source.key, source.parts, source.contents) for source in sources])


def _bags(data: DataConfig, bags: Sequence[str], key: str, spec: ObservationSpec, timing: Timing) -> Demonstrations:
    return _load(data, _bag_parts(data, bags, spec, timing), key)


def _bag_parts(data: DataConfig, bags: Sequence[str], spec: ObservationSpec, timing: Timing) -> list[Part]:
    return bag_parts(bags, load_robot(data.robot), spec, timing, data.include_failures, data.policy_frames)


def _parts(data: DataConfig, source: SourceConfig, spec: ObservationSpec, timing: Timing) -> list[Part]:
    if source.format == "bags":
        return _bag_parts(data, [source.path], spec, timing)
    return PARTS[source.format](Path(source.path), spec, timing)


def _load(data: DataConfig, parts: Sequence[Part], key: str, weight: float | None = None) -> Demonstrations:
    label = f"the {len(parts)} parts of {key}, {', '.join(part.name for part in parts[:5])}"
    folder = Path(data.store) if data.store else None
    with Progress(disable=not sys.stdout.isatty(), transient=True) as bar:
        task = bar.add_task(f"decoding {key}", total=len(parts), start=False)

        def show(done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done, total=total)
            if not sys.stdout.isatty() and (done == total or done % max(1, total // 10) == 0):
                print(f"{key}: decoded {done} of {total}", flush=True)

        loaded, report = load_demonstrations(parts, label, folder, data.workers, show)
    print(f"{key}: {report.episodes} episodes, {report.frames} frames; left out: {report.dropped_text()}")
    return Demonstrations(loaded.episodes, weight, key, parts, loaded.contents)
