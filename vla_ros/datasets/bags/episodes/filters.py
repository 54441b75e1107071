# SPDX-License-Identifier: Apache-2.0
"""Frames that could be used and are better left out: pauses of the demonstrator, and impossible actions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.robot import Idle, Outliers

Mask = NDArray[np.bool_]


def idle_frames(actions: NDArray[np.float64], ticks: NDArray[np.int64], period_ns: int, idle: Idle) -> Mask:
    """Say which frames (T,) lie in a pause that is longer than `idle` allows; actions (T, 7), ticks (T,) ascending.

    A frame whose gripper opening differs from the frame's before it is no pause.
    """
    slow = (np.linalg.norm(actions[:, :3], axis=1) < idle.linear_mps) & (
        np.linalg.norm(actions[:, 3:6], axis=1) < idle.angular_radps
    )
    follows = np.diff(ticks, prepend=ticks[:1] - 1) == 1
    changed = np.diff(actions[:, 6], prepend=actions[:1, 6]) != 0
    still = slow & ~(changed & follows)
    # A run ends where a frame is no pause, or where ticks are missing.
    run = np.cumsum(~still | ~follows)
    lengths = np.bincount(run, weights=still, minlength=1 if len(run) else 0)
    result: Mask = still & (lengths[run] * period_ns > idle.longer_than_s * 1e9)
    return result


def outlier_frames(actions: NDArray[np.float64], outliers: Outliers) -> Mask:
    """Say which frames (T,) have an action that is faster than `outliers` allows; actions (T, 7)."""
    result: Mask = (np.linalg.norm(actions[:, :3], axis=1) > outliers.linear_mps) | (
        np.linalg.norm(actions[:, 3:6], axis=1) > outliers.angular_radps
    )
    return result
