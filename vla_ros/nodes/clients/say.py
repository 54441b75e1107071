# SPDX-License-Identifier: Apache-2.0
"""Publish a language command once, to all subscribers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import String

from vla_ros.errors import UserError
from vla_ros.nodes.common import startup
from vla_ros.nodes.common.qos import LATCHED_QOS

# Subscribers are discovered one by one; if none has appeared for this long, all are there.
SETTLED_S = 0.5
ACKNOWLEDGED_S = 2.0
POLL_S = 0.02


def say(text: str, topic: str, timeout_s: float, namespace: str = "", ros_arguments: Sequence[str] = ()) -> int:
    """Publish `text` on `topic`, wait until all subscribers have acknowledged it, and return how many nodes they are.

    UserError if there are none within `timeout_s`, or one does not acknowledge it.
    """
    startup.start_ros(["--ros-args", *ros_arguments])
    try:
        node = Node("say", namespace=namespace)
        publisher = node.create_publisher(String, topic, LATCHED_QOS)
        _wait_for_subscriber(publisher, timeout_s)
        # The publisher is latched, so subscribers discovered later receive it as well.
        publisher.publish(String(data=text))
        _wait_until_settled(publisher)
        if not publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_S)):
            raise UserError(
                f"a subscriber of {publisher.topic_name} did not acknowledge {text!r} within {ACKNOWLEDGED_S:.0f} s; "
                "check whether one of them hangs or is stopped, then try again"
            )
        subscriptions = node.get_subscriptions_info_by_topic(publisher.topic_name)
        return len({(info.node_namespace, info.node_name) for info in subscriptions})
    finally:
        rclpy.try_shutdown()


def _wait_for_subscriber(publisher: Publisher[String], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline:
            raise UserError(
                f"no subscribers on {publisher.topic_name} within {timeout_s:.0f} s; check that the policy node is "
                "running with the same ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE"
            )
        time.sleep(POLL_S)


def _wait_until_settled(publisher: Publisher[String]) -> None:
    """Wait until the number of subscriptions has not changed for `SETTLED_S`."""
    count, since_s = publisher.get_subscription_count(), time.monotonic()
    while time.monotonic() - since_s < SETTLED_S:
        time.sleep(POLL_S)
        if (now := publisher.get_subscription_count()) != count:
            count, since_s = now, time.monotonic()
