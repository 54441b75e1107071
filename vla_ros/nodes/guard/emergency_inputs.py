# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the emergency stops of the robot's file, from the first moment of the process to its last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from std_msgs.msg import Bool

from vla_ros.nodes.common.clock import steady_clock
from vla_ros.nodes.common.qos import subscribe_latched, unheard
from vla_ros.robot import EmergencyStop
from vla_ros.runtime.safety.operator_signals import EmergencyStops

# With the newest message only, a button that is pressed and released at once was never pressed.
DEPTH = 50
GRAPH_PERIOD_S = 0.1
TYPE = "std_msgs/msg/Bool"


class EmergencyInputs:
    """Tells `stops` what each button says and what the ROS graph shows of it.

    Args:
        on_stop: Called in the callback of a new stop, while `turn` is held.
        turn: Held whenever `stops` is told something; whoever asks it holds it, too.
    """

    def __init__(
        self, node: Node, buttons: Sequence[EmergencyStop], on_stop: Callable[[], None], turn: threading.RLock
    ) -> None:
        self.stops = EmergencyStops({button.topic: button.heartbeat_s for button in buttons})
        self._node = node
        self._on_stop = on_stop
        self._turn = turn
        self._subscriptions: dict[str, list[Any]] = {
            button.topic: subscribe_latched(node, Bool, button.topic, self._receiver(button.topic), depth=DEPTH)
            for button in buttons
        }
        self._timer = node.create_timer(GRAPH_PERIOD_S, self.look, clock=steady_clock())

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are heard."""
        return tuple(self._subscriptions)

    def _receiver(self, topic: str) -> Callable[[Bool], None]:
        def receive(message: Bool) -> None:
            with self._turn:
                if self.stops.hear(topic, message.data, time.monotonic()):
                    self._on_stop()

        return receive

    def take(self) -> None:
        """Handle what has arrived while the caller keeps the executor busy."""
        for topic, subscriptions in self._subscriptions.items():
            receive = self._receiver(topic)
            for subscription in subscriptions:
                with subscription.handle:
                    while (taken := subscription.handle.take_message(Bool, False)) is not None:
                        receive(taken[0])

    def look(self) -> None:
        """Look at the publishers of every button."""
        for topic in self._subscriptions:
            publishers, problem = unheard(self._node, topic, TYPE)
            with self._turn:
                if self.stops.look(topic, publishers, problem, time.monotonic()):
                    self._on_stop()

    def destroy(self) -> None:
        """Unsubscribe; only when the process ends."""
        self._node.destroy_timer(self._timer)
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                self._node.destroy_subscription(subscription)
