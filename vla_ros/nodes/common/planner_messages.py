# SPDX-License-Identifier: Apache-2.0
"""What a planner and the guard say to each other, as standard messages.

A plan is one `trajectory_msgs/MultiDOFJointTrajectory`: the stamp is the tick of the observation that it answers, the
frame is the robot's base frame, `joint_names` are the tool and the gripper. Point i is for tick i: the tool's twist
(`velocities[0]`), the gripper's opening (`transforms[1].translation.x`, 0 closed, 1 open), `time_from_start` i periods.

A status is a `diagnostic_msgs/DiagnosticStatus` and the planner's heartbeat: its `message` is empty while it plans, and
else the reason why it does not.
"""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Transform, Twist
from numpy.typing import NDArray
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from vla_ros.runtime.execution.plans import Plan, PlannerStatus

GRIPPER = "gripper"
_NS = 1_000_000_000


def plan_message(plan: Plan, base_frame: str, tool_frame: str) -> MultiDOFJointTrajectory:
    """Return `plan` as a message."""
    message = MultiDOFJointTrajectory(joint_names=[tool_frame, GRIPPER])
    message.header.stamp = Time(sec=plan.stamp_ns // _NS, nanosec=plan.stamp_ns % _NS)
    message.header.frame_id = base_frame
    message.points = [_point(row, index * plan.period_ns) for index, row in enumerate(plan.actions)]
    return message


def _point(action: NDArray[np.float64], from_start_ns: int) -> MultiDOFJointTrajectoryPoint:
    twist, opening = Twist(), Transform()
    linear, angular = twist.linear, twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, action[:6])
    opening.translation.x = float(action[6])
    point = MultiDOFJointTrajectoryPoint(transforms=[Transform(), opening], velocities=[twist, Twist()])
    point.time_from_start = Duration(sec=from_start_ns // _NS, nanosec=from_start_ns % _NS)
    return point


def read_plan(message: MultiDOFJointTrajectory, base_frame: str) -> Plan:
    """Return the plan in `message`.

    Raises:
        ValueError: It is not a plan as this module's docstring describes it.
    """
    frame = message.header.frame_id.lstrip("/")
    if frame != base_frame.lstrip("/"):
        raise ValueError(f"frame_id must be {base_frame!r}; got {frame!r}")
    if len(message.joint_names) != 2 or message.joint_names[1] != GRIPPER:
        raise ValueError(f"joint_names must be the tool's frame and {GRIPPER!r}; got {list(message.joint_names)}")
    points = message.points
    if len(points) < 2:
        raise ValueError(f"a plan needs 2 points or more, which tell its period; got {len(points)}")
    if any(len(point.velocities) != 2 or len(point.transforms) != 2 for point in points):
        raise ValueError("every point needs two velocities and two transforms: the tool's and the gripper's")
    times_ns = np.array([point.time_from_start.sec * _NS + point.time_from_start.nanosec for point in points])
    period_ns = round(int(times_ns[-1]) / (len(points) - 1))
    if period_ns <= 0 or np.abs(times_ns - np.arange(len(points)) * period_ns).max() > 1_000 * len(points):
        raise ValueError("time_from_start must be 0, 1, 2, ... periods")
    stamp = message.header.stamp
    actions = np.array([_action(point) for point in points], np.float64)
    return Plan(stamp.sec * _NS + stamp.nanosec, period_ns, actions)


def _action(point: MultiDOFJointTrajectoryPoint) -> list[float]:
    linear, angular = point.velocities[0].linear, point.velocities[0].angular
    opening = point.transforms[1].translation.x
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z, opening]


def status_message(status: PlannerStatus, name: str, level: bytes = DiagnosticStatus.OK) -> DiagnosticStatus:
    """Return `status` as a message of the planner called `name`."""
    values = {"session": status.session, "command": status.command, "detail": status.detail}
    message = DiagnosticStatus(level=level, name=name, message=status.reason or "")
    message.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return message


def read_status(message: DiagnosticStatus) -> PlannerStatus:
    """Return the status in `message`; keys that are missing are empty."""
    values = {pair.key: pair.value for pair in message.values}
    return PlannerStatus(
        values.get("session", ""), values.get("command", ""), message.message or None, values.get("detail", "")
    )
