# SPDX-License-Identifier: Apache-2.0
"""A planner for the guard in plain rclpy: moves the tool along x. Replace `twist_x` by your policy."""

import contextlib
import sys

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Transform, Twist
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

PERIOD_S, POINTS = 0.1, 8

rclpy.init()
node = rclpy.create_node("planner")
plans = node.create_publisher(MultiDOFJointTrajectory, "plan", 1)
statuses = node.create_publisher(DiagnosticStatus, "policy/status", 1)
twist_x = float(sys.argv[1]) if len(sys.argv) > 1 else 0.05  # m/s


def plan() -> None:
    message = MultiDOFJointTrajectory(joint_names=["tool", "gripper"])
    message.header.frame_id = "base_link"
    message.header.stamp = node.get_clock().now().to_msg()  # in a policy: the time of the observation
    for index in range(POINTS):
        point = MultiDOFJointTrajectoryPoint(velocities=[Twist(), Twist()], transforms=[Transform(), Transform()])
        point.velocities[0].linear.x = twist_x
        point.transforms[1].translation.x = 1.0  # the gripper is open
        point.time_from_start = Duration(seconds=index * PERIOD_S).to_msg()
        message.points.append(point)
    plans.publish(message)


def beat() -> None:
    session = KeyValue(key="session", value=str(id(node)))
    statuses.publish(DiagnosticStatus(name="planner", values=[session, KeyValue(key="command", value="move along x")]))


node.create_timer(PERIOD_S, plan)
node.create_timer(0.05, beat)
with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
    rclpy.spin(node)
