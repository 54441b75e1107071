# SPDX-License-Identifier: Apache-2.0
"""Operator inputs besides the language command: deadman, emergency stop and takeover, passed on to the interlocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from std_msgs.msg import Bool, Float64MultiArray

from vla_ros import topics
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, subscribe_latched
from vla_ros.observations import messages
from vla_ros.robot import Robot
from vla_ros.runtime.safety.interlocks import Interlocks

INPUTS = (topics.EMERGENCY_STOP, topics.ENABLE, topics.TAKEOVER_TWIST, topics.TAKEOVER_GRIPPER)
# With a depth of 1, a button pressed and released at once would never have been pressed.
EMERGENCY_STOP_DEPTH = 50


class OperatorInputs:
    """Subscribes to enable, emergency_stop, takeover_twist and takeover_gripper.

    Args:
        node: to subscribe with.
        interlocks: informed of what arrives, while `turn` is held; their readers must hold it as well.
        robot: base frame of takeover twists, unit of gripper commands.
        on_emergency_stop: called when the emergency stop is pressed.
        turn: see `interlocks`.
    """

    def __init__(
        self,
        node: Node,
        interlocks: Interlocks,
        robot: Robot,
        on_emergency_stop: Callable[[], None],
        turn: threading.RLock,
    ) -> None:
        self._node = node
        self._turn = turn
        self._interlocks = interlocks
        self._robot = robot
        self._on_pressed = on_emergency_stop
        self._marked = False
        self._emergency_stops = subscribe_latched(
            node, Bool, topics.EMERGENCY_STOP, self._on_emergency_stop, depth=EMERGENCY_STOP_DEPTH
        )
        subscribe = node.create_subscription
        self._subscriptions: list[Any] = [
            subscribe(Bool, topics.ENABLE, self._on_enable, COMMAND_QOS),
            subscribe(TwistStamped, topics.TAKEOVER_TWIST, self._on_takeover_twist, COMMAND_QOS),
            subscribe(Float64MultiArray, topics.TAKEOVER_GRIPPER, self._on_takeover_gripper, COMMAND_QOS),
            *self._emergency_stops,
        ]
        self._intervention = node.create_publisher(Bool, topics.INTERVENTION, LATCHED_QOS)
        self._intervention.publish(Bool(data=False))

    def take_emergency_stops(self) -> None:
        """Handle what has arrived on emergency_stop while the caller keeps the executor busy."""
        for subscription in self._emergency_stops:
            with subscription.handle:
                while (taken := subscription.handle.take_message(Bool, False)) is not None:
                    self._on_emergency_stop(taken[0])

    def qos_mismatches(self, *names: str) -> list[str]:
        """Return those topics (default: all operator inputs) with a publisher whose messages cannot arrive."""
        found = []
        for name in names or (*INPUTS, self._robot.language.topic):
            publishers = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(name))
            # All these subscriptions request RELIABLE, and nothing else that a publisher might not offer.
            if any(info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in publishers):
                found.append(name)
        return found

    def unheard_stop(self) -> str | None:
        """Return the reason not to move because somebody's stop would not be received, if there is one.

        A deadman needs none: if it is not received, the arm does not move.
        """
        reasons = {
            topics.EMERGENCY_STOP: "emergency_stop_unheard",
            self._robot.language.topic: "command_unheard",  # a stop word is a command
            topics.TAKEOVER_TWIST: "takeover_unheard",
        }
        return next((reason for topic, reason in reasons.items() if self.qos_mismatches(topic)), None)

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
            self._interlocks.enable(message.data, time.monotonic())

    def _on_emergency_stop(self, message: Bool) -> None:
        with self._turn:
            already = self._interlocks.emergency
            self._interlocks.emergency_stop(message.data)
            if self._interlocks.emergency and not already:  # a button may repeat itself
                self._on_pressed()

    def _on_takeover_twist(self, message: TwistStamped) -> None:
        frame, base_frame = message.header.frame_id.lstrip("/"), self._robot.base_frame
        if frame not in ("", base_frame.lstrip("/")):
            text = f"dropped a message on {topics.TAKEOVER_TWIST}: its frame is {frame!r}, expected {base_frame!r}"
            self._node.get_logger().error(text, throttle_duration_sec=5.0)
            return
        with self._turn:
            self._interlocks.takeover(messages.twist(message), time.monotonic())

    def _on_takeover_gripper(self, message: Float64MultiArray) -> None:
        try:
            opening = messages.commanded_opening(message, self._robot.gripper_command)
        except ValueError as error:
            text = f"dropped a message on {topics.TAKEOVER_GRIPPER}: {error}"
            self._node.get_logger().error(text, throttle_duration_sec=5.0)
            return
        with self._turn:
            self._interlocks.takeover_gripper(opening, time.monotonic())
