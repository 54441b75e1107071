# SPDX-License-Identifier: Apache-2.0
"""The action space: twists, gripper openings, normalisation and discretisation, as pure functions on arrays.

An action is [vx vy vz wx wy wz gripper]: m/s and rad/s of the tool, averaged over one control period, the angular part
a rotation vector divided by the period (an angular velocity, never Euler rates: REP-103), and the gripper's opening in
[0 closed, 1 open]. Quaternions are x y z w, as in geometry_msgs.
"""

from __future__ import annotations

import math

# scipy is imported where it is needed: that takes longer than decoding a short bag, and most bags do not need it.
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A range that is narrower than this (an axis that the demonstrations never move) would turn noise into full commands.
MINIMUM_RANGE = 0.02


def quantile_bounds(actions: ArrayLike, low: float = 0.01, high: float = 0.99) -> tuple[Array, Array]:
    """Bounds of the six arm axes at the `low` and `high` quantiles of `actions` (..., 7 or 6), each (6,).

    Ranges narrower than `MINIMUM_RANGE` (m/s, rad/s) are widened around their centre. Raises ValueError without data.
    """
    arm = np.asarray(actions, dtype=np.float64).reshape(-1, np.shape(actions)[-1])[:, :6]
    if len(arm) == 0 or not np.isfinite(arm).all():
        raise ValueError(
            f"quantile bounds need finite actions, got {arm.shape[0]} rows, finite: {bool(np.isfinite(arm).all())}"
        )
    lower, upper = np.quantile(arm, low, axis=0), np.quantile(arm, high, axis=0)
    widen = np.maximum(MINIMUM_RANGE - (upper - lower), 0.0) / 2
    return lower - widen, upper + widen


def normalize(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Map the arm columns of `actions` (..., 7) from [low, high] to [-1, 1], clipped; the gripper column stays."""
    result = np.array(actions, dtype=np.float64)
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    result[..., :6] = np.clip(2 * (result[..., :6] - low) / (high - low) - 1, -1, 1)
    return result


def network_targets(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """What a network is trained to say for `actions` (..., 7): normalised, and the gripper decided, 0 or 1.

    A gripper's action is a command, so one half of its range decides.
    """
    result = normalize(actions, low, high)
    result[..., 6] = result[..., 6] > 0.5
    return result


def network_commitment(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """How a network is told that `actions` (..., 7) are carried out: as `network_targets`, but however fast they are.

    Where the arm will be depends on all of its speed, also of what is beyond the bounds that a network's own actions
    keep to.
    """
    result = np.array(actions, dtype=np.float64)
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    result[..., :6] = 2 * (result[..., :6] - low) / (high - low) - 1
    result[..., 6] = result[..., 6] > 0.5
    return result


def denormalize(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Inverse of `normalize` inside the bounds; values beyond [-1, 1] are clipped, the gripper column is untouched."""
    result = np.array(actions, dtype=np.float64)
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    result[..., :6] = (np.clip(result[..., :6], -1, 1) + 1) / 2 * (high - low) + low
    return result


def discretize(values: ArrayLike, bins: int = 256) -> NDArray[np.int64]:
    """Index of the uniform bin over [-1, 1] that each value falls into, 0 ... bins-1; beyond the ends: the end bin."""
    values = np.clip(np.asarray(values, dtype=np.float64), -1, 1)
    return np.minimum(((values + 1) / 2 * bins).astype(np.int64), bins - 1)


def twist_between(
    position0: ArrayLike, quaternion0: ArrayLike, position1: ArrayLike, quaternion1: ArrayLike, dt_s: float
) -> Array:
    """The constant twist (6,) in the base frame that takes pose 0 to pose 1 in `dt_s` seconds; or (T, 6) of T pairs."""
    from scipy.spatial.transform import Rotation

    linear = (np.asarray(position1, dtype=np.float64) - np.asarray(position0, dtype=np.float64)) / dt_s
    rotation = Rotation.from_quat(np.asarray(quaternion1)) * Rotation.from_quat(np.asarray(quaternion0)).inv()
    return np.concatenate([linear, rotation.as_rotvec() / dt_s], axis=-1)


def integrate_twist(position: ArrayLike, quaternion: ArrayLike, twist: ArrayLike, dt_s: float) -> tuple[Array, Array]:
    """The pose (position (3,), quaternion (4,)) after a base-frame `twist` (6,) has acted for `dt_s` seconds."""
    twist = np.asarray(twist, dtype=np.float64)
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(twist[3:6] * dt_s) * Rotation.from_quat(np.asarray(quaternion))
    return np.asarray(position, dtype=np.float64) + twist[:3] * dt_s, rotation.as_quat()


def rotate_twist(twist: ArrayLike, quaternion: ArrayLike) -> Array:
    """Express a tool-frame twist (6,) in the base frame, given the tool's orientation there (4,); or T of both.

    Both parts are rotated: the twist is of the tool's own point, seen in either frame.
    """
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_quat(np.asarray(quaternion))
    twist = np.asarray(twist, dtype=np.float64)
    return np.concatenate([rotation.apply(twist[..., :3]), rotation.apply(twist[..., 3:6])], axis=-1)


def unit_velocities(twist: ArrayLike, unit_mps: float, unit_radps: float) -> Array:
    """A twist (6,) or twists (T, 6) as a simulator counts them: 1 is `unit_mps` and `unit_radps`; clipped to +-1."""
    shares = np.asarray(twist, dtype=np.float64) / np.repeat([unit_mps, unit_radps], 3)
    return np.clip(shares, -1, 1)


def rotation_6d(quaternion: ArrayLike) -> Array:
    """First two columns of the rotation matrix, one after the other (6,) (arXiv:1812.07035)."""
    return np.array(rotation_columns(*map(float, quaternion)))  # type: ignore[arg-type]


def rotation_columns(x: float, y: float, z: float, w: float) -> tuple[float, ...]:
    """`rotation_6d` as plain numbers."""
    # The numbers that Rotation.from_quat(...).as_matrix() gives, a hundred times as fast: this is done for every frame.
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if length == 0:
        raise ValueError("a quaternion of zeros is no rotation")
    x, y, z, w = x / length, y / length, z / length, w / length
    first = (x * x - y * y - z * z + w * w, 2 * (x * y + z * w), 2 * (x * z - y * w))
    second = (2 * (x * y - z * w), -x * x + y * y - z * z + w * w, 2 * (y * z + x * w))
    return (*first, *second)


def quaternion_of_6d(columns: ArrayLike) -> Array:
    """The quaternion (4,) of the first two columns of a rotation matrix (6,), made orthonormal (arXiv:1812.07035).

    Raises:
        ValueError: a column is zero, or they are parallel.
    """
    from scipy.spatial.transform import Rotation

    first, second = np.asarray(columns, dtype=np.float64).reshape(2, 3)
    third = np.cross(first, second)
    if not (np.linalg.norm(first) > 1e-6 and np.linalg.norm(third) > 1e-6):
        raise ValueError(f"{first} and {second} are no two columns of a rotation matrix")
    first, third = first / np.linalg.norm(first), third / np.linalg.norm(third)
    return Rotation.from_matrix(np.column_stack([first, np.cross(third, first), third])).as_quat()


def binarize_gripper(opening: ArrayLike, closed: float = 0.05, opened: float = 0.95) -> Array:
    """Measured openings (T,) as 0 or 1: above `opened` 1, below `closed` 0, else as the next decided step (Octo).

    For fingers that move slowly from end to end; a command is decided by itself, at one half. A tail that is never
    decided takes its last value's nearer side.
    """
    opening = np.asarray(opening, dtype=np.float64)
    result = np.empty_like(opening)
    carry = float(opening[-1] > 0.5) if len(opening) else 0.0
    for index in range(len(opening) - 1, -1, -1):
        if opening[index] > opened:
            carry = 1.0
        elif opening[index] < closed:
            carry = 0.0
        result[index] = carry
    return result


def opening_from_value(value: float, closed: float, open: float) -> float:
    """An actuator's value as opening in [0, 1]; `closed` and `open` are its values at the ends, either order."""
    opening = (value - closed) / (open - closed)
    return opening if opening != opening else float(min(max(opening, 0.0), 1.0))  # NaN stays; np.clip is slow for one


def value_from_opening(opening: float, closed: float, open: float) -> float:
    """Inverse of `opening_from_value`."""
    return closed + float(np.clip(opening, 0.0, 1.0)) * (open - closed)
