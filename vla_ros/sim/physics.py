# SPDX-License-Identifier: Apache-2.0
"""The physics of arm and table: a Cartesian twist goes in, a scene state comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import mujoco
import numpy as np

from vla_ros.sim.rotation import (
    about_z,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_vector,
    rotation_vector_to_quaternion,
)
from vla_ros.sim.state import COLORS, Array, SceneState

SCENE_FILE = Path(__file__).with_name("tabletop.xml")
JOINT_NAMES = tuple(f"panda_joint{i}" for i in range(1, 8)) + ("panda_finger_joint1", "panda_finger_joint2")

MAX_LINEAR_MPS = 0.3
MAX_ANGULAR_RPS = 1.5

FINGER_TRAVEL_M = 0.04
HOME_JOINTS_RAD = np.array([0.0, 0.05, 0.0, -2.25, 0.0, 2.30, 0.785])
TOOL_DOWN = np.diag([1.0, -1.0, -1.0])  # fingers point down, tool x = base x

SERVO_EVERY_STEPS = 5  # 50 Hz at 4 ms physics
WORKSPACE_M = np.array([[0.25, -0.40, 0.012], [0.74, 0.40, 0.55]])
# How far the target may run ahead of the measured pose while the arm is blocked (anti-windup).
LEASH_M = 0.03
LEASH_RAD = 0.2
FEEDFORWARD_S = 0.1  # kv / kp of the joint motors in tabletop.xml: cancels their lag at constant speed

DARKNESS = 0.3  # share of the light that is left
GLOW = (2.5, 2.4, 1.8)  # color of a glowing block; above 1 to make up for the darkness


def limit_speed(twist: Array) -> Array:
    """Scale the linear and the angular part of a twist (6,) [m/s, rad/s] down to the arm's speed caps."""
    twist = np.array(twist, dtype=np.float64)
    for part, cap in ((twist[:3], MAX_LINEAR_MPS), (twist[3:6], MAX_ANGULAR_RPS)):
        speed = np.linalg.norm(part)
        if speed > cap:
            part *= cap / speed
    return twist


class TabletopSim:
    """MuJoCo model and data of the table-top scene, moved by a Cartesian twist servo.

    All poses are in base_link (the robot's base, and MuJoCo's world frame): x forward, y left, z up, in metres.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(SCENE_FILE))
        self.nominal = copy.copy(self.model)  # as the scene file has it; randomization starts from here
        self.data = mujoco.MjData(self.model)
        self._ik_data = mujoco.MjData(self.model)
        self._tcp = self.model.site("tcp").id
        joints = [self.model.joint(name) for name in JOINT_NAMES]
        self._joint_qpos = np.array([joint.qposadr[0] for joint in joints])
        self._arm_dof = np.array([joint.dofadr[0] for joint in joints[:7]])
        # Half a degree inside the joint limits.
        self._arm_range = np.array([joint.range + [0.01, -0.01] for joint in joints[:7]]).T
        self._block_qpos = {color: self.model.joint(color).qposadr[0] for color in COLORS}
        self._drawer_qpos = self.model.joint("drawer").qposadr[0]
        self._box = self.model.body("box").id
        self._knob = self.model.geom("knob").id
        self._lights = (self.model.light_diffuse, self.model.vis.headlight.ambient, self.model.vis.headlight.diffuse)
        self.glowing, self.dark = "", False  # color of the block that glows, or empty; whether the light is off
        self.after_step: Callable[[], None] | None = None  # called after each physics step; cleared by `reset`
        self.reset()

    @property
    def tcp_position(self) -> Array:
        """Position (3,) of the tool; a view that changes with the physics."""
        return cast(Array, self.data.site_xpos[self._tcp])

    def reset(self) -> None:
        """Stop, move every joint to the scene file's pose and the arm to its home pose; the light is on."""
        self.after_step = None
        self.set_light(True)
        self.set_glow("")
        mujoco.mj_resetData(self.model, self.data)
        self._steps = 0
        self._owed_s = 0.0
        self._twist = np.zeros(6)
        self._opening = 1.0
        self._set_arm(HOME_JOINTS_RAD)

    def place_tool(self, position: Array, yaw_rad: float) -> None:
        """Teleport the tool to `position` (3,) [m], fingers down, turned by `yaw_rad`; ValueError if out of reach."""
        self._target_position = np.array(position, dtype=np.float64)
        self._target_quaternion = matrix_to_quaternion(about_z(yaw_rad) @ TOOL_DOWN)
        self._set_arm(self._solve_ik(HOME_JOINTS_RAD, iterations=60))
        error_m = np.linalg.norm(self.tcp_position - position)
        if error_m > 1e-3:
            raise ValueError(
                f"position = {np.round(position, 3).tolist()} with yaw_rad = {yaw_rad:.2f} is out of the arm's reach "
                f"(the nearest pose is {error_m * 1e3:.0f} mm away); stay within {WORKSPACE_M.tolist()} m"
            )

    def place_block(self, color: str, position: Array, yaw_rad: float) -> None:
        """Teleport a block's center to `position` (3,) [m], turned by `yaw_rad` about z."""
        start = self._block_qpos[color]
        self.data.qpos[start : start + 3] = position
        self.data.qpos[start + 3 : start + 7] = [np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)]

    def place_drawer(self, drawer_m: float) -> None:
        """Teleport the drawer to `drawer_m` (0 closed, 0.13 fully open)."""
        self.data.qpos[self._drawer_qpos] = drawer_m

    def set_light(self, on: bool) -> None:
        """Turn the light on or off."""
        if on == self.dark:
            if not on:
                self._bright = [light.copy() for light in self._lights]
            for light, bright in zip(self._lights, self._bright):
                light[:] = bright if on else bright * DARKNESS
            self.dark = not on

    def set_glow(self, color: str) -> None:
        """Make one block glow, or none if `color` is empty."""
        if self.glowing:
            self.model.geom(self.glowing).rgba[:] = self.nominal.geom(self.glowing).rgba
        if color:
            self.model.geom(color).rgba[:3] = GLOW
        self.glowing = color

    def set_command(self, twist: Array, opening: float) -> None:
        """Set the tool's velocity and the gripper's opening (0 closed ... 1 open) until the next command.

        The twist (6,) is that of the tcp in base_link, in m/s and rad/s (angular velocity). Zero holds the pose; norms
        above 0.3 m/s and 1.5 rad/s are scaled down.
        """
        twist = np.asarray(twist, dtype=np.float64)
        if twist.shape != (6,) or not np.all(np.isfinite(twist)) or not np.isfinite(opening):
            raise ValueError(f"twist must be 6 finite numbers and opening finite; got {twist} and {opening}")
        self._twist = limit_speed(twist)
        self._opening = float(np.clip(opening, 0.0, 1.0))

    def advance(self, duration_s: float) -> None:
        """Run the physics for `duration_s`; a remainder of the 4 ms step carries over to the next call."""
        self._owed_s += duration_s
        step_s = self.model.opt.timestep
        while self._owed_s > step_s * (1 - 1e-6):
            self._owed_s -= step_s
            self._physics_step()

    def state(self) -> SceneState:
        """Return the measured state of the scene."""
        qpos = self.data.qpos
        blocks = {color: qpos[start : start + 7] for color, start in self._block_qpos.items()}
        return SceneState(
            tcp_position=self.tcp_position.copy(),
            tcp_rotation=self.data.site_xmat[self._tcp].reshape(3, 3).copy(),
            opening=float(np.clip(qpos[self._joint_qpos[7:]].mean() / FINGER_TRAVEL_M, 0.0, 1.0)),
            block_positions={color: pose[:3].copy() for color, pose in blocks.items()},
            block_quaternions={color: pose[3:].copy() for color, pose in blocks.items()},
            box_position=self.model.body_pos[self._box].copy(),
            knob_position=self.data.geom_xpos[self._knob].copy(),
            drawer_m=float(qpos[self._drawer_qpos]),
            lit=self.glowing,
            dark=self.dark,
        )

    def joint_positions(self) -> Array:
        """Return the positions (9,) of JOINT_NAMES: seven arm joints [rad], two fingers [m]."""
        return cast(Array, self.data.qpos[self._joint_qpos].copy())

    def _set_arm(self, joints_rad: Array) -> None:
        """Teleport the arm with the gripper open; the servo holds this pose."""
        self.data.qpos[self._joint_qpos[:7]] = joints_rad
        self.data.qpos[self._joint_qpos[7:]] = FINGER_TRAVEL_M
        self.data.qvel[:] = 0.0
        self.data.ctrl[:7] = joints_rad
        self.data.ctrl[7] = FINGER_TRAVEL_M
        mujoco.mj_forward(self.model, self.data)
        self._joints_from = self._joints_to = np.array(joints_rad, dtype=np.float64)
        self._target_position = self.tcp_position.copy()
        self._target_quaternion = matrix_to_quaternion(self.data.site_xmat[self._tcp])

    def _physics_step(self) -> None:
        """Run one 4 ms step; every fifth one first moves the servo's target along the twist."""
        phase = self._steps % SERVO_EVERY_STEPS
        if phase == 0:
            self._move_target(SERVO_EVERY_STEPS * self.model.opt.timestep)
        step = (self._joints_to - self._joints_from) / SERVO_EVERY_STEPS
        velocity = step / self.model.opt.timestep
        self.data.ctrl[:7] = self._joints_from + step * (phase + 1) + velocity * FEEDFORWARD_S
        self.data.ctrl[7] = self._opening * FINGER_TRAVEL_M
        mujoco.mj_step(self.model, self.data)
        if self.after_step is not None:
            self.after_step()
        self._steps += 1

    def _move_target(self, dt_s: float) -> None:
        """Integrate the commanded twist into the target pose, keep it near the measured pose, solve for the joints."""
        measured_position = self.tcp_position
        measured_rotation = self.data.site_xmat[self._tcp].reshape(3, 3)
        position = self._target_position + self._twist[:3] * dt_s
        ahead = position - measured_position
        position = measured_position + ahead * min(1.0, LEASH_M / max(float(np.linalg.norm(ahead)), 1e-9))
        self._target_position = np.clip(position, *WORKSPACE_M)

        quaternion = np.zeros(4)
        turn = rotation_vector_to_quaternion(self._twist[3:] * dt_s)
        mujoco.mju_mulQuat(quaternion, turn, self._target_quaternion)
        ahead = rotation_vector(quaternion_to_matrix(quaternion) @ measured_rotation.T)
        angle = np.linalg.norm(ahead)
        if angle > LEASH_RAD:
            leash = rotation_vector_to_quaternion(ahead * LEASH_RAD / angle)
            mujoco.mju_mulQuat(quaternion, leash, matrix_to_quaternion(measured_rotation))
        mujoco.mju_normalize4(quaternion)
        self._target_quaternion = quaternion

        self._joints_from = self._joints_to
        self._joints_to = self._solve_ik(self._joints_from, iterations=3)

    def _solve_ik(self, joints_rad: Array, *, iterations: int) -> Array:
        """Solve for the target pose by damped least squares; the free seventh joint drifts to the home posture."""
        scratch, model = self._ik_data, self.model
        joints = np.array(joints_rad, dtype=np.float64)
        target_rotation = quaternion_to_matrix(self._target_quaternion)
        jacobian = np.zeros((6, model.nv))
        for _ in range(iterations):
            scratch.qpos[self._joint_qpos[:7]] = joints
            mujoco.mj_kinematics(model, scratch)
            mujoco.mj_comPos(model, scratch)
            rotation = scratch.site_xmat[self._tcp].reshape(3, 3)
            error = np.concatenate(
                [self._target_position - scratch.site_xpos[self._tcp], rotation_vector(target_rotation @ rotation.T)]
            )
            mujoco.mj_jacSite(model, scratch, jacobian[:3], jacobian[3:], self._tcp)
            arm = jacobian[:, self._arm_dof]
            inverse = arm.T @ np.linalg.inv(arm @ arm.T + 1e-4 * np.eye(6))
            posture = 0.1 * (HOME_JOINTS_RAD - joints)
            step = inverse @ error + posture - inverse @ (arm @ posture)
            joints = np.clip(joints + np.clip(step, -0.2, 0.2), *self._arm_range)
        return joints
