# SPDX-License-Identifier: Apache-2.0
"""Listen to the states and diagnostics of policy and guard."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from vla_ros.nodes.common import startup
from vla_ros.nodes.common.qos import LATCHED_QOS

LEVELS = ("ok", "warn", "error", "stale")


def listen(
    names: Sequence[str],
    on_state: Callable[[str, str, Mapping[str, str]], None],
    on_status: Callable[[str, str, str, Mapping[str, str]], None],
    period_s: float,
    namespace: str = "",
    ros_arguments: Sequence[str] = (),
) -> Iterator[None]:
    """Call back for each message, and yield every `period_s`, until the caller closes this generator.

    Args:
        names: of the nodes, absolute.
        on_state: given a node's name, and message and values of its ~/state.
        on_status: given name, level (ok, warn, error, stale), message and values of a diagnostic status.
        period_s: between two yields.
        namespace: of the listening node, in which relative remapping rules are meant.
        ros_arguments: for rclpy.
    """
    startup.start_ros(["--ros-args", *ros_arguments])
    executor = SingleThreadedExecutor()
    try:
        node = Node("monitor", namespace=namespace)

        def receive_state(name: str, message: DiagnosticStatus) -> None:
            on_state(name, message.message, {pair.key: pair.value for pair in message.values})

        for name in names:
            on_message = functools.partial(receive_state, name)
            node.create_subscription(DiagnosticStatus, f"{name}/state", on_message, LATCHED_QOS)

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
