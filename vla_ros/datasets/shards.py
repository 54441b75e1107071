# SPDX-License-Identifier: Apache-2.0
"""A shard: the piece of a source of demonstrations that is decoded in one go, whatever its format.

A bag is one shard, and so is a TFRecord file of an RLDS data set. Processes share the shards among them, and the store
keeps each as one entry: a run that is killed loses no more than the shard it was decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError


@dataclasses.dataclass(frozen=True)
class DecodeReport:
    """What did not become an episode."""

    dropped: Mapping[str, int]  # frames left out, by reason
    hint: str = ""  # what to check if no episode was found; begins with ". "
    damage: tuple[str, ...] = ()  # what could not be read, one sentence each


# Passes each episode on as soon as it is decoded, so that none waits in memory.
Decode = Callable[[Callable[[Episode], None]], DecodeReport]


@dataclasses.dataclass(frozen=True)
class SourceShard:
    """A piece of a source, not decoded yet."""

    name: str  # for people, and for the name of its store entry
    root: Path  # the folder beside whose content the store is
    files: tuple[Path, ...]  # those that identify the shard by their content; not empty
    settings: Mapping[str, Any]  # everything else that its episodes depend on, as plain JSON types
    decode: Decode  # can be pickled, for other processes
    notes: tuple[str, ...] = ()  # what of its source is not read, or was assumed, one sentence each; often shared
    held_out: bool = False  # its source keeps these episodes for validation


def skipped_records(where: Path, kind: str, errors: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the damage of a shard of which `errors`, one each, made some of its `count` records unreadable.

    Raises:
        SourceError: no record is readable, so the shard is not what it was taken for.
    """
    if errors and len(errors) == count:
        raise SourceError(f"{where}: none of its {count} {kind} is readable; {errors[0]}")
    return (f"{where}: {len(errors)} of {count} {kind} are unreadable and skipped ({errors[0]})",) if errors else ()
