# SPDX-License-Identifier: Apache-2.0
"""What people tell the policy node beside the language command: deadman, emergency stop, taking over by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from std_msgs.msg import Bool, Float64MultiArray

from vla_ros import topics
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, subscribe_latched
from vla_ros.observations import messages
from vla_ros.robot import Robot
from vla_ros.runtime.execution.control import ByHand
from vla_ros.runtime.safety.interlocks import TAKEOVER_MAX_AGE_S, Interlocks

INPUTS = (topics.EMERGENCY_STOP, topics.ENABLE, topics.TAKEOVER_TWIST, topics.TAKEOVER_GRIPPER)
# With the newest message only, a button that is pressed and let go at once was never pressed.
EMERGENCY_STOP_DEPTH = 50


class OperatorInputs:
    """Subscribes to enable, emergency_stop, takeover_twist and takeover_gripper, and tells the interlocks.

    Args:
        robot: whose base frame a takeover's twists are in, and whose unit its gripper command.
        on_emergency_stop: called when the emergency stop is pressed.
        turn: held while the interlocks are told; whoever asks them (`by_hand` included) holds it, too.
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
        self._base_frame = robot.base_frame
        self._language = robot.language.topic
        self._gripper = robot.gripper_command
        self._on_pressed = on_emergency_stop
        self._twist = np.zeros(6)
        self._opening: float | None = None
        self._opening_s = 0.0
        self._marked = False
        self._emergency_stops = subscribe_latched(
            node, Bool, topics.EMERGENCY_STOP, self._on_emergency_stop, depth=EMERGENCY_STOP_DEPTH
        )
        self._subscriptions: list[Any] = [
            node.create_subscription(Bool, topics.ENABLE, self._on_enable, COMMAND_QOS),
            node.create_subscription(TwistStamped, topics.TAKEOVER_TWIST, self._on_takeover, COMMAND_QOS),
            node.create_subscription(
                Float64MultiArray, topics.TAKEOVER_GRIPPER, self._on_takeover_gripper, COMMAND_QOS
            ),
            *self._emergency_stops,
        ]
        self._intervention = node.create_publisher(Bool, topics.INTERVENTION, LATCHED_QOS)
        self._intervention.publish(Bool(data=False))

    def by_hand(self) -> ByHand | None:
        """What somebody who has taken over commands now, or None; an opening is returned once."""
        now_s, opening, self._opening = time.monotonic(), self._opening, None
        if now_s - self._opening_s > TAKEOVER_MAX_AGE_S:
            opening = None  # from before the node was active
        return ByHand(self._twist, opening) if self._interlocks.taken_over(now_s) else None

    def hear_emergency_stop(self) -> None:
        """Take what has arrived on emergency_stop, while the caller keeps the executor from doing so."""
        for subscription in self._emergency_stops:
            with subscription.handle:
                while (taken := subscription.handle.take_message(Bool, False)) is not None:
                    self._on_emergency_stop(taken[0])

    def unheard(self, *names: str) -> list[str]:
        """Those topics (default: all that people speak on) with a publisher whose QoS lets nothing arrive."""
        found = []
        for name in names or (*INPUTS, self._language):
            publishers = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(name))
            # All of them ask for reliability, and for nothing else that a publisher may not offer.
            if any(info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in publishers):
                found.append(name)
        return found

    def unheard_stop(self) -> str | None:
        """The reason not to move because a stop that somebody means to give would not be heard, or None.

        A deadman that is not heard says nothing, which stops the arm where it is required.
        """
        reasons = {
            topics.EMERGENCY_STOP: "emergency_stop_unheard",
            self._language: "command_unheard",  # a stop word is a command
            topics.TAKEOVER_TWIST: "takeover_unheard",
        }
        return next((reason for topic, reason in reasons.items() if self.unheard(topic)), None)

    def mark(self, taken_over: bool) -> None:
        """Publish where corrections begin and end, so that a bag tells a person's actions from the policy's."""
        if taken_over != self._marked:
            self._marked = taken_over
            self._intervention.publish(Bool(data=taken_over))

    def destroy(self) -> None:
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

    def _on_takeover(self, message: TwistStamped) -> None:
        frame = message.header.frame_id.lstrip("/")
        if frame not in ("", self._base_frame.lstrip("/")):
            text = f"takeover_twist is in the frame {frame!r}, expected {self._base_frame!r}: dropped"
            self._node.get_logger().error(text, throttle_duration_sec=5.0)
            return
        with self._turn:
            self._twist = messages.twist(message)
            self._interlocks.takeover(time.monotonic())

    def _on_takeover_gripper(self, message: Float64MultiArray) -> None:
        try:
            opening = messages.commanded_opening(message, self._gripper)
        except ValueError as error:
            self._node.get_logger().error(f"takeover_gripper {error}: dropped", throttle_duration_sec=5.0)
            return
        with self._turn:
            self._opening, self._opening_s = opening, time.monotonic()
