# SPDX-License-Identifier: Apache-2.0
"""Rigid motions as seven plain numbers: position x y z [m] and unit quaternion x y z w, as in geometry_msgs/Transform.

Plain floats, because a chain of a few links at the rate of a robot's state is put together one pose at a time: numpy
takes ten times as long for seven numbers.
"""

from __future__ import annotations

import math

Pose = tuple[float, float, float, float, float, float, float]

IDENTITY: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
# Quaternions this close (their dot product) are interpolated along the chord: its arc has no direction any more.
_CLOSE = 1.0 - 1e-9


def compose(outer: Pose, inner: Pose) -> Pose:
    """Where `inner`, given in the frame of `outer`, is in the frame that `outer` is given in."""
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
    """The motion that undoes `pose`."""
    x, y, z, qx, qy, qz, qw = pose
    turned = compose((0.0, 0.0, 0.0, -qx, -qy, -qz, qw), (-x, -y, -z, 0.0, 0.0, 0.0, 1.0))
    return (*turned[:3], -qx, -qy, -qz, qw)


def interpolate(start: Pose, end: Pose, fraction: float) -> Pose:
    """The pose on the way from `start` (0) to `end` (1): a straight line, and the shorter arc at a steady rate."""
    cos = sum(a * b for a, b in zip(start[3:], end[3:]))
    sign = -1.0 if cos < 0 else 1.0  # q and -q are the same rotation
    cos = abs(cos)
    if cos > _CLOSE:
        keep, take = 1.0 - fraction, fraction
    else:
        angle = math.acos(cos)
        keep, take = (math.sin(part * angle) / math.sin(angle) for part in (1.0 - fraction, fraction))
    qx, qy, qz, qw = (keep * a + take * sign * b for a, b in zip(start[3:], end[3:]))
    length = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    x, y, z = (a + (b - a) * fraction for a, b in zip(start[:3], end[:3]))
    return (x, y, z, qx / length, qy / length, qz / length, qw / length)
