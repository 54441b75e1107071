# SPDX-License-Identifier: Apache-2.0
"""Where a plan leads: what people look at to see what the policy is about to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions

Array = NDArray[np.float64]


def predicted_path(pose: Array, plan: Array, period_s: float) -> Array:
    """The poses (N + 1, 7) of the tool [m, quaternion xyzw] from `pose` on, if `plan` is carried out as it is.

    Args:
        pose: (7,) of the tool in the base frame now.
        plan: (N, 7) actions, from now on; twists in the base frame [m/s, rad/s].
        period_s: for which each action holds.
    """
    position, quaternion = pose[:3], pose[3:]
    poses = [np.concatenate([position, quaternion])]
    for action in plan:
        position, quaternion = actions.integrate_twist(position, quaternion, action[:6], period_s)
        poses.append(np.concatenate([position, quaternion]))
    return np.array(poses)
