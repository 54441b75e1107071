# SPDX-License-Identifier: Apache-2.0
"""Where the plan leads, for people who look at the robot in RViz or Foxglove."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseArray
from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros.runtime.execution.predicted_path import predicted_path

NO_PATH = np.zeros((0, 7))


class PlanDisplay:
    """Publishes the poses of the tool along the plan on ~/plan, while somebody looks.

    Args:
        frame: of the poses, the robot's base frame.
        period_s: for which each action of a plan holds.
    """

    def __init__(self, node: Node, frame: str, period_s: float) -> None:
        self._node = node
        self._frame = frame
        self._period_s = period_s
        self._publisher = node.create_publisher(PoseArray, "~/plan", 1)

    def show(self, pose: NDArray[np.float64] | None, plan: NDArray[np.float64] | None) -> None:
        """Show where `plan` (N, 7) leads from `pose` (7,); where one of them is not known, that there is no path."""
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

    def destroy(self) -> None:
        self._node.destroy_publisher(self._publisher)
