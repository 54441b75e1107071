# SPDX-License-Identifier: Apache-2.0
"""Message classes by name, and the QoS of each kind of topic."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vla_ros.bringup import STATIC_TRANSFORMS_DEPTH
from vla_ros.errors import RobotError
from vla_ros.robot import Robot

try:
    from rclpy.event_handler import PublisherEventCallbacks as PublisherEventCallbacks
    from rclpy.event_handler import SubscriptionEventCallbacks as SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks as PublisherEventCallbacks
    from rclpy.qos_event import SubscriptionEventCallbacks as SubscriptionEventCallbacks

# Images: only the newest counts, lost ones are not resent (as qos_profile_sensor_data, with depth 1).
SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Commands: each one counts, but not a stale one.
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
STATE_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# As tf2's listeners request them (geometry2, tf2_ros/qos.hpp): /tf, and /tf_static, which each publisher latches.
TRANSFORMS_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
STATIC_TRANSFORMS_QOS = QoSProfile(
    depth=STATIC_TRANSFORMS_DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# For late joiners: the language command, a node's state.
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_NAME = re.compile(r"([a-z][a-z0-9_]*)/(msg|srv|action)/([A-Z][A-Za-z0-9]*)")


def message_class(name: str) -> Any:
    """Import the class called `package/msg/Type`, or a service (`srv`) or action (`action`).

    Raises:
        RobotError: malformed name, or not installed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise RobotError(f"message type must have the form package/msg/Type; got {name!r}; correct the robot's file")
    try:
        return getattr(importlib.import_module(f"{match[1]}.{match[2]}"), match[3])
    except (ImportError, AttributeError):
        package = f"the ROS package {match[1]!r} (ros-$ROS_DISTRO-{match[1].replace('_', '-')} on Debian and Ubuntu)"
        raise RobotError(f"message type {name!r} is not installed; install {package}") from None


def unheard(node: Node, topic: str, type_name: str) -> tuple[int, str | None]:
    """Look for publishers of a topic whose messages cannot arrive: DDS itself says nothing of another type.

    Args:
        node: resolves the topic's name.
        topic: its name.
        type_name: of its messages, as `package/msg/Type`.

    Returns:
        How many publish, and what is wrong with one of them; None if all can be heard.
    """
    publishers = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    for info in publishers:
        if info.topic_type != type_name:
            return len(publishers), f"{info.node_name} publishes {info.topic_type}, expected {type_name}"
        if info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT:
            return len(publishers), f"QoS mismatch: the publisher {info.node_name} must be RELIABLE"
    return len(publishers), None


def second_publisher(node: Node, robot: Robot, reason: str, *names: str) -> tuple[str, str] | None:
    """Return (reason, detail) if several nodes publish one of `names`, unless the robot's file ignores the reason."""
    for topic in names if reason not in robot.unchecked else ():
        if (count := node.count_publishers(node.resolve_topic_name(topic))) > 1:
            return reason, f"{count} nodes publish {topic}: stop the others; one that was killed counts for 5 s more"
    return None


def subscribe_latched(
    node: Node, kind: Any, topic: str, on_message: Callable[..., None], *, raw: bool = False, depth: int = 1
) -> list[Any]:
    """Subscribe to a topic that most publishers latch, but not all: `ros2 topic pub` does not match LATCHED_QOS.

    Latched messages arrive twice, so `on_message` must skip what it knows. Up to `depth` messages wait for it. Returns
    both subscriptions.
    """
    silent = SubscriptionEventCallbacks(use_default_callbacks=False)  # one of the two may not match, which is fine
    return [
        node.create_subscription(
            kind,
            topic,
            on_message,
            QoSProfile(depth=depth, reliability=qos.reliability, durability=qos.durability),
            event_callbacks=silent,
            raw=raw,
        )
        for qos in (LATCHED_QOS, COMMAND_QOS)
    ]
