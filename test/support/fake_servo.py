# SPDX-License-Identifier: Apache-2.0
"""A node that takes twists as MoveIt Servo does, by its documentation and source (moveit_servo, Jazzy and newer).

It ignores commands until a command type was selected; halts on a command that is older than `incoming_command_timeout`,
holds NaN, has no frame or one that tf does not know; multiplies by its scale unless it is told speed_units, and then
limits by norm; reports `~/status` in each cycle, by wall time whatever its clock, and does nothing while it is paused.
"""

from __future__ import annotations

import time

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from moveit_msgs.msg import ServoStatus
from moveit_msgs.srv import ServoCommandType
from rclpy.parameter import Parameter
from rclpy.time import Time
from std_srvs.srv import SetBool

from vla_ros.nodes.common.clock import steady_clock

CYCLE_S = 1 / 30
LINEAR_SCALE = 0.4
# Those that tf can bring into the planning frame.
FRAMES = ("base_link", "tool0")
NO_COMMAND_TYPE = -1


class FakeServo:
    """`linear_x` is what the arm does now; `status` is what is reported while nothing is wrong with the command."""

    def __init__(
        self, context, executor, *, units: str = "speed_units", timeout_s: float = 0.25, use_sim_time: bool = False
    ) -> None:
        overrides = [Parameter("use_sim_time", value=use_sim_time)]
        self.node = node = rclpy.create_node("servo_node", context=context, parameter_overrides=overrides)
        node.declare_parameter("moveit_servo.command_in_type", units)
        node.declare_parameter("moveit_servo.incoming_command_timeout", timeout_s)
        self.linear_x, self.paused, self.command_type = 0.0, False, NO_COMMAND_TYPE
        self.status = (ServoStatus.NO_WARNING, "")
        self.moved_s: list[float] = []
        self._newest: TwistStamped | None = None
        self._executor = executor
        node.create_subscription(TwistStamped, "~/delta_twist_cmds", self._on_twist, 10)
        self._status = node.create_publisher(ServoStatus, "~/status", 10)
        node.create_service(ServoCommandType, "~/switch_command_type", self._on_switch)
        node.create_service(SetBool, "~/pause_servo", self._on_pause)
        node.create_timer(CYCLE_S, self._cycle, clock=steady_clock())
        executor.add_node(node)

    def close(self) -> None:
        self._executor.remove_node(self.node)
        self.node.destroy_node()

    def _on_twist(self, message: TwistStamped) -> None:
        self._newest = message

    def _on_switch(self, request, response):
        response.success = 0 <= request.command_type <= 2
        if response.success:
            self.command_type = request.command_type
        return response

    def _on_pause(self, request, response):
        self.paused, response.success = request.data, True
        if self.paused:
            self.linear_x = 0.0
        return response

    def _cycle(self) -> None:
        if self.paused:
            return
        code, text = self.status
        self.linear_x = 0.0
        if self._newest is not None and self.command_type == ServoCommandType.Request.TWIST:
            linear = self._newest.twist.linear
            velocity = np.array([linear.x, linear.y, linear.z])
            if not np.isfinite(velocity).all() or self._newest.header.frame_id not in FRAMES:
                code, text = ServoStatus.INVALID, "invalid command"
            elif not self._stale(self._newest):
                self.linear_x = float(self._scaled(velocity)[0])
        if self.linear_x:
            self.moved_s.append(time.monotonic())
        self._status.publish(ServoStatus(code=code, message=text))

    def _stale(self, message: TwistStamped) -> bool:
        age_ns = (self.node.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds
        return age_ns >= self.node.get_parameter("moveit_servo.incoming_command_timeout").value * 1e9

    def _scaled(self, velocity: np.ndarray) -> np.ndarray:
        if self.node.get_parameter("moveit_servo.command_in_type").value == "unitless":
            return velocity * LINEAR_SCALE
        return velocity * min(1.0, LINEAR_SCALE / max(np.linalg.norm(velocity), 1e-9))
