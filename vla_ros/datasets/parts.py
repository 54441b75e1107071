# SPDX-License-Identifier: Apache-2.0
"""A part: a piece of some source of demonstrations that is decoded on its own, whatever its format.

A bag is one, and so is a shard of an RLDS dataset. Parts are what processes share among them, what is decoded once into
the store, and what is not lost when a process is killed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import SourceError


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What became of a part beside its episodes.

    dropped: frames left out, by reason; hint: what to check where nothing is left; damage: what could not be read, in
    sentences
    """

    dropped: Mapping[str, int]
    hint: str = ""
    damage: tuple[str, ...] = ()


# Hands each episode over as soon as it is decoded, so that none waits in memory.
Decode = Callable[[Callable[[Episode], None]], Decoded]


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a source, not decoded yet.

    name: for people, and for the name of its folder in the store
    home: the folder beside whose content the store lies
    files: whose content identifies the part; not empty
    settings: plain JSON types: all else that its episodes depend on, its name in them included
    decode: a function that can be pickled, for other processes
    """

    name: str
    home: Path
    files: tuple[Path, ...]
    settings: Mapping[str, Any]
    decode: Decode


def left_out(where: Path, what: str, odd: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the damage of a part: of its `count` records, say (`what`), some are `odd`, a sentence each.

    Raises:
        SourceError: all of them are: it is something else than it is taken for.
    """
    if odd and len(odd) == count:
        raise SourceError(f"{where}, {odd[0]}; so are all {count} {what}")
    return (f"{where}: {len(odd)} of {count} {what} can't be read and are left out ({odd[0]})",) if odd else ()


def sampling_settings(spec: ObservationSpec, timing: Timing) -> dict[str, Any]:
    """Return what of a contract the frames and labels depend on: not the windows, nor how images are normalised."""

    def size(camera: Camera) -> list[Any]:
        return [camera.name, camera.height, camera.width, camera.resize]

    return {
        "cameras": [size(camera) for camera in spec.cameras],
        "proprioception": list(spec.proprioception),
        "control_hz": timing.control_hz,
        "settle_s": timing.settle_s,
    }
