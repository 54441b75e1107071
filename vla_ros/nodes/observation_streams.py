# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the streams of an observation, and what is known about them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros import messages
from vla_ros.contract import ObservationSpec
from vla_ros.nodes.image_decoding import raw_decoder
from vla_ros.nodes.message_types import (
    SENSOR_QOS,
    SubscriptionEventCallbacks,
    message_class,
    subscribe_latched,
)
from vla_ros.robot import GripperState, Robot, Stream
from vla_ros.runtime.intake import ObservationIntake
from vla_ros.runtime.stats import StreamRate


class ObservationStreams:
    """Feeds the intake from the robot's topics, while `feeding`.

    Args:
        node: that subscribes, under relative names.
        on_command: called with the language command that is followed from now on; empty means stop.
        on_text: called with every text that arrives on the language topic; it says `follow` or does not.
        period_ns: of the control grid.

    Raises:
        RobotError: the robot's file lacks a stream that the observation needs, or its message type is not installed.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        spec: ObservationSpec,
        intake: ObservationIntake,
        on_command: Callable[[str], None],
        on_text: Callable[[str], None],
        period_ns: int,
    ) -> None:
        self.feeding = False
        self.command = ""
        self.rates = {name: StreamRate() for name in spec.streams if name != "language"}
        self.incompatible_qos: Counter[str] = Counter()
        self._node = node
        self._robot = robot
        self._intake = intake
        self._on_command = on_command
        self._on_text = on_text
        self._heard: str | None = None
        self._needed = spec.streams
        self._cameras = tuple(camera.name for camera in spec.cameras)
        self._decode = raw_decoder(node.get_logger().warning)
        self._command_ns = 0
        self._max_age_ns = round(robot.observation.max_age_s * 1e9) + period_ns
        # Stamp, time of receipt, and value of the newest pose.
        self._pose: tuple[int, int, NDArray] | None = None
        # The governor needs the tool's position whether or not the policy looks at it.
        streams = {name: robot.stream(name) for name in dict.fromkeys((*spec.streams, "ee_pose"))}
        kinds = {name: message_class(stream.type) for name, stream in streams.items()}
        self._subscriptions: list[Any] = []
        for name, stream in streams.items():
            on_message = self._receiver(name, stream)
            if name == "language":
                self._subscriptions += subscribe_latched(node, kinds[name], stream.topic, on_message)
            else:
                events = SubscriptionEventCallbacks(incompatible_qos=functools.partial(self._on_incompatible_qos, name))
                subscription = node.create_subscription(
                    kinds[name], stream.topic, on_message, SENSOR_QOS, event_callbacks=events
                )
                self._subscriptions.append(subscription)

    def start(self) -> None:
        """Feed the intake from now on, beginning with the newest command."""
        self._intake.clear()
        self._forget_stamps()
        self.feeding = True
        self._intake.push("language", self._command_ns, self.command)
        self._on_command(self.command)

    def restart(self) -> None:
        """The clock was set back: stamps from before mean nothing now, the command still holds."""
        self._command_ns = self._now_ns()
        if self.feeding:
            self.start()

    def stop(self) -> None:
        self.feeding = False

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def ee_pose(self, now_ns: int) -> NDArray | None:
        """The tool's pose (7,) in the base frame [m, xyzw], or None: none has come within the robot's `max_age_s`."""
        if self._pose is None:
            return None
        stamp_ns, received_ns, pose = self._pose
        # A clock that is ahead makes nothing fresher than its receipt.
        too_old = now_ns - min(stamp_ns, received_ns) > self._robot.observation.max_age_s * 1e9
        return None if too_old else pose

    def camera_ns(self, time_ns: int) -> int | None:
        """The oldest of the cameras' stamps in the observation of `time_ns`, or None: not known any more."""
        stamps_ns = [self.rates[camera].newest_at(time_ns) for camera in self._cameras]
        return None if None in stamps_ns else min(stamp_ns for stamp_ns in stamps_ns if stamp_ns is not None)

    def stale(self, now_ns: int) -> str | None:
        """The stream that has been silent for longer than the robot's `max_age_s` and a tick of grace, or None.

        The engine looks closer, but not while the model computes.
        """
        for name, rate in self.rates.items():
            if rate.newest_ns is not None and now_ns - rate.newest_ns > self._max_age_ns:
                return name
        return None

    def _on_incompatible_qos(self, stream: str, event: Any) -> None:
        self.incompatible_qos[stream] = event.total_count
        text = f"a publisher offers another QoS than sensor data needs (policy {event.last_policy_kind})"
        self._node.get_logger().warning(f"stream {stream!r}: {text}")

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _forget_stamps(self) -> None:
        self._pose = None
        for rate in self.rates.values():
            rate.clear()

    def _receiver(self, name: str, stream: Stream | GripperState) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            if name == "language":
                self._receive_command(message)
            elif self.feeding:
                now_ns = self._now_ns()
                time_ns = messages.message_time_ns(message, stream, now_ns)
                if self._too_far_ahead(name, time_ns - now_ns):
                    return
                value = self._value(name, message)
                if value is not None:
                    self._receive(name, time_ns, now_ns, value)

        return receive

    def _too_far_ahead(self, name: str, ahead_ns: int) -> bool:
        """Whether a stamp is so far in the future that the message would count as fresh long after it came."""
        if ahead_ns <= self._robot.observation.max_age_s * 1e9:
            return False
        text = f"stamped {ahead_ns / 1e9:.2f} s in the future; synchronise the clocks, or correct stamp and latency_s"
        self._node.get_logger().error(f"stream {name!r}: dropped: {text}", throttle_duration_sec=5.0)
        return True

    def _value(self, name: str, message: Any) -> Any:
        """What the message says, or None: it is not for us, or no such value, as the log says then."""
        try:
            return messages.observation_value(message, self._robot, name, self._decode)
        except (ValueError, IndexError) as error:
            self._node.get_logger().error(f"stream {name!r}: dropped: {error}", throttle_duration_sec=5.0)
            return None

    def _receive(self, name: str, time_ns: int, now_ns: int, value: Any) -> None:
        if name == "ee_pose" and (self._pose is None or time_ns >= self._pose[0]):
            self._pose = (time_ns, now_ns, value)
        if name in self._needed:
            self._intake.push(name, time_ns, value)
            self.rates[name].add(time_ns)

    def follow(self, command: str) -> None:
        """The command of the observations from now on; empty means stop."""
        if command == self.command:
            return
        self.command, self._command_ns = command, self._now_ns()
        if self.feeding:
            self._intake.push("language", self._command_ns, command)
            self._on_command(command)

    def _receive_command(self, message: Any) -> None:
        text = messages.text(message)
        if text != self._heard:  # what is latched arrives twice
            self._heard = text
            self._on_text(text)
