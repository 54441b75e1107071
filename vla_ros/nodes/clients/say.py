# SPDX-License-Identifier: Apache-2.0
"""Publish a language command once, to everybody who listens."""

from __future__ import annotations

import time

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import String

from vla_ros.errors import UserError
from vla_ros.nodes.common.qos import LATCHED_QOS

# Listeners are found one after the other; when none has come for this long, all are there.
SETTLED_S = 0.5
ACKNOWLEDGED_S = 2.0
POLL_S = 0.02


def say(text: str, topic: str, patience_s: float) -> int:
    """Publish `text` on `topic` and wait until it has arrived everywhere; returns how many nodes listened.

    Raises:
        UserError: nobody has subscribed within `patience_s`, or somebody has not acknowledged it.
    """
    rclpy.init(args=[])
    try:
        node = Node("say")
        publisher = node.create_publisher(String, topic, LATCHED_QOS)
        _wait_for_listener(publisher, patience_s)
        # Before all are found: the publisher is latched, whoever is found later gets it then.
        publisher.publish(String(data=text))
        _wait_until_settled(publisher)
        if not publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_S)):
            raise UserError(
                f"not everybody who subscribed to {publisher.topic_name} has acknowledged {text!r} within "
                f"{ACKNOWLEDGED_S:.0f} s; is one of them stopped or hanging? say it again when it runs"
            )
        listeners = node.get_subscriptions_info_by_topic(publisher.topic_name)
        return len({(listener.node_namespace, listener.node_name) for listener in listeners})
    finally:
        rclpy.try_shutdown()


def _wait_for_listener(publisher: Publisher[String], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline:
            raise UserError(
                f"nobody has subscribed to {publisher.topic_name} within {patience_s:.0f} s; is the policy "
                "running, with the same ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE?"
            )
        time.sleep(POLL_S)


def _wait_until_settled(publisher: Publisher[String]) -> None:
    """Until the number of subscriptions has stayed the same for `SETTLED_S`."""
    count, since_s = publisher.get_subscription_count(), time.monotonic()
    while time.monotonic() - since_s < SETTLED_S:
        time.sleep(POLL_S)
        if (now := publisher.get_subscription_count()) != count:
            count, since_s = now, time.monotonic()
