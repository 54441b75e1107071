# SPDX-License-Identifier: Apache-2.0
"""Message classes by name, and the QoS that each kind of topic has."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vla_ros.bringup import STATIC_TRANSFORMS_DEPTH
from vla_ros.robot import RobotError

try:
    from rclpy.event_handler import PublisherEventCallbacks as PublisherEventCallbacks
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks as PublisherEventCallbacks
    from rclpy.qos_event import SubscriptionEventCallbacks

# Pictures: the newest counts, a lost one is not repaired (as qos_profile_sensor_data, with depth 1).
SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Commands: each one counts, a stale one does not.
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
STATE_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# As tf2's listeners ask for them (geometry2, tf2_ros/qos.hpp): /tf, and /tf_static, which each publisher latches.
TRANSFORMS_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
STATIC_TRANSFORMS_QOS = QoSProfile(
    depth=STATIC_TRANSFORMS_DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# What a late joiner needs to know: the language command, a node's state.
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_NAME = re.compile(r"([a-z][a-z0-9_]*)/(msg|srv|action)/([A-Z][A-Za-z0-9]*)")


def message_class(name: str) -> Any:
    """The class called `package/msg/Type`, or the service or action of that form (`srv`, `action`).

    Raises:
        RobotError: the name has another form, or nothing of that name is installed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise RobotError(f"message type {name!r} has another form than package/msg/Type; correct the robot's file")
    try:
        return getattr(importlib.import_module(f"{match[1]}.{match[2]}"), match[3])
    except (ImportError, AttributeError):
        package = f"the ROS package {match[1]!r} (ros-$ROS_DISTRO-{match[1].replace('_', '-')} on Debian and Ubuntu)"
        raise RobotError(f"message type {name!r} is not installed; install {package}") from None


def subscribe_latched(
    node: Node, kind: Any, topic: str, on_message: Callable[[Any], None], *, raw: bool = False, depth: int = 1
) -> list[Any]:
    """Subscribe to what is latched by most publishers and not by all: `ros2 topic pub` does not match LATCHED_QOS.

    What is latched arrives twice, so `on_message` passes over what it knows. `depth`: messages kept until it is called;
    with 1, the newest. Returns both subscriptions.
    """
    silent = SubscriptionEventCallbacks(use_default_callbacks=False)  # no warning that one of the two does not match
    return [
        node.create_subscription(
            kind, topic, on_message,
            QoSProfile(depth=depth, reliability=qos.reliability, durability=qos.durability),
            event_callbacks=silent, raw=raw,
        )
        for qos in (LATCHED_QOS, COMMAND_QOS)
    ]  # fmt: skip
