# SPDX-License-Identifier: Apache-2.0
"""Publish a language command once, to everybody who listens."""

from __future__ import annotations

import time

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String

from vla_ros.errors import UserError
from vla_ros.nodes.message_types import LATCHED_QOS


def say(text: str, topic: str, patience_s: float) -> int:
    """Publish `text` on `topic` and wait until it has arrived; returns how many listened.

    Raises:
        UserError: nobody has subscribed within `patience_s`.
    """
    rclpy.init(args=[])
    try:
        node = Node("say")
        publisher = node.create_publisher(String, topic, LATCHED_QOS)
        deadline = time.monotonic() + patience_s
        while not publisher.get_subscription_count():
            if time.monotonic() > deadline:
                raise UserError(
                    f"nobody has subscribed to {publisher.topic_name} within {patience_s:.0f} s; is the policy "
                    "running, with the same ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE?"
                )
            time.sleep(0.02)
        publisher.publish(String(data=text))
        publisher.wait_for_all_acked(Duration(seconds=2))
        return publisher.get_subscription_count()
    finally:
        rclpy.try_shutdown()
