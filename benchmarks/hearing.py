# SPDX-License-Identifier: Apache-2.0
"""Hear a topic and arm the guard beside a `RolloutClient`, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from vla_ros import topics

TIMEOUT_S = 20.0


@contextlib.contextmanager
def hearing(kind: Any, topic: str, on_message: Callable[[Any], None]) -> Iterator[Any]:
    """Call `on_message` with each message of `topic`; yield the node. Enter it within the client's `with`."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    node, executor = rclpy.create_node("benchmark"), SingleThreadedExecutor()
    node.create_subscription(kind, topic, on_message, 100)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join(5.0)
        node.destroy_node()


def call(node: Any, kind: Any, service: str, request: Any) -> Any:
    """Call a service and return its answer."""
    answered = threading.Event()
    client = node.create_client(kind, service)
    client.wait_for_service(TIMEOUT_S)
    future = client.call_async(request)
    future.add_done_callback(lambda _: answered.set())
    if not answered.wait(TIMEOUT_S):
        raise TimeoutError(f"no answer to {service} within {TIMEOUT_S:g} s")
    node.destroy_client(client)
    return future.result()


def arm(node: Any) -> None:
    """Arm the guard after a stop that disarmed it."""
    from std_srvs.srv import SetBool

    call(node, SetBool, topics.GUARD_ARM, SetBool.Request(data=True))
