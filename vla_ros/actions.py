# SPDX-License-Identifier: Apache-2.0
"""The action space: twists and gripper openings, their normalization and discretization, as pure functions on arrays.

An action is [vx vy vz wx wy wz gripper]: the tool's mean velocity over one control period in m/s and rad/s, the angular
part being a rotation vector divided by the period (an angular velocity, never Euler rates: REP-103), and the gripper's
opening in [0 closed, 1 open]. Quaternions are x y z w, as in geometry_msgs.
"""

from __future__ import annotations

from typing import overload

# scipy is imported on use: importing it takes longer than decoding a short bag, and most bags do not need it.
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A narrower range [m/s, rad/s], of an axis that the demonstrations never move, would scale noise up to full commands.
MINIMUM_RANGE = 0.02


def quantile_bounds(actions: ArrayLike, low: float = 0.01, high: float = 0.99) -> tuple[Array, Array]:
    """Return the bounds, each (6,), of the arm axes at two quantiles of `actions` (..., 7 or 6).

    Ranges narrower than `MINIMUM_RANGE` are widened around their centre. Raises ValueError if `actions` is empty or not
    finite.
    """
    arm = np.asarray(actions, dtype=np.float64).reshape(-1, np.shape(actions)[-1])[:, :6]
    if len(arm) == 0 or not np.isfinite(arm).all():
        raise ValueError(
            f"quantile bounds need finite actions; got {arm.shape[0]} rows, finite: {bool(np.isfinite(arm).all())}"
        )
    lower, upper = np.quantile(arm, low, axis=0), np.quantile(arm, high, axis=0)
    widen = np.maximum(MINIMUM_RANGE - (upper - lower), 0.0) / 2
    return lower - widen, upper + widen


def normalize(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Map the arm columns of `actions` (..., 7) from [low, high], each (6,), to [-1, 1] and clip; not the gripper's."""
    result = np.array(actions, dtype=np.float64)
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    result[..., :6] = np.clip(2 * (result[..., :6] - low) / (high - low) - 1, -1, 1)
    return result


def denormalize(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Invert `normalize`; values beyond [-1, 1] are clipped, the gripper column is unchanged."""
    result = np.array(actions, dtype=np.float64)
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    result[..., :6] = (np.clip(result[..., :6], -1, 1) + 1) / 2 * (high - low) + low
    return result


def network_targets(actions: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Return the training targets for `actions` (..., 7): normalized, the gripper command as 0 or 1."""
    result = normalize(actions, low, high)
    result[..., 6] = result[..., 6] > 0.5
    return result


def discretize(values: ArrayLike, bins: int = 256) -> NDArray[np.int64]:
    """Return the index, 0 ... bins - 1, of the uniform bin over [-1, 1] that holds each value, after clipping."""
    values = np.clip(np.asarray(values, dtype=np.float64), -1, 1)
    return np.minimum(((values + 1) / 2 * bins).astype(np.int64), bins - 1)


def twist_between(
    position0: ArrayLike, quaternion0: ArrayLike, position1: ArrayLike, quaternion1: ArrayLike, dt_s: float | Array
) -> Array:
    """Return the constant base-frame twist (6,) that takes pose 0 to pose 1 in `dt_s`, or (T, 6) for T pairs.

    Each of the T may have a `dt_s` (T, 1) of its own.
    """
    from scipy.spatial.transform import Rotation

    linear = (np.asarray(position1, dtype=np.float64) - np.asarray(position0, dtype=np.float64)) / dt_s
    if not linear.size:  # SciPy of Ubuntu 24.04 has no rotation vectors of no rotations
        return np.zeros((0, 6))
    rotation = Rotation.from_quat(np.asarray(quaternion1)) * Rotation.from_quat(np.asarray(quaternion0)).inv()
    return np.concatenate([linear, rotation.as_rotvec() / dt_s], axis=-1)


def integrate_twist(position: ArrayLike, quaternion: ArrayLike, twist: ArrayLike, dt_s: float) -> tuple[Array, Array]:
    """Return position (3,) and quaternion (4,) after a base-frame `twist` (6,) has acted for `dt_s`."""
    from scipy.spatial.transform import Rotation

    twist = np.asarray(twist, dtype=np.float64)
    rotation = Rotation.from_rotvec(twist[3:6] * dt_s) * Rotation.from_quat(np.asarray(quaternion))
    return np.asarray(position, dtype=np.float64) + twist[:3] * dt_s, rotation.as_quat()


def rotate_twist(twist: ArrayLike, quaternion: ArrayLike) -> Array:
    """Express a tool-frame twist (6,) in the base frame, given the tool's orientation there (4,); or T of each.

    The twist refers to the tool's own point in either frame, so both parts are only rotated.
    """
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_quat(np.asarray(quaternion))
    twist = np.asarray(twist, dtype=np.float64)
    return np.concatenate([rotation.apply(twist[..., :3]), rotation.apply(twist[..., 3:6])], axis=-1)


def binarize_gripper(opening: ArrayLike, closed: float = 0.05, opened: float = 0.95) -> Array:
    """Turn measured openings (T,) into 0 or 1: 1 above `opened`, 0 below `closed`, else as the next clear step (Octo).

    For fingers that take time to travel; a command is thresholded at 0.5 instead. A tail without a clear step takes
    the nearer side of the last value.
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


@overload
def opening_from_value(value: float, closed: float, open: float) -> float: ...
@overload
def opening_from_value(value: Array, closed: float, open: float) -> Array: ...
def opening_from_value(value: float | Array, closed: float, open: float) -> float | Array:
    """Convert actuator values to openings in [0, 1]; `closed` and `open` are the end values, in either order."""
    opening = (value - closed) / (open - closed)
    if isinstance(opening, np.ndarray):
        return np.clip(opening, 0.0, 1.0)
    return opening if opening != opening else float(min(max(opening, 0.0), 1.0))  # NaN stays; np.clip is slow for one


def value_from_opening(opening: float, closed: float, open: float) -> float:
    """Convert an opening to the actuator's value, the inverse of `opening_from_value`."""
    return closed + float(np.clip(opening, 0.0, 1.0)) * (open - closed)
