# SPDX-License-Identifier: Apache-2.0
"""The predicted path, for RViz and Foxglove."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseArray
from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros.runtime.execution.timeline import predicted_path

NO_PATH = np.zeros((0, 7))


class PlanDisplay:
    """Publishes the tool's predicted poses, in the base frame, on ~/plan while there are subscribers."""

    def __init__(self, node: Node, frame: str, period_s: float) -> None:
        self._node = node
        self._frame = frame
        self._period_s = period_s
        self._publisher = node.create_publisher(PoseArray, "~/plan", 1)

    def show(self, pose: NDArray[np.float64] | None, plan: NDArray[np.float64] | None) -> None:
        """Publish where `plan` (N, 7) leads from `pose` (7,); an empty path if one of them is unknown."""
        if self._publisher.get_subscription_count() == 0:
            return
        if pose is None or plan is None or not np.isfinite(pose).all() or not pose[3:].any():
            self._publish(NO_PATH)
        else:
            self._publish(predicted_path(pose, plan, self._period_s))

    def _publish(self, path: NDArray[np.float64]) -> None:
        message = PoseArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = self._frame
        for x, y, z, *quaternion in path.tolist():
            pose = Pose(position=Point(x=x, y=y, z=z))
            orientation = pose.orientation
            orientation.x, orientation.y, orientation.z, orientation.w = quaternion
            message.poses.append(pose)
        self._publisher.publish(message)

    def close(self) -> None:
        self._node.destroy_publisher(self._publisher)
