# SPDX-License-Identifier: Apache-2.0
"""Where commands go: the twist's topic, the gripper's topic, and the gripper's action server where it has one."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from vla_ros import actions
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, PublisherEventCallbacks, message_class
from vla_ros.robot import TWIST_STAMPED, GripperAction, GripperCommand

# action_msgs/GoalStatus
SUCCEEDED, CANCELED = 4, 5


class TwistSink:
    """Publishes twists as TwistStamped or Twist.

    Raises:
        RobotError: the message type is not installed.
    """

    def __init__(self, node: Node, topic: str, type_name: str, frame: str) -> None:
        self._node = node
        self._kind = message_class(type_name)
        self._stamped = type_name == TWIST_STAMPED
        self._frame = frame
        # Receivers that have asked for what commands do not offer (latched ones, for instance), and hear nothing.
        self.deaf_receivers = 0
        events = PublisherEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        self._publisher = node.create_publisher(self._kind, topic, COMMAND_QOS, event_callbacks=events)

    def send(self, twist: NDArray[np.float64]) -> None:
        """Publish `twist` (6,) [m/s, rad/s] in the frame given."""
        message = self._kind()
        if self._stamped:
            # The receiver judges a command's age by this stamp, so it is the time of publishing.
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.header.frame_id = self._frame
        body = message.twist if self._stamped else message
        linear, angular = body.linear, body.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, twist)
        self._publisher.publish(message)

    def _on_incompatible_qos(self, event: Any) -> None:
        self.deaf_receivers = event.total_count
        text = f"a subscriber asks for a QoS that commands lack (policy {event.last_policy_kind}), and hears nothing"
        self._node.get_logger().warning(f"{self._publisher.topic_name}: {text}")

    def publishers(self) -> int:
        """How many publish on this topic, this one included."""
        return self._node.count_publishers(self._publisher.topic_name)

    def flush(self, patience_s: float) -> None:
        """Wait until everything has arrived where it goes, but no longer than `patience_s`."""
        self._publisher.wait_for_all_acked(Duration(seconds=patience_s))

    def destroy(self) -> None:
        self._node.destroy_publisher(self._publisher)


class GripperSink:
    """Publishes the gripper's value, and sends it as a goal where there is an action server. It never waits.

    A goal that is refused or fails is reported and not repeated: a gripper that holds something has not failed
    (`stalled`), and for one that has, the arm's motion goes on as the policy sees it.

    Raises:
        RobotError: the action type is not installed.
    """

    def __init__(self, node: Node, gripper: GripperCommand, topic: str, action: GripperAction | None) -> None:
        self._node = node
        self._gripper = gripper
        self._action = action
        self.goals_failed = 0
        # Why the last goal failed; None when it did not.
        self.warning: str | None = None
        # Latched: a gripper driver that starts late may ask for what was wanted last; who subscribes volatile does not.
        self._publisher = node.create_publisher(Float64MultiArray, topic, LATCHED_QOS)
        self._client: Any = None
        if action is not None:
            self._kind = message_class(action.type)
            self._client = ActionClient(node, self._kind, action.name)

    def send(self, opening: float) -> None:
        """Command an `opening` in [0 closed, 1 open]."""
        value = actions.value_from_opening(opening, self._gripper.closed, self._gripper.open)
        self._publisher.publish(Float64MultiArray(data=array.array("d", [value])))
        if self._client is not None:
            self._client.send_goal_async(self._goal(value)).add_done_callback(self._on_answer)

    @property
    def reason(self) -> str | None:
        """gripper_not_ready, where the action server is not there."""
        ready = self._client is None or self._client.server_is_ready()
        return None if ready else "gripper_not_ready"

    def destroy(self) -> None:
        self._node.destroy_publisher(self._publisher)
        if self._client is not None:
            self._client.destroy()

    def _goal(self, value: float) -> Any:
        assert self._action is not None
        goal = self._kind.Goal()
        if self._action.joints:
            goal.command.name = list(self._action.joints)
            goal.command.position = [value] * len(self._action.joints)
            goal.command.effort = [self._action.max_effort] * len(self._action.joints)
        else:
            goal.command.position, goal.command.max_effort = value, self._action.max_effort
        return goal

    def _on_answer(self, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            self._failed("refused the goal")
            return
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future: Any) -> None:
        answer = future.result()
        # Another goal cancels the one before: that is no failure.
        done = answer.status in (SUCCEEDED, CANCELED) or answer.result.stalled or answer.result.reached_goal
        if done:
            self.warning = None
        else:
            self._failed(f"did not reach the goal (status {answer.status})")

    def _failed(self, what: str) -> None:
        assert self._action is not None
        self.goals_failed += 1
        self.warning = f"gripper action {self._action.name!r} {what}"
        self._node.get_logger().error(self.warning, throttle_duration_sec=1.0)
