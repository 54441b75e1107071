# SPDX-License-Identifier: Apache-2.0
"""The tool's pose for the guard: from a pose topic or from /tf, as the robot's file says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros.nodes.common.qos import SENSOR_QOS, STATIC_TRANSFORMS_QOS, TRANSFORMS_QOS, message_class, second_publisher
from vla_ros.observations.messages import Samples, StreamReader
from vla_ros.robot import Robot
from vla_ros.robot_streams import TRANSFORMS

Array = NDArray[np.float64]


class PoseInput:
    """Subscribes to the pose and keeps the newest one.

    Args:
        on_pose: Called with each new pose (7,) [m, quaternion xyzw] in the base frame.

    Raises:
        RobotError: The robot's file has no ee_pose, or its message type is not installed.
    """

    def __init__(self, node: Node, robot: Robot, on_pose: Callable[[Array], None]) -> None:
        self._node = node
        self._robot = robot
        self._on_pose = on_pose
        self._max_age_ns = round(robot.observation.max_age_s * 1e9)
        self._newest: tuple[int, Array] | None = None
        self._reader = StreamReader(robot, "ee_pose")
        kind, stream = message_class(self._reader.stream.type), self._reader.stream
        qos = TRANSFORMS_QOS if stream.type == TRANSFORMS else SENSOR_QOS
        self._subscriptions: list[Any] = [node.create_subscription(kind, stream.topic, self._receive, qos)]
        if (static := self._reader.static_topic) is not None:
            self._subscriptions.append(
                node.create_subscription(kind, static, self._receive_static, STATIC_TRANSFORMS_QOS)
            )

    def newest(self, now_ns: int) -> Array | None:
        """Return the newest pose (7,), or None if it is older than the robot's `max_age_s`."""
        newest = self._newest
        return None if newest is None or now_ns - newest[0] > self._max_age_ns else newest[1]

    def problem(self) -> tuple[str, str] | None:
        """Return (reason, detail) if several nodes publish the pose; transforms come from many."""
        stream = self._reader.stream
        names = () if stream.type == TRANSFORMS else (stream.topic,)
        return second_publisher(self._node, self._robot, "second_pose_publisher", *names)

    def forget(self) -> None:
        """Forget the newest pose: the clock was set back."""
        self._newest = None
        self._reader.clear()

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _receive(self, message: Any) -> None:
        now_ns = self._now_ns()
        try:
            self._take(self._reader.read(message, now_ns), now_ns)
        except (ValueError, IndexError) as error:
            self._node.get_logger().error(f"dropped a pose: {error}", throttle_duration_sec=5.0)

    def _receive_static(self, message: Any) -> None:
        self._take(self._reader.read_static(message), self._now_ns())

    def _take(self, samples: Samples, now_ns: int) -> None:
        for time_ns, pose in samples:
            if time_ns - now_ns > self._max_age_ns:
                text = f"dropped a pose stamped {(time_ns - now_ns) / 1e9:.2f} s in the future: synchronise the clocks"
                self._node.get_logger().error(text, throttle_duration_sec=5.0)
            elif self._newest is None or time_ns >= self._newest[0]:
                self._newest = min(time_ns, now_ns), pose
                self._on_pose(pose)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
