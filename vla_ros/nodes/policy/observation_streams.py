# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the streams of an observation: feed the observation queue, and keep track of rates and ages."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import rclpy.subscription
from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros.contract import ObservationSpec
from vla_ros.imaging import raw
from vla_ros.nodes.common.qos import (
    SENSOR_QOS,
    STATIC_TRANSFORMS_QOS,
    TRANSFORMS_QOS,
    SubscriptionEventCallbacks,
    message_class,
    subscribe_latched,
)
from vla_ros.nodes.policy.cv_bridge_probe import probe
from vla_ros.nodes.policy.image_decoding import RawDecoder
from vla_ros.observations import messages
from vla_ros.observations.messages import Samples, StreamReader
from vla_ros.observations.observation import ObservationQueue, Undecodable
from vla_ros.robot import Robot
from vla_ros.robot_streams import TRANSFORMS
from vla_ros.runtime.stats import StreamRate

# Transforms come from several publishers; until all have been received, gaps are normal.
TRANSFORMS_GRACE_NS = 1_000_000_000


class ObservationStreams:
    """Feeds the queue from the robot's topics, between `start` and `stop`.

    Messages arrive in the executor's thread. `ee_pose`, `stale` and `camera_ns` are for the control thread, which never
    waits for that.

    Args:
        node: to subscribe with.
        robot: topics, types and age limits.
        spec: what an observation needs.
        observations: receives every stream but the language.
        on_text: called with each new text on the language topic, and whether it was published before this was made.
        period_ns: of the control grid.

    Attributes:
        rates: by stream.
        incompatible_qos: number of publishers whose messages cannot arrive, by stream.
        raw_decoder: of raw images; None if all cameras send compressed ones.

    Raises:
        RobotError: the robot's file lacks a stream that the observation needs, or its message type is not installed.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        spec: ObservationSpec,
        observations: ObservationQueue,
        on_text: Callable[[str, bool], None],
        period_ns: int,
    ) -> None:
        self.rates = {name: StreamRate() for name in spec.streams if name != "language"}
        self.incompatible_qos: Counter[str] = Counter()
        self._feeding = False
        self._node = node
        self._observations = observations
        self._on_text = on_text
        self._created_ns = time.time_ns()
        # The newest text, when it was published, and whether that was before this node's time.
        self._last_text: tuple[str, int, bool] | None = None
        self._cameras = tuple(camera.name for camera in spec.cameras)
        self._max_age_ns = round(robot.observation.max_age_s * 1e9)
        self._period_ns = period_ns
        # The newest pose: stamp, time of receipt, value.
        self._pose: tuple[int, int, NDArray[np.float64]] | None = None
        self._faults: list[str] = []  # of transforms
        self._without_pose_ns: int | None = None  # since when transforms arrive but yield no pose
        self.raw_decoder = _raw_decoder(node, robot, self._cameras)
        decode = self.raw_decoder or raw.decode_raw
        # The governor needs the tool's position even if the policy does not.
        names = dict.fromkeys((*spec.streams, "ee_pose"))
        self._readers = [StreamReader(robot, name, decode) for name in names]
        kinds = {reader.name: message_class(reader.stream.type) for reader in self._readers}
        self._subscriptions: list[Any] = []
        for reader in self._readers:
            self._subscribe(reader, kinds[reader.name])

    def _subscribe(self, reader: StreamReader, kind: Any) -> None:
        node, topic = self._node, reader.stream.topic
        if reader.name == "language":
            # Humble does not tell when a message was published.
            tells_when = hasattr(rclpy.subscription.Subscription, "CallbackType")
            receive = self._receive_text if tells_when else functools.partial(self._receive_text, info={})
            self._subscriptions += subscribe_latched(node, kind, topic, receive)
            return
        qos = TRANSFORMS_QOS if reader.stream.type == TRANSFORMS else SENSOR_QOS
        wanted = [(topic, qos, functools.partial(self.receive, reader))]
        if reader.static_topic is not None:
            receive_static = functools.partial(self._receive_static, reader)
            wanted.append((reader.static_topic, STATIC_TRANSFORMS_QOS, receive_static))
        events = SubscriptionEventCallbacks(incompatible_qos=functools.partial(self._on_incompatible_qos, reader.name))
        for name, qos, on_message in wanted:
            subscription = node.create_subscription(kind, name, on_message, qos, event_callbacks=events)
            self._subscriptions.append(subscription)

    @property
    def undecodable(self) -> Mapping[str, Undecodable]:
        """See `ObservationBuffer`."""
        return self._observations.undecodable

    def start(self) -> None:
        """Forget all stamps (the clock may have been set back), and feed the queue from now on."""
        self._pose = self._without_pose_ns = None
        for reader in self._readers:
            reader.clear()
        for rate in self.rates.values():
            rate.clear()
        self._feeding = True

    def stop(self) -> None:
        self._feeding = False

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def ee_pose(self, now_ns: int) -> NDArray[np.float64] | None:
        """Return the tool's pose (7,) in the base frame [m, xyzw]; None if it is older than the robot's `max_age_s`."""
        newest = self._pose
        if newest is None:
            return None
        stamp_ns, received_ns, pose = newest
        # A sender's clock that is ahead must not make its pose fresher than its receipt.
        return pose if now_ns - min(stamp_ns, received_ns) <= self._max_age_ns else None

    def camera_ns(self, time_ns: int) -> int | None:
        """Return the oldest camera stamp in the observation of `time_ns`; None if already forgotten."""
        stamps_ns = [self.rates[camera].newest_at(time_ns) for camera in self._cameras]
        return None if None in stamps_ns else min(stamp_ns for stamp_ns in stamps_ns if stamp_ns is not None)

    def stale(self, now_ns: int) -> str | None:
        """Return a stream that has been silent for longer than the robot's `max_age_s` and a tick, if there is one.

        The engine checks more closely, but not while the model computes.
        """
        for name, rate in self.rates.items():
            newest_ns = rate.newest_ns
            if newest_ns is not None and now_ns - newest_ns > self._max_age_ns + self._period_ns:
                return name
        return None

    def receive(self, reader: StreamReader, message: Any) -> None:
        """Handle a message of a stream."""
        if not self._feeding:
            return
        now_ns = self._now_ns()
        try:
            samples = reader.read(message, now_ns)
        except (ValueError, IndexError) as error:
            self._error(reader.name, f"message dropped: {error}")
            return
        self._push(reader.name, now_ns, samples)
        if reader.static_topic is not None:
            self._report_transforms(reader, now_ns)

    def _receive_static(self, reader: StreamReader, message: Any) -> None:
        samples = reader.read_static(message)  # also before `start`: latched messages come once
        if self._feeding:
            self._push(reader.name, self._now_ns(), samples)

    def _receive_text(self, message: Any, info: Mapping[str, int]) -> None:
        text, published_ns = messages.text(message), info.get("source_timestamp") or time.time_ns()
        last, is_old = self._last_text, published_ns < self._created_ns
        if last is not None and (published_ns <= last[1] or (text == last[0] and not last[2])):
            return  # latched ones arrive twice, and of two latched ones the later counts
        self._last_text = text, published_ns, is_old
        self._on_text(text, is_old)

    def _push(self, name: str, now_ns: int, samples: Samples) -> None:
        for time_ns, value in samples:
            if time_ns - now_ns > self._max_age_ns:  # would count as fresh long after it came
                ahead_s = (time_ns - now_ns) / 1e9
                self._error(
                    name,
                    f"message dropped: stamped {ahead_s:.2f} s in the future; synchronise the clocks, or correct stamp "
                    "and latency_s in the robot's file",
                )
                continue
            if name == "ee_pose" and (self._pose is None or time_ns >= self._pose[0]):
                self._pose = (time_ns, now_ns, value)
            if name in self.rates:
                self._observations.push(name, time_ns, value)
                self.rates[name].add(time_ns)

    def _report_transforms(self, reader: StreamReader, now_ns: int) -> None:
        """Log what is missing or wrong if transforms arrive but yield no pose."""
        if reader.problem is None:
            self._without_pose_ns = None
        elif self._without_pose_ns is None:
            self._without_pose_ns = now_ns
        elif now_ns - self._without_pose_ns > TRANSFORMS_GRACE_NS:
            self._error(reader.name, reader.problem)
        if (faults := reader.faults) != self._faults:
            self._faults = faults
            text = f"stream {reader.name!r}: {'; '.join(faults)}"
            self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def _on_incompatible_qos(self, stream: str, event: Any) -> None:
        self.incompatible_qos[stream] = event.total_count
        text = f"QoS mismatch (policy {event.last_policy_kind}): a publisher's messages cannot arrive"
        self._node.get_logger().warning(f"stream {stream!r}: {text}")

    def _error(self, stream: str, text: str) -> None:
        self._node.get_logger().error(f"stream {stream!r}: {text}", throttle_duration_sec=5.0)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _raw_decoder(node: Node, robot: Robot, cameras: Sequence[str]) -> RawDecoder | None:
    if all(robot.cameras[camera].type.endswith("CompressedImage") for camera in cameras):
        return None
    verdict, log = probe(), node.get_logger()
    if verdict.broken:
        log.warning(f"raw images: {verdict}")
    elif verdict.use:
        log.info(f"raw images: {verdict}")
    return RawDecoder(verdict, log.warning)
