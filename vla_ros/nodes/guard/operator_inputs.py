# SPDX-License-Identifier: Apache-2.0
"""What operators say to the guard besides emergency stops: the deadman, and moving the arm by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Bool, Float64MultiArray

from vla_ros import actions, topics
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, STATE_QOS, second_publisher, unheard
from vla_ros.observations import messages
from vla_ros.robot import Robot
from vla_ros.runtime.safety.operator_signals import Deadman, Takeover

INPUTS = {
    topics.ENABLE: "std_msgs/msg/Bool",
    topics.TAKEOVER_TWIST: "geometry_msgs/msg/TwistStamped",
    topics.TAKEOVER_GRIPPER: "std_msgs/msg/Float64MultiArray",
}
REASONS = {
    topics.ENABLE: "enable_unheard",
    topics.TAKEOVER_TWIST: "takeover_unheard",
    topics.TAKEOVER_GRIPPER: "takeover_unheard",
}


class OperatorInputs:
    """Subscribes to enable, takeover_twist and takeover_gripper.

    Args:
        node: subscribes under its name.
        robot: defines the frame of takeover twists and the unit of gripper commands.
        deadman, takeover: told what arrives.
        pose: returns the tool's pose (7,), None if unknown, with which twists in its frame are rotated.
        turn: held while they are told; their readers must hold it as well.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        deadman: Deadman,
        takeover: Takeover,
        turn: threading.RLock,
        pose: Callable[[], NDArray[np.float64] | None],
    ) -> None:
        self._node = node
        self._robot = robot
        self._deadman = deadman
        self._takeover = takeover
        self._turn = turn
        self._pose = pose
        self._marked = False
        subscribe = node.create_subscription
        self._subscriptions: list[Any] = [
            # Every false counts: none may be overwritten by the next message.
            subscribe(Bool, topics.ENABLE, self._on_enable, STATE_QOS),
            subscribe(TwistStamped, topics.TAKEOVER_TWIST, self._on_takeover_twist, COMMAND_QOS),
            subscribe(Float64MultiArray, topics.TAKEOVER_GRIPPER, self._on_takeover_gripper, COMMAND_QOS),
        ]
        self._intervention = node.create_publisher(Bool, topics.INTERVENTION, LATCHED_QOS)
        self._intervention.publish(Bool(data=False))

    def problems(self) -> dict[str, str]:
        """Return the topics with a publisher whose messages cannot arrive, and why."""
        found = {topic: unheard(self._node, topic, kind)[1] for topic, kind in INPUTS.items()}
        return {topic: problem for topic, problem in found.items() if problem is not None}

    def problem(self) -> tuple[str, str] | None:
        """Return (reason, detail) if a person could not be heard, or another node spoke for the deadman."""
        for topic, problem in self.problems().items():
            if topic != topics.ENABLE or self._deadman.required:
                return REASONS[topic], f"{topic}: {problem}"
        if self._deadman.required:
            return second_publisher(self._node, self._robot, "second_enable_publisher", topics.ENABLE)
        return None

    def mark_intervention(self, taken_over: bool) -> None:
        """Publish where a takeover begins and ends, so that a bag tells a person's actions from the policy's."""
        if taken_over != self._marked:
            self._marked = taken_over
            self._intervention.publish(Bool(data=taken_over))

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._intervention)

    def _on_enable(self, message: Bool) -> None:
        with self._turn:
            self._deadman.hear(message.data, time.monotonic())

    def _on_takeover_twist(self, message: TwistStamped) -> None:
        try:
            twist = self._in_base_frame(message)
        except ValueError as error:
            self._dropped(topics.TAKEOVER_TWIST, str(error))
            return
        stamp_ns = messages.stamp_ns(message)
        age_s = (int(self._node.get_clock().now().nanoseconds) - stamp_ns) / 1e9 if stamp_ns else None
        with self._turn:
            problem = self._takeover.hear(twist, age_s, time.monotonic())
        if problem is not None:
            self._dropped(topics.TAKEOVER_TWIST, problem)

    def _in_base_frame(self, message: TwistStamped) -> NDArray[np.float64]:
        """Return a twist (6,) in the base frame, which one without a frame is in; ValueError if it can't be told."""
        twist = messages.twist(message)
        said = self._robot.takeover_twist.frame or (None if message.header.frame_id else "base")
        if messages.twist_frame(message, self._robot, "takeover_twist", said) == "base" or not twist.any():
            return twist
        pose = self._pose()
        if pose is None:
            raise ValueError("it is in the tool's frame, and ee_pose is not known now")
        return actions.rotate_twist(twist, pose[3:])

    def _on_takeover_gripper(self, message: Float64MultiArray) -> None:
        try:
            opening = messages.commanded_opening(message, self._robot.gripper_command)
        except ValueError as error:
            self._dropped(topics.TAKEOVER_GRIPPER, str(error))
            return
        with self._turn:
            self._takeover.hear_gripper(opening, time.monotonic())

    def _dropped(self, topic: str, problem: str) -> None:
        self._node.get_logger().error(f"dropped a message on {topic}: {problem}", throttle_duration_sec=1.0)
