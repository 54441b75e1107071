# SPDX-License-Identifier: Apache-2.0
"""Load demonstrations of any format, through the store.

`FORMATS` is the only place where a format is registered: recipes and the store's fingerprint derive from it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.calvin.reader import calvin_contents, calvin_shards
from vla_ros.datasets.calvin.segments import is_split, splits_inside
from vla_ros.datasets.contents import Contents
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.lerobot.metadata import INFO
from vla_ros.datasets.lerobot.reader import lerobot_contents, lerobot_shards
from vla_ros.datasets.rlds.listing import has_shards, is_shard, versions_below
from vla_ros.datasets.rlds.reader import rlds_contents, rlds_shards
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.store import Progress, load_shards
from vla_ros.files import absolute
from vla_ros.robot import Robot

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """Demonstrations of one format. The robot and what follows it are those of bags; see `BagReader`."""

    name: str  # what messages call it, for instance its key in the recipe
    format: str  # a key of `FORMATS`
    paths: Sequence[str | Path]  # bags or folders of bags; for other formats folders, see docs/data.md; become absolute
    robot: Robot | None = None
    include_failures: bool = False
    policy_frames: Literal["drop", "imitate"] = "drop"
    annotations: str | None = None  # of CALVIN; see `calvin_shards`
    motion_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(map(absolute, self.paths)))


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """The episodes of one source."""

    episodes: Sequence[Episode]
    weight: float | None = None  # its share of the training windows relative to other sources; None if none has one
    report: DecodeReport = dataclasses.field(default_factory=lambda: DecodeReport({}))
    name: str = ""
    shards: Sequence[SourceShard] = ()
    contents: Sequence[str] = ()  # the digest of each shard's files
    held_out: Sequence[Episode] = ()  # for validation, if the source keeps some apart itself

    def summary(self) -> str:
        """Return how much was loaded and what was left out, as one line."""
        frames = sum(map(len, self.episodes))
        held_out = f"; held out by the data set: {len(self.held_out)} episodes" if self.held_out else ""
        left_out = dropped_text(self.report.dropped)
        return f"{len(self.episodes)} episodes, {frames} frames; left out: {left_out}{held_out}"


Reader = Callable[[Source, ObservationSpec, Timing], list[SourceShard]]


def _bags(source: Source, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    assert source.robot is not None, "bags need a robot"
    return bag_shards(source.paths, source.robot, spec, timing, source.include_failures, source.policy_frames)


def _calvin(source: Source, spec: ObservationSpec, timing: Timing) -> list[SourceShard]:
    options = (source.annotations, source.motion_only)
    return [shard for path in source.paths for shard in calvin_shards(Path(path), spec, timing, *options)]


def _folders(read: Callable[[Path, ObservationSpec, Timing], list[SourceShard]]) -> Reader:
    """Return the reader of a format that needs no more than a folder."""
    return lambda source, spec, timing: [shard for path in source.paths for shard in read(Path(path), spec, timing)]


# What a data set of each format has; bags have what the robot file says.
CONTENTS: dict[str, Callable[[Path], Contents]] = {
    "calvin": calvin_contents,
    "lerobot": lerobot_contents,
    "rlds": rlds_contents,
}

FORMATS: dict[str, Reader] = {
    "bags": _bags,
    "calvin": _calvin,
    "lerobot": _folders(lerobot_shards),
    "rlds": _folders(rlds_shards),
}


def format_of(path: Path) -> str:
    """Return the format of the demonstrations at `path` by the files there; "bags" if they are of no data set."""
    if not path.is_dir():
        return "rlds" if is_shard(path) else "bags"
    if (path / INFO).is_file():
        return "lerobot"
    if is_split(path) or splits_inside(path):
        return "calvin"
    return "rlds" if has_shards(path) or versions_below(path) else "bags"


def load_source(
    source: Source,
    spec: ObservationSpec,
    timing: Timing,
    *,
    store: Path | None = None,
    workers: int = 0,
    weight: float | None = None,
    progress: Progress | None = None,
) -> Demonstrations:
    """Load a source from the store, and decode first what the store does not hold yet; log what it does not read.

    Args:
        store: its folder; None for `.vla_store` beside the demonstrations.
        workers: processes that decode; 0 for one per core.
        progress: called with (shards done, shards in all).

    Raises:
        SourceError: no episode is left.
        UserError: the source can't be read, or the store can't be written.
    """
    shards = FORMATS[source.format](source, spec, timing)
    for note in dict.fromkeys(note for shard in shards for note in shard.notes):
        logger.warning("%s", note)
    shards = sorted(shards, key=lambda shard: shard.held_out)
    training = [shard for shard in shards if not shard.held_out]
    loaded = load_shards(training, store, workers, progress)
    if not loaded.episodes:
        names = ", ".join(shard.name for shard in training[:5]) + (", ..." if len(training) > 5 else "")
        raise SourceError(f"no usable episode in {source.name} ({names}); {explain_empty(loaded.report)}")
    if len(training) == len(shards):
        return Demonstrations(loaded.episodes, weight, loaded.report, source.name, shards, loaded.contents)
    held_out = load_shards(shards[len(training) :], store, workers, progress)
    contents = (*loaded.contents, *held_out.contents)
    return Demonstrations(loaded.episodes, weight, loaded.report, source.name, shards, contents, held_out.episodes)


def dropped_text(dropped: Mapping[str, int]) -> str:
    """Return the reasons to leave frames out as one line, the most frequent first."""
    ranked = sorted(dropped.items(), key=lambda item: -item[1])
    return "; ".join(f"{why}: {count} frames" for why, count in ranked if count) or "nothing"


def explain_empty(report: DecodeReport) -> str:
    """Return why no episode is left, for the end of an error message."""
    damaged = f"; damaged: {'; '.join(report.damage)}" if report.damage else ""
    return f"dropped: {dropped_text(report.dropped)}{damaged}{report.hint}"


def require_distinct(sources: Sequence[Demonstrations]) -> None:
    """Raise SourceError if a recording is in two sources, or in one twice, whether by path or as a copy.

    What validation holds out of one would be trained on from the other.
    """
    known: dict[Hashable, tuple[int, str]] = {}
    for number, source in enumerate(sources):
        for shard, content in zip(source.shards, source.contents, strict=True):
            # Shards of one source may share a file, as CALVIN's do, but no two have the same content.
            tokens = [content, *(file.resolve() for file in shard.files)]
            name = f"{shard.root / shard.name} of {source.name}"
            for token in tokens:
                other, first = known.setdefault(token, (number, name))
                if first != name and (token == content or other != number):
                    raise SourceError(
                        f"{name} is the same recording as {first}, so episodes held out for validation in one would be "
                        "trained on in the other. List it once (a source may have a weight), or delete the copy"
                    )
