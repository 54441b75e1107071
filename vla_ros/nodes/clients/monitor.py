# SPDX-License-Identifier: Apache-2.0
"""Listen to the policy node's state and diagnostics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from vla_ros.nodes.common.qos import LATCHED_QOS

LEVELS = ("ok", "warn", "error", "stale")


def listen(
    name: str,
    on_state: Callable[[dict[str, Any]], None],
    on_status: Callable[[str, str, str, Mapping[str, str]], None],
    period_s: float,
) -> Iterator[None]:
    """Call back for each message, and yield every `period_s`, until the caller closes this generator.

    Args:
        name: of the policy node, absolute or relative.
        on_state: takes the JSON of ~/state as a dict.
        on_status: takes name, level (ok, warn, error, stale), message and values of a diagnostic status.
    """
    rclpy.init(args=[])
    executor = SingleThreadedExecutor()
    try:
        node = Node("monitor")
        node.create_subscription(String, f"{name}/state", lambda text: on_state(json.loads(text.data)), LATCHED_QOS)

        def receive(message: DiagnosticArray) -> None:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                on_status(status.name, LEVELS[status.level[0]], status.message, values)

        node.create_subscription(DiagnosticArray, "/diagnostics", receive, 10)
        executor.add_node(node)
        while True:
            end_s = time.monotonic() + period_s
            while (remaining_s := end_s - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=remaining_s)
            yield
    finally:
        executor.shutdown()
        rclpy.try_shutdown()
