# SPDX-License-Identifier: Apache-2.0
"""Ways in which a robot, its recordings and a checkpoint can disagree, each as what would undo it.

A mismatch is undone in what the policy sees, in what the demonstration is said to have done, or in what the policy's
output is said to mean. Which of them is there, `diagnosis` finds out by trying.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros.contract import PolicyContract, Proprioception
from vla_ros.geometry.rigid import rotation_from_6d
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation

Array = NDArray[np.float64]

# The names in which a finding is reported.
COLOUR_ORDER, FLIPPED, CAMERA_ORDER = "colour order", "flipped image", "camera order"
GRIPPER, ROTATION, FRAME = "gripper polarity", "Euler angles", "frame"
RATE, UNITS, STATISTICS = "control rate", "units", "statistics"

_FLIPS = {"upside down": np.s_[::-1], "mirrored": np.s_[:, ::-1], "turned by 180 degrees": np.s_[::-1, ::-1]}
_SCALES = {"1000 times too large (mm for m?)": 1e-3, "1000 times too small": 1e3}
_DEGREES = {"degrees for radians": np.pi / 180, "radians for degrees": 180 / np.pi}


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """What is wrong, by `name` and `where`, and what undoes it: one of the following.

    view: what the policy should have seen; relabel: (actions (T, 7), tool's rotations (T,) or None) -> actions.
    things: what it is about; two mismatches about the same thing are not looked for at once.
    """

    name: str
    where: str
    things: tuple[str, ...]
    view: Callable[[Observation], Observation] | None = None
    relabel: Callable[[Array, Rotation | None], Array] | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.where}"


def of_labels(rotation_known: bool) -> list[Mismatch]:
    """List what may be wrong with the demonstrated actions."""
    found = [
        Mismatch(
            GRIPPER, "the demonstrated openings are inverted (1 is closed there)", ("done gripper",), relabel=_inverted
        )
    ]
    found += [
        Mismatch(UNITS, f"the demonstrated {part} are {text}", ("done units",), relabel=_scaled(columns, factor))
        for part, columns, scales in (
            ("velocities", np.s_[:6], _SCALES),
            ("linear velocities", np.s_[:3], _SCALES),
            ("angular velocities", np.s_[3:6], _DEGREES),
        )
        for text, factor in scales.items()
    ]
    if rotation_known:
        frame = ("done frame",)
        found += [
            Mismatch(FRAME, "the demonstrated twists are in the tool's frame, not in the base's", frame, relabel=_base),
            Mismatch(FRAME, "the demonstrated twists were turned into the base's frame twice", frame, relabel=_tool),
        ]
    return found


def of_observations(contract: PolicyContract, seen: Array | None) -> list[Mismatch]:
    """List what may be wrong with the observations.

    Args:
        seen: the proprioception (frames, P) of the demonstrations, in the contract's order, or None.
    """
    cameras = contract.camera_names
    groups = [cameras, *((name,) for name in cameras)] if len(cameras) > 1 else [cameras]
    found = []
    for group in groups:
        about = tuple(f"colours of {name}" for name in group)
        found.append(Mismatch(COLOUR_ORDER, f"{_list(group)}: BGR for RGB", about, view=_bgr(group)))
        about = tuple(f"sides of {name}" for name in group)
        found += [
            Mismatch(FLIPPED, f"{_list(group)}: {text}", about, view=_flipped(group, how))
            for text, how in _FLIPS.items()
        ]
    found += [
        Mismatch(CAMERA_ORDER, f"{one} and {other} are exchanged", ("cameras",), view=_exchanged(contract, one, other))
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
    found = [
        Mismatch(
            UNITS, f"the tool's position is {text}", ("position",), view=_state(position, partial(operator.mul, factor))
        )
        for text, factor in _SCALES.items()
        if position
    ]
    if opening:
        inverted = _state(opening, lambda x: 1 - x)
        found.append(Mismatch(GRIPPER, "the measured opening is inverted", ("opening",), view=inverted))
    restandardised = _state(list(range(len(mean))), lambda x: (x - own_mean) / own_std * std + mean)
    where = "the contract's mean and std of the proprioception are of other data"
    return [*found, Mismatch(STATISTICS, where, ("position", "opening", "state"), view=restandardised)]


def demonstrated_at_pace(actions: Array, chunk: int, pace: float) -> tuple[Array, NDArray[np.bool_]]:
    """Return what was done `pace` * i periods after each frame, (T, N, 7), and which of it is known, (T, N)."""
    wanted = np.arange(len(actions))[:, None] + pace * np.arange(chunk)
    known = wanted <= len(actions) - 1
    lower = np.minimum(wanted.astype(int), len(actions) - 1)
    upper = np.minimum(lower + 1, len(actions) - 1)
    part = np.where(known, wanted - lower, 0.0)[..., None]
    return actions[lower] * (1 - part) + actions[upper] * part, known


def tool_rotations(names: Sequence[str], proprioception: NDArray) -> Rotation | None:
    """Return the tool's orientations in the base frame out of episodes' proprioception, None where it is not there."""
    wanted = [f"ee_r{index}" for index in range(6)]
    if not set(wanted) <= set(names):
        return None
    return rotation_from_6d(proprioception[:, [list(names).index(name) for name in wanted]])


def euler_rates_to_angular(rates: Array, orientation: Rotation) -> Array:
    """Turn rates (T, 3) of fixed-axis xyz Euler angles [rad/s] into angular velocities in the base frame."""
    return np.einsum("tij,tj->ti", _euler_jacobian(orientation), rates)


def angular_to_euler_rates(angular: Array, orientation: Rotation) -> Array:
    """Turn angular velocities (T, 3) in the base frame into rates of fixed-axis xyz Euler angles [rad/s]."""
    return np.asarray(np.linalg.solve(_euler_jacobian(orientation), angular[..., None])[..., 0], np.float64)


def _euler_jacobian(orientation: Rotation) -> Array:
    """(T, 3, 3): columns are the axes about which roll, pitch and yaw turn; R = Rz(yaw) Ry(pitch) Rx(roll)."""
    _, pitch, yaw = orientation.as_euler("xyz").T
    zero = np.zeros_like(yaw)
    roll_axis = np.stack([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)], axis=-1)
    pitch_axis = np.stack([-np.sin(yaw), np.cos(yaw), zero], axis=-1)
    return np.stack([roll_axis, pitch_axis, np.stack([zero, zero, zero + 1], axis=-1)], axis=-1)


def _inverted(actions: Array, _rotation: Rotation | None) -> Array:
    return np.concatenate([actions[:, :6], 1 - actions[:, 6:]], axis=1)


def _scaled(columns: slice, factor: float) -> Callable[[Array, Rotation | None], Array]:
    def relabel(actions: Array, _rotation: Rotation | None) -> Array:
        result = actions.copy()
        result[:, columns] *= factor
        return result

    return relabel


def _base(actions: Array, rotation: Rotation | None) -> Array:
    assert rotation is not None
    return np.concatenate([rotation.apply(actions[:, :3]), rotation.apply(actions[:, 3:6]), actions[:, 6:]], axis=1)


def _tool(actions: Array, rotation: Rotation | None) -> Array:
    assert rotation is not None
    return _base(actions, rotation.inv())


def _pictures(change: Callable[[dict[str, NDArray]], dict[str, NDArray]]) -> Callable[[Observation], Observation]:
    return lambda seen: dataclasses.replace(seen, images={**seen.images, **change(seen.images)})


def _bgr(group: Sequence[str]) -> Callable[[Observation], Observation]:
    return _pictures(lambda seen: {name: np.ascontiguousarray(seen[name][..., ::-1]) for name in group})


def _flipped(group: Sequence[str], how: object) -> Callable[[Observation], Observation]:
    return _pictures(lambda seen: {name: np.ascontiguousarray(seen[name][how]) for name in group})  # type: ignore[call-overload]


def _exchanged(contract: PolicyContract, first: str, second: str) -> Callable[[Observation], Observation]:
    camera = {camera.name: camera for camera in contract.cameras}
    return _pictures(
        lambda seen: {
            first: images.resize(seen[second], camera[first]),
            second: images.resize(seen[first], camera[second]),
        }
    )


def _state(columns: Sequence[int], change: Callable[[Array], Array]) -> Callable[[Observation], Observation]:
    def view(seen: Observation) -> Observation:
        assert seen.proprioception is not None
        values = seen.proprioception.astype(np.float64)
        values[columns] = change(values[columns])
        return dataclasses.replace(seen, proprioception=values.astype(np.float32))

    return view


def _list(names: Sequence[str]) -> str:
    return " and ".join(names)
