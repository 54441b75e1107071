# SPDX-License-Identifier: Apache-2.0
"""Mismatches between a robot, its recordings and a checkpoint, each with the correction that undoes it.

A correction changes what the policy sees, or the demonstrated actions. `diagnosis` tries which ones help.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract, Proprioception
from vla_ros.datasets.agreement.corrections import GRIPPER, SCALES, UNITS, Array, Relabel, corrections
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation

Image = NDArray[np.uint8]
View = Callable[[Observation], Observation]

# Names in reports.
COLOUR_ORDER, FLIPPED, CAMERA_ORDER = "colour order", "flipped image", "camera order"
RATE, STATISTICS = "control rate", "statistics"

_BGR = np.s_[:, :, ::-1]
_FLIPS: dict[str, slice | tuple[slice, ...]] = {
    "upside down": np.s_[::-1],
    "mirrored": np.s_[:, ::-1],
    "turned by 180 degrees": np.s_[::-1, ::-1],
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A mismatch that was found, and the cost (see `disagreement`) with it and without it."""

    name: str
    detail: str
    cost: float
    cost_undone: float


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """A possible mismatch and its correction, either `view` or `relabel`."""

    name: str
    where: str  # what is wrong, in words
    subjects: tuple[str, ...]  # what it affects; of mismatches with a common subject, only one is undone
    view: View | None = None  # corrects the policy's observations
    relabel: Relabel | None = None  # (actions (T, 7), tool rotations (T,) or None) -> corrected actions

    def __str__(self) -> str:
        return f"{self.name}: {self.where}"


def of_actions(rotation_known: bool) -> list[Mismatch]:
    """List possible mismatches in the demonstrated actions."""
    found = corrections(rotation_known)
    return [Mismatch(one.name, one.where, (f"demonstrated {one.subject}",), relabel=one.relabel) for one in found]


def of_observations(contract: PolicyContract, seen: Array | None) -> list[Mismatch]:
    """List possible mismatches in the observations, given the demonstrations' proprioception (frames, P) if any."""
    cameras = contract.camera_names
    groups = [cameras, *((name,) for name in cameras)] if len(cameras) > 1 else [cameras]
    found = []
    for group in groups:
        names = " and ".join(group)
        subjects = tuple(f"colours of {name}" for name in group)
        found.append(Mismatch(COLOUR_ORDER, f"{names}: BGR for RGB", subjects, view=_reordered(group, _BGR)))
        subjects = tuple(f"orientation of {name}" for name in group)
        for text, how in _FLIPS.items():
            found.append(Mismatch(FLIPPED, f"{names}: {text}", subjects, view=_reordered(group, how)))
    found += [
        Mismatch(CAMERA_ORDER, f"{one} and {other} are swapped", ("cameras",), view=_swapped(contract, one, other))
        for index, one in enumerate(cameras)
        for other in cameras[index + 1 :]
    ]
    if contract.proprioception is not None and seen is not None:
        found += _of_state(contract.proprioception, seen)
    return found


def _of_state(known: Proprioception, seen: Array) -> list[Mismatch]:
    position = [index for index, unit in enumerate(known.units) if unit == "m"]
    opening = [index for index, name in enumerate(known.names) if name == "gripper_opening"]
    mean, std = np.array(known.mean), np.array(known.std)
    own_mean, own_std = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-9)
    found = []
    if position:
        for text, factor in SCALES.items():
            rescaled = _state(position, partial(operator.mul, factor))
            found.append(Mismatch(UNITS, f"the tool position is {text}", ("position",), view=rescaled))
    if opening:
        inverted = _state(opening, lambda x: 1 - x)
        found.append(Mismatch(GRIPPER, "the measured opening is inverted", ("opening",), view=inverted))
    restandardised = _state(list(range(len(mean))), lambda x: (x - own_mean) / own_std * std + mean)
    where = "the contract's proprioception mean and std are those of other data"
    return [*found, Mismatch(STATISTICS, where, ("position", "opening", "state"), view=restandardised)]


def _images(change: Callable[[Mapping[str, Image]], dict[str, Image]]) -> View:
    return lambda seen: dataclasses.replace(seen, images={**seen.images, **change(seen.images)})


def _reordered(group: Sequence[str], how: slice | tuple[slice, ...]) -> View:
    return _images(lambda seen: {name: np.ascontiguousarray(seen[name][how]) for name in group})


def _swapped(contract: PolicyContract, first: str, second: str) -> View:
    camera = {camera.name: camera for camera in contract.cameras}
    pairs = ((first, second), (second, first))
    return _images(lambda seen: {name: images.resize(seen[other], camera[name]) for name, other in pairs})


def _state(columns: Sequence[int], change: Callable[[Array], Array]) -> View:
    def view(seen: Observation) -> Observation:
        assert seen.proprioception is not None
        values = seen.proprioception.astype(np.float64)
        values[columns] = change(values[columns])
        return dataclasses.replace(seen, proprioception=values.astype(np.float32))

    return view
