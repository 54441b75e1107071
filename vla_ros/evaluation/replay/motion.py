# SPDX-License-Identifier: Apache-2.0
"""Compare a tool's motion with a recorded one, axis by axis, and explain the difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from vla_ros.datasets.agreement.corrections import (
    FRAME,
    GRIPPER,
    OPENING,
    SWAPPED_AXES,
    UNITS,
    Array,
    signed_permutations,
    tool_path,
)
from vla_ros.evaluation.replay.mismatches import RATE

AXES = (("x", "m"), ("y", "m"), ("z", "m"), ("rx", "rad"), ("ry", "rad"), ("rz", "rad"))
STANDS_STILL, OTHER_MOTION = "does not move", "other motion"

# Root mean square displacement below which an axis is not judged.
_MIN_M, _MIN_RAD = 0.01, 0.05
# Largest squared deviation, relative to the recorded motion, of a motion that fits, and of one that is explained.
_FITS, _EXPLAINED = 0.1, 0.05
_GAIN = (0.5, 1.5)  # of each axis that moved: an inverted axis may be a small part of the whole motion
_STILL = 0.05  # share of the recorded motion
_POSITION_SCALES = (
    (1000.0, "1000 times too far: m are taken for mm, or the pose is in mm"),
    (0.001, "1000 times too short: mm/s are taken for m/s, or the tool does not move"),
)
_ROTATION_SCALES = ((np.pi / 180, "57 times too short: rad/s are taken for degrees/s, or the tool does not move"),)


@dataclasses.dataclass(frozen=True)
class Axis:
    """Motion along one axis: the largest displacement from the start, in the recording and now."""

    name: str
    unit: str
    recorded: float
    measured: float
    gain: float | None  # measured motion along the recorded one, 1 if equal; None if the recorded tool hardly moved


@dataclasses.dataclass(frozen=True)
class Motion:
    """A measured motion against the recorded one, with mean and largest errors over the recorded frames."""

    axes: tuple[Axis, ...]  # of the position, then of the integrated angular velocity, from the start in the base frame
    position_error_m: float
    largest_m: float
    rotation_error_rad: float
    largest_rad: float
    mismatches: tuple[tuple[str, str], ...]  # (name, detail); empty if the tool moved as recorded


def pose_distance(names: Sequence[str], one: Array, other: Array) -> tuple[float, float]:
    """Return the distance between the tool poses of two states (P,), in position [m] and in orientation [rad]."""
    positions, rotations = tool_path(names, np.stack([one, other]))
    distance_m = np.linalg.norm(positions[1] - positions[0])
    return float(distance_m), float((rotations[1] * rotations[0].inv()).magnitude())


def compare_motion(names: Sequence[str], recorded: Array, frames: Array, measured: Array) -> Motion:
    """Compare two motions, each from its own start; ValueError if nothing was measured during the recorded one.

    Args:
        names: Of the states' values; must include the tool's pose.
        recorded: (T, P), one state per frame.
        frames: (K,) frame numbers, increasing from 0 or less.
        measured: (K, P) states at `frames`.
    """
    within = (frames >= 0) & (frames <= len(recorded) - 1)
    if within.sum() < 2:
        raise ValueError("nothing was measured between the first and the last recorded frame")
    frames, measured = frames[within], measured[within]
    (positions, rotations), (positions_now, rotations_now) = tool_path(names, recorded), tool_path(names, measured)
    recorded_frames = np.arange(len(recorded))
    positions = np.stack([np.interp(frames, recorded_frames, column) for column in positions.T], axis=1)
    rotations = Slerp(recorded_frames, rotations)(frames) if len(recorded) > 1 else rotations
    path = np.hstack([positions - positions[0], _integrated_rotation(rotations)])
    path_now = np.hstack([positions_now - positions_now[0], _integrated_rotation(rotations_now)])
    error_m = np.linalg.norm(path[:, :3] - path_now[:, :3], axis=1)
    error_rad = (rotations * rotations[0].inv() * (rotations_now * rotations_now[0].inv()).inv()).magnitude()
    mismatches = [
        *_explain("position", path[:, :3], path_now[:, :3], rotations_now),
        *_explain("rotation", path[:, 3:], path_now[:, 3:], rotations_now),
    ]
    if OPENING in names:
        index = list(names).index(OPENING)
        opening = np.interp(frames, recorded_frames, recorded[:, index])
        mismatches += _explain_gripper(opening, measured[:, index])
    return Motion(
        tuple(map(_axis, AXES, path.T, path_now.T)),
        float(error_m.mean()),
        float(error_m.max()),
        float(error_rad.mean()),
        float(error_rad.max()),
        tuple(mismatches),
    )


def _integrated_rotation(rotations: Rotation) -> Array:
    """Integrate the angular velocity (K, 3) [rad]; unlike a rotation vector, it scales and rotates as twists do."""
    steps = (rotations[1:] * rotations[:-1].inv()).as_rotvec()
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


def _axis(named: tuple[str, str], path: Array, now: Array) -> Axis:
    name, unit = named
    moved = np.sqrt((path**2).mean()) > (_MIN_M if unit == "m" else _MIN_RAD)
    gain = float((path * now).sum() / (path**2).sum()) if moved else None
    return Axis(name, unit, float(np.abs(path).max()), float(np.abs(now).max()), gain)


def _deviation(path: Array, now: Array) -> float:
    """Squared difference of two paths relative to the first."""
    return float(((now - path) ** 2).sum() / (path**2).sum())


def _matches(path: Array, now: Array, tolerance: float, moved: NDArray[np.bool_]) -> bool:
    """Whether two paths are the same, overall and along each axis that `moved`."""
    gains = (path * now).sum(axis=0)[moved] / (path**2).sum(axis=0)[moved]
    return _deviation(path, now) < tolerance and bool(((gains > _GAIN[0]) & (gains < _GAIN[1])).all())


def _explain(part: str, path: Array, now: Array, rotations: Rotation) -> Iterator[tuple[str, str]]:
    """Yield what explains why the path (K, 3) is `now` another one; nothing if it fits, or if nothing moved."""
    smallest = _MIN_M if part == "position" else _MIN_RAD
    size, size_now = (float(np.sqrt((each**2).sum(axis=1).mean())) for each in (path, now))
    if size < smallest:
        if size_now > 2 * smallest:
            yield OTHER_MOTION, f"{part}: it moved, although the recorded one hardly did"
        return
    if _matches(path, now, _FITS, np.sqrt((path**2).mean(axis=0)) > smallest):
        return
    for name, suspect, detail in _suspects(part, path, now, rotations):
        if _matches(suspect, now, _EXPLAINED, np.sqrt((suspect**2).mean(axis=0)) > smallest * size_now / size):
            yield name, f"{part}: {detail}"
            return
    if size_now < _STILL * size:
        yield STANDS_STILL, f"{part}: {size_now / size:.1%} of the recorded motion"
    else:
        yield OTHER_MOTION, f"{part}: deviates by {np.sqrt(_deviation(path, now)):.0%} of the recorded motion"


def _suspects(part: str, path: Array, now: Array, rotations: Rotation) -> Iterator[tuple[str, Array, str]]:
    """Yield possible mismatches, likeliest first, with the path that each would cause and its description."""
    for scale, detail in _POSITION_SCALES if part == "position" else _ROTATION_SCALES:
        yield UNITS, path * scale, detail
    scale = float((path * now).sum() / (path**2).sum())
    if scale > _STILL:
        yield RATE, path * scale, f"{scale:.2f} times as far: another speed, control rate or scale"
    steps = np.diff(path, axis=0, prepend=path[:1])
    for rotation in (rotations, rotations.inv()):  # indistinguishable for a tool that points straight down
        detail = "twists in the base frame are taken for the tool frame's, or vice versa"
        yield FRAME, np.cumsum(rotation.apply(steps), axis=0), detail
    for order, signs, detail in signed_permutations()[1:]:
        yield SWAPPED_AXES, path[:, order] * np.array(signs), detail


def _explain_gripper(opening: Array, now: Array) -> Iterator[tuple[str, str]]:
    """Yield a mismatch of the gripper, if the recorded one opened or closed."""
    if np.ptp(opening) < 0.3:
        return
    if np.ptp(now) < 0.1:
        yield GRIPPER, "the gripper does not move, although the recorded one did"
    elif np.corrcoef(opening, now)[0, 1] < -0.5:
        yield GRIPPER, "the gripper opens when the recorded one closed"
