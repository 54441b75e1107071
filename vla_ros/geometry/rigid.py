# SPDX-License-Identifier: Apache-2.0
"""Rigid motions as seven plain floats: x y z [m] and a unit quaternion x y z w, as in geometry_msgs/Transform.

Plain floats are ten times as fast as numpy for the few poses that arrive with each robot state.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

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
