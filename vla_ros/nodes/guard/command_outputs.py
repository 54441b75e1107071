# SPDX-License-Identifier: Apache-2.0
"""Command outputs: the twist's topic, the gripper's topic and action server, and MoveIt Servo if the robot has it."""

from __future__ import annotations

import array
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.action.client import ActionClient
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from vla_ros import actions
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, PublisherEventCallbacks, message_class
from vla_ros.nodes.guard.servo_link import ServoLink
from vla_ros.robot import Robot
from vla_ros.robot_streams import TWIST_STAMPED, GripperAction, GripperCommand
from vla_ros.runtime.execution.commands import Command

# action_msgs/GoalStatus
SUCCEEDED, CANCELED = 4, 5


class TwistOutput:
    """Publishes twists as TwistStamped or Twist; `incompatible_subscribers` receive nothing because of their QoS.

    Raises:
        RobotError: the message type is not installed.
    """

    def __init__(self, node: Node, topic: str, type_name: str, frame: str) -> None:
        self._node = node
        self._kind = message_class(type_name)
        self._stamped = type_name == TWIST_STAMPED
        self._frame = frame
        self.incompatible_subscribers = 0
        events = PublisherEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        self._publisher = node.create_publisher(self._kind, topic, COMMAND_QOS, event_callbacks=events)

    def send(self, twist: NDArray[np.float64]) -> None:
        """Publish `twist` (6,) [m/s, rad/s] in the given frame."""
        message = self._kind()
        if self._stamped:
            # Receivers judge a command's age by its stamp, so it is the time of publishing.
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.header.frame_id = self._frame
        body = message.twist if self._stamped else message
        linear, angular = body.linear, body.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, twist)
        self._publisher.publish(message)

    def _on_incompatible_qos(self, event: Any) -> None:
        self.incompatible_subscribers = event.total_count
        self._node.get_logger().warning(
            f"{self._publisher.topic_name}: QoS mismatch (policy {event.last_policy_kind}): a subscriber receives no "
            "commands, which are RELIABLE and VOLATILE"
        )

    def publishers(self) -> int:
        """Return how many publish on this topic, this node included."""
        return self._node.count_publishers(self._publisher.topic_name)

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is acknowledged, at most `timeout_s`."""
        self._publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def close(self) -> None:
        self._node.destroy_publisher(self._publisher)


class GripperOutput:
    """Publishes the gripper's value, and sends it as a goal if there is an action server. It never waits.

    A goal that is rejected or fails is reported but not repeated: a gripper that holds an object has not failed
    (`stalled`), and after a failure the arm continues as the policy sees it. `warning` says why the last goal failed.

    Raises:
        RobotError: the action type is not installed.
    """

    def __init__(self, node: Node, gripper: GripperCommand, topic: str, action: GripperAction | None) -> None:
        self._node = node
        self._gripper = gripper
        self._action = action
        self.goals_failed = 0
        self.warning: str | None = None
        # Latched, for a gripper driver that starts late; volatile subscribers receive new commands only.
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
        """gripper_not_ready while the action server is missing."""
        ready = self._client is None or self._client.server_is_ready()
        return None if ready else "gripper_not_ready"

    def close(self) -> None:
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
            self._failed("rejected the goal")
            return
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future: Any) -> None:
        answer = future.result()
        # A newer goal cancels the previous one: that is not a failure.
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


class CommandOutputs:
    """All outputs of one robot. A dry run does not even have publishers on the robot's topics.

    Raises:
        RobotError: a message type is not installed.
    """

    def __init__(self, node: Node, robot: Robot, period_s: float, *, dry_run: bool) -> None:
        twist, demonstrated, gripper = robot.twist_command, robot.demonstrated_twist, robot.gripper_command
        frame = robot.base_frame
        self._servo: ServoLink | None = None
        self._corrections: TwistOutput | None = None
        with ExitStack() as undo:
            keep = undo.enter_context
            if dry_run:
                self.twists = keep(closing(TwistOutput(node, "~/preview", TWIST_STAMPED, frame)))
                self._grippers = keep(closing(GripperOutput(node, gripper, "~/preview_gripper", None)))
            else:
                self.twists = keep(closing(TwistOutput(node, twist.topic, twist.type, frame)))
                self._grippers = undo.enter_context(
                    closing(GripperOutput(node, gripper, gripper.topic, gripper.action))
                )
                if demonstrated.topic != twist.topic:
                    self._corrections = undo.enter_context(
                        closing(TwistOutput(node, demonstrated.topic, demonstrated.type, frame))
                    )
                if robot.servo is not None:
                    self._servo = keep(closing(ServoLink(node, robot.servo, period_s)))
            self._undo = undo.pop_all()

    def start(self) -> None:
        """Prepare whatever executes the commands."""
        if self._servo is not None:
            self._servo.start()

    def send(self, command: Command) -> None:
        """Publish `command`, unless it is silence."""
        if command.twist is not None:
            self.twists.send(command.twist)
        if command.opening is not None:
            self._grippers.send(command.opening)

    def send_correction(self, twist: NDArray[np.float64]) -> None:
        """Publish the twist (6,) of a takeover as a demonstrated one, for training."""
        if self._corrections is not None:
            self._corrections.send(twist)

    @property
    def reason(self) -> str | None:
        """Why commands would not be executed; None if they are."""
        return (None if self._servo is None else self._servo.reason) or self._grippers.reason

    def detail(self, reason: str | None) -> str:
        """Explain a `reason` of these outputs in a sentence; empty for others."""
        return self._servo.detail if self._servo is not None and reason == self._servo.reason else ""

    def problem(self) -> str | None:
        """Return why commands are not executed, or what is wrong although they are; None if nothing is."""
        if self.reason is not None:
            return f"{self.reason}: {self.detail(self.reason)}".rstrip(": ")
        return (None if self._servo is None else self._servo.warning) or self._grippers.warning

    def status(self) -> dict[str, str]:
        """Return figures for diagnostics."""
        servo = {} if self._servo is None else {"servo status": self._servo.status, "servo detail": self._servo.detail}
        return {
            **servo,
            "publishers of the command": str(self.twists.publishers()),
            "subscribers with incompatible QoS": str(self.twists.incompatible_subscribers),
            "gripper goals failed": str(self._grippers.goals_failed),
        }

    def close(self) -> None:
        self._undo.close()
