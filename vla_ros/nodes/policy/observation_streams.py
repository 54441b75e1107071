# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the streams of an observation, and what is known about them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros.contract import ObservationSpec
from vla_ros.nodes.common.qos import (
    SENSOR_QOS,
    STATIC_TRANSFORMS_QOS,
    TRANSFORMS_QOS,
    SubscriptionEventCallbacks,
    message_class,
    subscribe_latched,
)
from vla_ros.nodes.policy.image_decoding import raw_decoder
from vla_ros.observations import messages
from vla_ros.observations.messages import Samples, StreamReader
from vla_ros.robot import TRANSFORMS, Robot
from vla_ros.runtime.planning.sample_queue import ObservationIntake
from vla_ros.runtime.stats import StreamRate

# Transforms come from several publishers; until all have been heard, it is no mistake that some are missing.
TRANSFORMS_GRACE_NS = 1_000_000_000


class ObservationStreams:
    """Feeds the intake from the robot's topics, while `feeding`.

    Messages arrive in the executor's thread. What the control thread asks for (`ee_pose`, `stale`, `camera_ns`) never
    waits for that; the others (`start`, `restart`, `stop`, `follow`) are for one thread at a time.

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
        self._command_ns = 0
        self._max_age_ns = round(robot.observation.max_age_s * 1e9) + period_ns
        # Stamp, time of receipt, and value of the newest pose.
        self._pose: tuple[int, int, NDArray] | None = None
        self._faults: list[str] = []  # of transforms
        self._without_pose_ns: int | None = None  # since when transforms have come that lead to no pose
        decode = raw_decoder(node.get_logger().warning)
        # The governor needs the tool's position whether or not the policy looks at it.
        names = dict.fromkeys((*spec.streams, "ee_pose"))
        self._readers = [StreamReader(robot, name, decode) for name in names]
        kinds = {reader.name: message_class(reader.stream.type) for reader in self._readers}
        self._subscriptions: list[Any] = []
        for reader in self._readers:
            self._subscribe(reader, kinds[reader.name])

    def _subscribe(self, reader: StreamReader, kind: Any) -> None:
        node, topic = self._node, reader.stream.topic
        if reader.name == "language":
            self._subscriptions += subscribe_latched(node, kind, topic, self._receive_command)
            return
        wanted = [(topic, TRANSFORMS_QOS if reader.stream.type == TRANSFORMS else SENSOR_QOS, self._receiver(reader))]
        if reader.static_topic is not None:
            wanted.append((reader.static_topic, STATIC_TRANSFORMS_QOS, self._static_receiver(reader)))
        events = SubscriptionEventCallbacks(incompatible_qos=functools.partial(self._on_incompatible_qos, reader.name))
        for name, qos, on_message in wanted:
            subscription = node.create_subscription(kind, name, on_message, qos, event_callbacks=events)
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
        newest = self._pose
        if newest is None:
            return None
        stamp_ns, received_ns, pose = newest
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
            newest_ns = rate.newest_ns
            if newest_ns is not None and now_ns - newest_ns > self._max_age_ns:
                return name
        return None

    def _on_incompatible_qos(self, stream: str, event: Any) -> None:
        self.incompatible_qos[stream] = event.total_count
        text = f"a publisher offers another QoS than sensor data needs (policy {event.last_policy_kind})"
        self._node.get_logger().warning(f"stream {stream!r}: {text}")

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _forget_stamps(self) -> None:
        self._pose = self._without_pose_ns = None
        for reader in self._readers:
            reader.clear()
        for rate in self.rates.values():
            rate.clear()

    def _receiver(self, reader: StreamReader) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            if not self.feeding:
                return
            now_ns = self._now_ns()
            try:
                samples = reader.read(message, now_ns)
            except (ValueError, IndexError) as error:
                self._node.get_logger().error(f"stream {reader.name!r}: dropped: {error}", throttle_duration_sec=5.0)
                return
            self._receive(reader.name, now_ns, samples)
            if reader.static_topic is not None:
                self._report_transforms(reader, now_ns)

        return receive

    def _static_receiver(self, reader: StreamReader) -> Callable[[Any], None]:
        def receive(message: Any) -> None:  # latched: it comes once, before anything is fed
            samples = reader.read_static(message)
            if self.feeding:
                self._receive(reader.name, self._now_ns(), samples)

        return receive

    def _report_transforms(self, reader: StreamReader, now_ns: int) -> None:
        """Say what is missing or wrong, where transforms arrive and make no pose."""
        log = self._node.get_logger()
        problem = reader.problem
        if problem is None:
            self._without_pose_ns = None
        elif self._without_pose_ns is None:
            self._without_pose_ns = now_ns
        elif now_ns - self._without_pose_ns > TRANSFORMS_GRACE_NS:
            log.error(f"stream {reader.name!r}: {problem}", throttle_duration_sec=5.0)
        if (faults := reader.faults) != self._faults:
            self._faults = faults
            log.warning(f"stream {reader.name!r}: {'; '.join(faults)}", throttle_duration_sec=5.0)

    def _too_far_ahead(self, name: str, ahead_ns: int) -> bool:
        """Whether a stamp is so far in the future that the message would count as fresh long after it came."""
        if ahead_ns <= self._robot.observation.max_age_s * 1e9:
            return False
        text = f"stamped {ahead_ns / 1e9:.2f} s in the future; synchronise the clocks, or correct stamp and latency_s"
        self._node.get_logger().error(f"stream {name!r}: dropped: {text}", throttle_duration_sec=5.0)
        return True

    def _receive(self, name: str, now_ns: int, samples: Samples) -> None:
        for time_ns, value in samples:
            if self._too_far_ahead(name, time_ns - now_ns):
                continue
            if name == "ee_pose" and ((newest := self._pose) is None or time_ns >= newest[0]):
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
