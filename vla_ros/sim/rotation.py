# SPDX-License-Identifier: Apache-2.0
"""Rotations as matrices, rotation vectors [rad] and quaternions (wxyz, MuJoCo's order).

MuJoCo's own conversions: the servo runs several per physics step, and the scene of a seed depends on their last bit.
"""

from __future__ import annotations

import mujoco
import numpy as np

from vla_ros.sim.state import Array


def quaternion_to_matrix(quaternion_wxyz: Array) -> Array:
    """Convert a unit quaternion (4,) to a rotation matrix (3, 3)."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion_wxyz)
    return matrix.reshape(3, 3)


def matrix_to_quaternion(matrix: Array) -> Array:
    """Convert a rotation matrix (3, 3) to a unit quaternion (4,)."""
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix).ravel())
    return quaternion


def rotation_vector_to_quaternion(vector: Array) -> Array:
    """Convert a rotation vector (3,) [rad] to a unit quaternion (4,)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.array([1.0, 0.0, 0.0, 0.0])
    quaternion = np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, vector / angle, angle)
    return quaternion


def rotation_vector(matrix: Array) -> Array:
    """Convert a rotation matrix (3, 3) to its rotation vector (3,) [rad], angle in [0, pi]."""
    vector = np.zeros(3)
    mujoco.mju_quat2Vel(vector, matrix_to_quaternion(matrix), 1.0)
    return vector


def about_z(angle_rad: float) -> Array:
    """Return the rotation matrix (3, 3) of a turn by `angle_rad` about z."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
