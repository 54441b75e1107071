# SPDX-License-Identifier: Apache-2.0
"""Rigid motions as seven plain floats, and the 6D representation of rotations.

A pose is x y z [m] and a unit quaternion x y z w, as in geometry_msgs/Transform. Plain floats are ten times as fast as
numpy for the few poses that arrive with each robot state. Conversions of whole arrays between quaternions, Euler
angles, rotation vectors and matrices are scipy's `Rotation`; the 6D representation, which scipy lacks, is here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

Pose = tuple[float, float, float, float, float, float, float]

IDENTITY: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
# Above this dot product two quaternions are interpolated linearly: the arc between them no longer has a direction.
_NEARLY_EQUAL = 1.0 - 1e-9


def compose(outer: Pose, inner: Pose) -> Pose:
    """Express `inner`, given in the frame of `outer`, in the parent frame of `outer`."""
    tx, ty, tz, ax, ay, az, aw = outer
    x, y, z, bx, by, bz, bw = inner
    # v + 2 w (q x v) + 2 q x (q x v)
    cx, cy, cz = 2 * (ay * z - az * y), 2 * (az * x - ax * z), 2 * (ax * y - ay * x)
    return (
        tx + x + aw * cx + ay * cz - az * cy,
        ty + y + aw * cy + az * cx - ax * cz,
        tz + z + aw * cz + ax * cy - ay * cx,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def inverse(pose: Pose) -> Pose:
    """Invert a pose."""
    x, y, z, qx, qy, qz, qw = pose
    turned = compose((0.0, 0.0, 0.0, -qx, -qy, -qz, qw), (-x, -y, -z, 0.0, 0.0, 0.0, 1.0))
    return (*turned[:3], -qx, -qy, -qz, qw)


def interpolate(start: Pose, end: Pose, fraction: float) -> Pose:
    """Interpolate from `start` (0) to `end` (1): linearly in position, along the shorter arc in rotation (slerp)."""
    cos = sum(a * b for a, b in zip(start[3:], end[3:]))
    sign = -1.0 if cos < 0 else 1.0  # q and -q are the same rotation
    cos = abs(cos)
    if cos > _NEARLY_EQUAL:
        keep, take = 1.0 - fraction, fraction
    else:
        angle = math.acos(cos)
        keep, take = (math.sin(part * angle) / math.sin(angle) for part in (1.0 - fraction, fraction))
    qx, qy, qz, qw = (keep * a + take * sign * b for a, b in zip(start[3:], end[3:]))
    x, y, z = (a + (b - a) * fraction for a, b in zip(start[:3], end[:3]))
    return normalize((x, y, z, qx, qy, qz, qw))


def interpolate_poses(
    sample_ns: NDArray[np.int64], poses: NDArray[np.float64], time_ns: NDArray[np.int64], max_gap_ns: int
) -> NDArray[np.float64]:
    """Interpolate poses (S, 7), position and quaternion x y z w, at each of `time_ns` (T,): (T, 7).

    Linear in position, along the shorter arc in rotation; NaN outside the samples, and between two that are more than
    `max_gap_ns` apart. Samples may come in any order; invalid ones are skipped, and of equal times the first one
    counts: a sensor that repeats a stamp repeats its sample.
    """
    from scipy.spatial.transform import Rotation

    valid = np.isfinite(poses).all(axis=1) & (np.linalg.norm(poses[:, 3:], axis=1) > 1e-6)
    sample_ns, first = np.unique(sample_ns[valid], return_index=True)
    poses = poses[valid][first]
    result = np.full((len(time_ns), 7), np.nan)
    if len(sample_ns) == 0:
        return result
    right = np.searchsorted(sample_ns, time_ns, side="left")
    left = np.where(np.append(sample_ns, -1)[right] == time_ns, right, right - 1)
    inside = (left >= 0) & (right < len(sample_ns))
    left, right = left[inside], right[inside]
    gap_ns = sample_ns[right] - sample_ns[left]
    near = gap_ns <= max_gap_ns
    fraction = ((time_ns[inside] - sample_ns[left]) / np.maximum(gap_ns, 1))[:, None]
    between = np.full((len(left), 7), np.nan)
    if near.any():
        start, end, part = poses[left][near], poses[right][near], fraction[near]
        turn = (Rotation.from_quat(end[:, 3:]) * Rotation.from_quat(start[:, 3:]).inv()).as_rotvec()
        rotation = Rotation.from_rotvec(turn * part) * Rotation.from_quat(start[:, 3:])
        between[near] = np.concatenate([start[:, :3] + (end[:, :3] - start[:, :3]) * part, rotation.as_quat()], axis=1)
    result[inside] = between
    return result


def normalize(pose: Pose) -> Pose:
    """Scale the pose's quaternion to unit length."""
    x, y, z, qx, qy, qz, qw = pose
    length = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    return (x, y, z, qx / length, qy / length, qz / length, qw / length)


def rotation_6d(x: float, y: float, z: float, w: float) -> tuple[float, ...]:
    """Return the first two columns of a quaternion's rotation matrix, one after the other (arXiv:1812.07035).

    Bit for bit what `Rotation.from_quat(...).as_matrix()` contains, at a hundredth of its cost: each frame needs it.

    Raises:
        ValueError: All four numbers are zero.
    """
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if length == 0:
        raise ValueError("the quaternion is zero, so it is not a rotation")
    x, y, z, w = x / length, y / length, z / length, w / length
    first = (x * x - y * y - z * z + w * w, 2 * (x * y + z * w), 2 * (x * z - y * w))
    second = (2 * (x * y - z * w), -x * x + y * y - z * z + w * w, 2 * (y * z + x * w))
    return (*first, *second)


def rotation_from_6d(columns: ArrayLike) -> Rotation:
    """Return the rotations of `columns` (..., 6), made orthonormal by Gram-Schmidt (arXiv:1812.07035).

    Raises:
        ValueError: A column is zero, or the two are parallel.
    """
    from scipy.spatial.transform import Rotation

    values = np.asarray(columns, dtype=np.float64)
    first, second = values[..., :3], values[..., 3:]
    third = np.cross(first, second)
    lengths = [np.linalg.norm(axis, axis=-1, keepdims=True) for axis in (first, third)]
    if not all((length > 1e-6).all() for length in lengths):
        raise ValueError("6D rotation columns must not be zero or parallel")
    first, third = first / lengths[0], third / lengths[1]
    return Rotation.from_matrix(np.stack([first, np.cross(third, first), third], axis=-1))
