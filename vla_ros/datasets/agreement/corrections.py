# SPDX-License-Identifier: Apache-2.0
"""What may be wrong with demonstrated actions, each with the correction that undoes it.

`vla replay` tries them against a policy, `agreement` against the tool's measured motion.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vla_ros.observations.observation import rotation_from_6d

Array = NDArray[np.float64]
Relabel = Callable[[Array, Rotation | None], Array]  # actions (T, 7), tool orientations (T,) -> corrected actions

# Names in reports.
GRIPPER, ROTATION, FRAME = "gripper polarity", "Euler angles", "frame"
UNITS, SWAPPED_AXES = "units", "axes"

POSITION = ("ee_x", "ee_y", "ee_z")
ROTATION_6D = tuple(f"ee_r{index}" for index in range(6))
OPENING = "gripper_opening"

SCALES = {"1000 times too large (mm for m?)": 1e-3, "1000 times too small": 1e3}
DEGREES = {"degrees for radians": np.pi / 180, "radians for degrees": 180 / np.pi}


@dataclasses.dataclass(frozen=True)
class Correction:
    """What is wrong, in words, and its correction; of those with the same subject, only one can be right."""

    name: str
    where: str
    subject: str
    relabel: Relabel


def corrections(rotation_known: bool) -> list[Correction]:
    """List what may be wrong with the demonstrated gripper, units and frame."""
    found = [Correction(GRIPPER, "the demonstrated openings are inverted (1 means closed)", "gripper", _inverted)]
    found += [
        Correction(UNITS, f"the demonstrated {part} are {text}", "units", _scaled(axes, factor))
        for part, axes, scales in (
            ("velocities", np.s_[:6], SCALES),
            ("linear velocities", np.s_[:3], SCALES),
            ("angular velocities", np.s_[3:6], DEGREES),
        )
        for text, factor in scales.items()
    ]
    return [*found, *frame_corrections()] if rotation_known else found


def frame_corrections() -> list[Correction]:
    """List the frames that twists may be in instead of the base frame."""
    in_tool = "the demonstrated twists are in the tool frame, not in the base frame"
    twice = "the demonstrated twists were rotated into the base frame twice"
    return [Correction(FRAME, in_tool, "frame", _to_base), Correction(FRAME, twice, "frame", _to_tool)]


def euler_correction() -> Correction:
    """Return what undoes rates of Euler angles that are taken for an angular velocity."""
    where = "the demonstrated angular velocities are rates of Euler angles (fixed axes xyz)"
    return Correction(ROTATION, where, "rotation", _from_euler_rates)


def signed_permutations() -> list[tuple[tuple[int, ...], tuple[int, ...], str]]:
    """List all ways to exchange and invert axes, the fewest inversions first: order, signs, and a description.

    Axis i is driven by signs[i] times axis order[i]; the description of the first, which changes nothing, is empty.
    """
    found: list[tuple[tuple[int, ...], tuple[int, ...], str]] = []
    for signs in sorted(itertools.product((1, -1), repeat=3), key=lambda signs: -sum(signs)):
        inverted = [axis for axis, sign in zip("xyz", signs) if sign < 0]
        for order in itertools.permutations(range(3)):
            details = [] if order == (0, 1, 2) else [f"x, y, z are driven by {', '.join('xyz'[i] for i in order)}"]
            details += [f"{', '.join(inverted)} inverted"] if inverted else []
            found.append((order, signs, "; ".join(details)))
    return found


def tool_rotations(names: Sequence[str], proprioception: NDArray[np.floating]) -> Rotation | None:
    """Return the tool orientations in the base frame from proprioception (T, P), or None if they are not in it."""
    if not set(ROTATION_6D) <= set(names):
        return None
    return rotation_from_6d(proprioception[:, [list(names).index(name) for name in ROTATION_6D]])


def tool_path(names: Sequence[str], states: NDArray[np.floating]) -> tuple[Array, Rotation]:
    """Return the tool's positions (T, 3) [m] and orientations in states (T, P); ValueError without a pose."""
    rotations = tool_rotations(names, states)
    if rotations is None or not set(POSITION) <= set(names):
        raise ValueError(f"the tool's pose is missing; the states have {', '.join(names) or 'no values'}")
    return states[:, [list(names).index(name) for name in POSITION]].astype(np.float64), rotations


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


def _from_euler_rates(actions: Array, rotation: Rotation | None) -> Array:
    assert rotation is not None
    result = actions.copy()
    result[:, 3:6] = np.einsum("tij,tj->ti", euler_jacobian(rotation), actions[:, 3:6])
    return result
