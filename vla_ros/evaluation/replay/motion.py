# SPDX-License-Identifier: Apache-2.0
"""How a tool moved beside how it moved in a recording, axis by axis, and what would explain the difference."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from vla_ros.evaluation.replay.mismatches import FRAME, GRIPPER, RATE, UNITS, Array, tool_rotations

POSITION = ("ee_x", "ee_y", "ee_z")
OPENING = "gripper_opening"
AXES = (("x", "m"), ("y", "m"), ("z", "m"), ("rx", "rad"), ("ry", "rad"), ("rz", "rad"))
STOOD_STILL = "does not move"
ANOTHER_AXIS, ANOTHER_WAY = "axes", "another way"

# Below this much (root mean square of the way from the start), an axis says nothing.
SMALLEST_M, SMALLEST_RAD = 0.01, 0.05
# Of the recorded way: how much of its square may be missing where it fits, and where it is explained.
FITS, EXPLAINED = 0.1, 0.05
GAIN = (0.5, 1.5)  # of each axis that moved: one that goes the wrong way may be a small part of the whole
STILL = 0.05  # of the recorded way
_DEGREE = np.pi / 180
_SCALES = (
    (UNITS, 1000.0, "1000 times too far: m are taken for mm, or the pose is in mm"),
    (UNITS, 0.001, "a thousandth of the way: mm/s are taken for m/s, or it stands still"),
    (UNITS, _DEGREE, "a 57th of the way: rad/s are taken for degrees/s, or it stands still"),
)


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: the greatest distance from the start in the recording and now, and the share of the recorded way that
    was made along it (1: all of it); None where the recorded tool hardly moved."""

    name: str
    unit: str
    recorded: float
    measured: float
    gain: float | None


@dataclasses.dataclass(frozen=True)
class Motion:
    """axes: of the position, then of the angular velocity's integral, both from the start and in the base frame.

    position_error_m, rotation_error_rad: mean over the recording's frames; largest_m, largest_rad: the largest.
    mismatches: (name, in words), none where it moved as recorded.
    """

    axes: tuple[Axis, ...]
    position_error_m: float
    largest_m: float
    rotation_error_rad: float
    largest_rad: float
    mismatches: tuple[tuple[str, str], ...]


def apart(names: Sequence[str], one: Array, other: Array) -> tuple[float, float]:
    """Return how far two states (P,) are apart: the tool's position [m] and its orientation [rad]."""
    turned = _rotations(names, np.stack([one, other]))
    columns = _columns(names)
    return float(np.linalg.norm((one - other)[columns])), float((turned[1] * turned[0].inv()).magnitude())


def compare(names: Sequence[str], recorded: Array, frames: Array, measured: Array) -> Motion:
    """Compare two ways, each from where it starts.

    Args:
        names: of the states' values; the tool's pose is among them.
        recorded: (T, P) states, one a frame. measured: (K, P), at `frames` (K,), which rise from 0 or from before it.

    Raises:
        ValueError: the pose is not among the values, or nothing was measured while the recorded one moved.
    """
    within = (frames >= 0) & (frames <= len(recorded) - 1)
    if within.sum() < 2:
        raise ValueError("nothing was measured between the first recorded frame and the last one")
    frames, measured = frames[within], measured[within]
    columns = _columns(names)
    turned, turned_now = _rotations(names, recorded), _rotations(names, measured)
    places = np.stack([np.interp(frames, np.arange(len(recorded)), recorded[:, column]) for column in columns], axis=1)
    rotations = Slerp(np.arange(len(recorded)), turned)(frames) if len(recorded) > 1 else turned
    way = np.hstack([places - places[0], _turns(rotations)])
    way_now = np.hstack([measured[:, columns] - measured[0, columns], _turns(turned_now)])
    apart_m = np.linalg.norm(way[:, :3] - way_now[:, :3], axis=1)
    apart_rad = (rotations * rotations[0].inv() * (turned_now * turned_now[0].inv()).inv()).magnitude()
    found = [*_explain("position", way[:, :3], way_now[:, :3], turned_now, SMALLEST_M)]
    found += _explain("rotation", way[:, 3:], way_now[:, 3:], turned_now, SMALLEST_RAD)
    if OPENING in names:
        index = list(names).index(OPENING)
        opening = np.interp(frames, np.arange(len(recorded)), recorded[:, index])
        found += _explain_gripper(opening, measured[:, index])
    return Motion(
        tuple(map(_axis, AXES, way.T, way_now.T)),
        float(apart_m.mean()),
        float(apart_m.max()),
        float(apart_rad.mean()),
        float(apart_rad.max()),
        tuple(found),
    )


def _columns(names: Sequence[str]) -> list[int]:
    if not set(POSITION) <= set(names):
        raise ValueError(f"the tool's pose is not among {', '.join(names) or 'no values'}")
    return [list(names).index(name) for name in POSITION]


def _rotations(names: Sequence[str], states: Array) -> Rotation:
    rotations = tool_rotations(names, states)
    if rotations is None:
        raise ValueError(f"the tool's orientation is not among {', '.join(names)}")
    return rotations


def _turns(rotations: Rotation) -> Array:
    """The integral of the angular velocity (K, 3) [rad]; unlike a rotation vector it scales and turns as twists do."""
    steps = (rotations[1:] * rotations[:-1].inv()).as_rotvec()
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


def _axis(named: tuple[str, str], way: Array, way_now: Array) -> Axis:
    name, unit = named
    smallest = SMALLEST_M if unit == "m" else SMALLEST_RAD
    moved = np.sqrt((way**2).mean()) > smallest
    gain = float((way * way_now).sum() / (way**2).sum()) if moved else None
    return Axis(name, unit, float(np.abs(way).max()), float(np.abs(way_now).max()), gain)


def _missing(way: Array, way_now: Array) -> float:
    """How much the ways differ, as a share of `way`, both squared."""
    return float(((way_now - way) ** 2).sum() / (way**2).sum())


def _is(way: Array, way_now: Array, tolerance: float, moved: NDArray[np.bool_]) -> bool:
    """Whether the ways are the same, and each of those axes that `moved`."""
    gains = (way * way_now).sum(axis=0)[moved] / (way**2).sum(axis=0)[moved]
    return _missing(way, way_now) < tolerance and bool(((gains > GAIN[0]) & (gains < GAIN[1])).all())


def _explain(part: str, way: Array, now: Array, rotations: Rotation, smallest: float) -> Iterator[tuple[str, str]]:
    """Name what explains that the way (K, 3) is `now` another one; nothing where it fits, or where nothing moved.

    rotations: of the tool now.
    """
    size, size_now = (float(np.sqrt((each**2).sum(axis=1).mean())) for each in (way, now))
    if size < smallest:
        if size_now > 2 * smallest:
            yield ANOTHER_WAY, f"{part}: it moved, while the recorded one hardly did"
        return
    moved = np.sqrt((way**2).mean(axis=0)) > smallest
    if _is(way, now, FITS, moved):
        return
    for name, there, words in _suspects(part, way, now, rotations):
        # Of what goes another way, each axis is looked at that has moved there.
        if _is(there, now, EXPLAINED, np.sqrt((there**2).mean(axis=0)) > smallest * size_now / size):
            yield name, f"{part}: {words}"
            return
    if size_now < STILL * size:
        yield STOOD_STILL, f"{part}: {size_now / size:.1%} of the recorded way"
        return
    yield ANOTHER_WAY, f"{part}: {np.sqrt(_missing(way, now)):.0%} of the recorded way is missing or another one"


def _suspects(part: str, way: Array, now: Array, rotations: Rotation) -> Iterator[tuple[str, Array, str]]:
    """Yield what may be wrong, the way that it would make, and words, the likeliest first."""
    for name, scale, words in _SCALES:
        if (scale in (1000.0, 0.001)) == (part == "position"):
            yield name, way * scale, words
    scale = float((way * now).sum() / (way**2).sum())
    if scale > STILL:
        yield RATE, way * scale, f"{scale:.2f} times as far: its speed, its rate or a scale on the way is another one"
    steps = np.diff(way, axis=0, prepend=way[:1])
    for turned in (rotations, rotations.inv()):  # of a tool that points straight down, both are the same
        words = "twists in the base frame are taken for the tool's, or the other way round"
        yield FRAME, np.cumsum(turned.apply(steps), axis=0), words
    for signs in sorted(itertools.product((1, -1), repeat=3), key=lambda signs: -sum(signs)):
        inverted = [axis for axis, sign in zip("xyz", signs) if sign < 0]
        for order in itertools.permutations(range(3)):
            if list(order) == [0, 1, 2] and not inverted:
                continue
            words = "" if list(order) == [0, 1, 2] else f"x, y, z get what is {', '.join('xyz'[i] for i in order)}"
            words += ("; " if words and inverted else "") + (f"{', '.join(inverted)} inverted" if inverted else "")
            yield ANOTHER_AXIS, way[:, order] * np.array(signs), words


def _explain_gripper(opening: Array, opening_now: Array) -> Iterator[tuple[str, str]]:
    """The gripper is looked at where the recorded one opened or closed."""
    if np.ptp(opening) < 0.3:
        return
    if np.ptp(opening_now) < 0.1:
        yield GRIPPER, "the gripper does not move, while the recorded one did"
    elif np.corrcoef(opening, opening_now)[0, 1] < -0.5:
        yield GRIPPER, "the gripper opens where the recorded one closed"
