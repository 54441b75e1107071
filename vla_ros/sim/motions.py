# SPDX-License-Identifier: Apache-2.0
"""The expert's motion primitives: each maps the current scene state to an action (7,), twist and gripper opening."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vla_ros.sim.physics import TOOL_DOWN
from vla_ros.sim.rotation import about_z, rotation_vector
from vla_ros.sim.state import Array, SceneState

OPEN, CLOSED = 1.0, 0.0
GAIN_PER_S = 4.0  # higher gains overshoot when a command takes effect two periods late (benchmarks/control_rate.py)
PUSH_MPS = 0.2

GRASP_HEIGHT_M = 0.018
HOVER_M = 0.075  # above the object to grasp, or above the point to push from
LIFT_HEIGHT_M = 0.15
FIST_HEIGHT_M = 0.022
BLOCK_OPENING = 0.56  # gripper opening below which the fingers hold a 4 cm block (0.5 if it is square to them)


def distance(vector: ArrayLike) -> float:
    """Return the length of a vector."""
    return float(np.linalg.norm(vector))


def hold(opening: float) -> Array:
    """Stand still."""
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, opening])


def turn(state: SceneState, yaw_rad: float) -> Array:
    """Return the angular velocity (3,) towards fingers down, turned by `yaw_rad` about z."""
    return GAIN_PER_S * rotation_vector(about_z(yaw_rad) @ TOOL_DOWN @ state.tcp_rotation.T)


def go(state: SceneState, position: ArrayLike, yaw_rad: float, opening: float) -> Array:
    """Move straight to a pose."""
    return np.array([*(GAIN_PER_S * (np.asarray(position) - state.tcp_position)), *turn(state, yaw_rad), opening])


def lift(state: SceneState, opening: float) -> Array:
    """Move straight up to the lift height."""
    x, y, _ = state.tcp_position
    return go(state, [x, y, LIFT_HEIGHT_M], 0.0, opening)


def is_lifted(state: SceneState) -> bool:
    """Return whether the tool has reached the lift height."""
    return bool(state.tcp_position[2] > LIFT_HEIGHT_M - 0.01)


def funnel(offset_m: float, low_m: float, high_m: float) -> float:
    """Return the height at a lateral offset: `high_m` far away, sloping down to `low_m` within 12 mm of the axis."""
    return low_m + float(np.clip(2.5 * (offset_m - 0.012), 0.0, high_m - low_m))


def holds_block(state: SceneState, color: str) -> bool:
    """Return whether the fingers are closed around a block."""
    offset = state.block_positions[color] - state.tcp_position
    return 0.3 < state.opening < BLOCK_OPENING and distance(offset) < 0.03


def grasp_block(state: SceneState, color: str) -> Array:
    """Grasp a block, with the smallest turn that aligns the fingers with its sides."""
    x, y, z = state.block_positions[color]
    quaternion = state.block_quaternions[color]
    yaw = 2 * np.arctan2(quaternion[3], quaternion[0])
    aligned = float((yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    return grasp(state, np.array([x, y, max(GRASP_HEIGHT_M, z - 0.003)]), aligned)


def grasp(state: SceneState, target: Array, yaw_rad: float) -> Array:
    """Approach from above with open fingers, then close them around `target` (3,)."""
    turn_left = distance(turn(state, yaw_rad)) / GAIN_PER_S
    closing = state.opening < 0.97
    tolerance_m = 0.025 if closing else 0.012
    if distance(target - state.tcp_position) < tolerance_m and (closing or turn_left < 0.2):
        return go(state, target, yaw_rad, CLOSED)
    # A large remaining turn, or fingers not yet open, keep the tool up just as an offset does.
    offset = max(distance((target - state.tcp_position)[:2]), 0.1 * turn_left, 0.05 if state.opening < 0.9 else 0.0)
    height = funnel(offset, target[2], target[2] + HOVER_M)
    return go(state, np.array([target[0], target[1], height]), yaw_rad, OPEN)


def push_block(state: SceneState, color: str, direction: Array) -> Array:
    """Push a block along `direction` (3,) with closed fingers."""
    x, y, _ = state.block_positions[color]
    return push(state, np.array([x, y, FIST_HEIGHT_M]), direction, stand_off_m=0.07)


def push(state: SceneState, point: Array, direction: Array, *, stand_off_m: float) -> Array:
    """Descend `stand_off_m` behind `point` (3,) with closed fingers, then push it along `direction` (3,)."""
    offset = state.tcp_position - point
    along = offset @ direction
    aside = offset - along * direction
    above_m = offset[2]
    if -1.3 * stand_off_m < along < 0.0 and distance(aside[:2]) < 0.02 and above_m < 0.010:
        return np.array([*(PUSH_MPS * direction - GAIN_PER_S * aside), *turn(state, 0.0), CLOSED])
    behind = point - stand_off_m * direction
    offset_m = distance((behind - state.tcp_position)[:2])
    action = go(state, [behind[0], behind[1], funnel(offset_m, point[2], point[2] + HOVER_M)], 0.0, CLOSED)
    if offset_m > 0.03:
        action[:2] *= np.clip((above_m - 0.02) / 0.03, 0.0, 1.0)  # first up, then across
    return action
