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
from scipy.spatial.transform import Rotation

from vla_ros.contract import PolicyContract, Proprioception
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation, rotation_from_6d

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
View = Callable[[Observation], Observation]
Relabel = Callable[[Array, Rotation | None], Array]

# Names in reports.
COLOUR_ORDER, FLIPPED, CAMERA_ORDER = "colour order", "flipped image", "camera order"
GRIPPER, ROTATION, FRAME = "gripper polarity", "Euler angles", "frame"
RATE, UNITS, STATISTICS = "control rate", "units", "statistics"

_BGR = np.s_[:, :, ::-1]
_FLIPS: dict[str, slice | tuple[slice, ...]] = {
    "upside down": np.s_[::-1],
    "mirrored": np.s_[:, ::-1],
    "turned by 180 degrees": np.s_[::-1, ::-1],
}
_SCALES = {"1000 times too large (mm for m?)": 1e-3, "1000 times too small": 1e3}
_DEGREES = {"degrees for radians": np.pi / 180, "radians for degrees": 180 / np.pi}


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
    inverted = "the demonstrated openings are inverted (1 means closed)"
    found = [Mismatch(GRIPPER, inverted, ("demonstrated gripper",), relabel=_inverted)]
    found += [
        Mismatch(UNITS, f"the demonstrated {part} are {text}", ("demonstrated units",), relabel=_scaled(axes, factor))
        for part, axes, scales in (
            ("velocities", np.s_[:6], _SCALES),
            ("linear velocities", np.s_[:3], _SCALES),
            ("angular velocities", np.s_[3:6], _DEGREES),
        )
        for text, factor in scales.items()
    ]
    if rotation_known:
        in_tool = "the demonstrated twists are in the tool frame, not in the base frame"
        twice = "the demonstrated twists were rotated into the base frame twice"
        for where, relabel in ((in_tool, _to_base), (twice, _to_tool)):
            found.append(Mismatch(FRAME, where, ("demonstrated frame",), relabel=relabel))
    return found


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
        for text, factor in _SCALES.items():
            rescaled = _state(position, partial(operator.mul, factor))
            found.append(Mismatch(UNITS, f"the tool position is {text}", ("position",), view=rescaled))
    if opening:
        inverted = _state(opening, lambda x: 1 - x)
        found.append(Mismatch(GRIPPER, "the measured opening is inverted", ("opening",), view=inverted))
    restandardised = _state(list(range(len(mean))), lambda x: (x - own_mean) / own_std * std + mean)
    where = "the contract's proprioception mean and std are those of other data"
    return [*found, Mismatch(STATISTICS, where, ("position", "opening", "state"), view=restandardised)]


def tool_rotations(names: Sequence[str], proprioception: NDArray[np.floating]) -> Rotation | None:
    """Return the tool orientations in the base frame from proprioception (T, P), or None if they are not in it."""
    wanted = [f"ee_r{index}" for index in range(6)]
    if not set(wanted) <= set(names):
        return None
    return rotation_from_6d(proprioception[:, [list(names).index(name) for name in wanted]])


def euler_jacobian(orientation: Rotation) -> Array:
    """Return the matrices (T, 3, 3) from rates of fixed-axis xyz Euler angles to angular velocities, base frame.

    Columns are the axes of roll, pitch and yaw; R = Rz(yaw) Ry(pitch) Rx(roll).
    """
    _, pitch, yaw = orientation.as_euler("xyz").T
    zero = np.zeros_like(yaw)
    roll_axis = np.stack([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)], axis=-1)
    pitch_axis = np.stack([-np.sin(yaw), np.cos(yaw), zero], axis=-1)
    return np.stack([roll_axis, pitch_axis, np.stack([zero, zero, zero + 1], axis=-1)], axis=-1)


def _inverted(actions: Array, _rotation: Rotation | None) -> Array:
    return np.concatenate([actions[:, :6], 1 - actions[:, 6:]], axis=1)


def _scaled(axes: slice, factor: float) -> Relabel:
    def relabel(actions: Array, _rotation: Rotation | None) -> Array:
        result = actions.copy()
        result[:, axes] *= factor
        return result

    return relabel


def _to_base(actions: Array, rotation: Rotation | None) -> Array:
    assert rotation is not None
    return np.concatenate([rotation.apply(actions[:, :3]), rotation.apply(actions[:, 3:6]), actions[:, 6:]], axis=1)


def _to_tool(actions: Array, rotation: Rotation | None) -> Array:
    assert rotation is not None
    return _to_base(actions, rotation.inv())


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
