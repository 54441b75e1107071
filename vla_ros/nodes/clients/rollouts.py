# SPDX-License-Identifier: Apache-2.0
"""Closed-loop rollouts over ROS: reset the simulated arm, publish a command, and watch the task from outside.

The client is an ordinary node that sees what everybody on the network sees. No part of the policy runs in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Bool, String

from vla_ros import topics
from vla_ros.nodes.clients.services import RemoteNode, RemoteSimulator, ServiceError
from vla_ros.nodes.common.qos import LATCHED_QOS, SENSOR_QOS
from vla_ros.observations import messages

CAMERAS = ("static", "wrist")
POLL_S = 0.02
FRAME_NS = 100_000_000  # between frames of the video
# ~/state is published on every change, and once a second for its figures.
STATE_PERIOD_S = 1.2

Images = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How one episode went: `time_s` from the command to success or to the end; the cameras' JPEGs at 10 Hz."""

    success: bool
    time_s: float
    frames: list[Images]


class RolloutClient:
    """Runs rollouts with a running simulator and policy in `namespace`; a context manager.

    `watch` records the cameras, for a video.
    """

    def __init__(self, namespace: str, *, watch: bool) -> None:
        rclpy.init(args=[])
        self._node = Node("rollouts", namespace=namespace)
        self._simulator, self._policy = RemoteSimulator(self._node), RemoteNode(self._node, "policy")
        self._language = self._node.create_publisher(String, topics.LANGUAGE_COMMAND, LATCHED_QOS)
        self._success: bool | None = None
        self._state: dict[str, Any] = {}
        self._states = 0
        self._images: Images = {}
        self._frames: list[Images] = []
        self._next_frame_ns = 0
        self._node.create_subscription(Bool, topics.TASK_SUCCESS, self._on_success, LATCHED_QOS)
        self._node.create_subscription(String, topics.POLICY_STATE, self._on_state, LATCHED_QOS)
        for camera in CAMERAS if watch else ():
            topic = f"camera/{camera}/image_raw/compressed"
            self._node.create_subscription(CompressedImage, topic, self._keeper(camera), SENSOR_QOS)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="executor", daemon=True)
        self._thread.start()

    def policy_state(self) -> dict[str, Any]:
        """Return the policy's newest ~/state; empty before the first."""
        return self._state

    def final_policy_state(self) -> dict[str, Any]:
        """Return a state published after this call, with the figures of everything until now."""
        seen, deadline = self._states, time.monotonic() + 2 * STATE_PERIOD_S
        while self._states == seen and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return self._state

    def rollout(
        self,
        task: str,
        seed: int,
        command: str,
        time_limit_s: float,
        on_poll: Callable[[Images], None] = lambda _: None,
        check: Callable[[], None] = lambda: None,
    ) -> Rollout:
        """Run one episode of the simulator's `task`, with the language `command`, until `time_limit_s`.

        Args:
            on_poll: called with the newest images during the episode (for a window, say).
            check: called as often; raises to abort.

        Raises:
            ServiceError: simulator or policy does not answer.
        """
        self._say("")
        self._policy.trigger("reset")
        self._success = None
        self._simulator.reset(task, seed)
        self._wait_for_reset()
        self._frames, started_s = [], time.monotonic()
        self._say(command)
        while True:
            time_s = time.monotonic() - started_s
            if self._success or time_s > time_limit_s:
                break
            check()
            on_poll(self._images)
            time.sleep(POLL_S)
        self._say("")
        return Rollout(bool(self._success), time_s, self._frames)

    def _wait_for_reset(self) -> None:
        """Wait until the reset has published that the new task is not done; later messages are about this episode."""
        deadline = time.monotonic() + 5.0
        while self._success is not False:
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{topics.TASK_SUCCESS} did not turn false after a reset; is another simulator running?"
                )
            time.sleep(POLL_S / 4)

    def _say(self, command: str) -> None:
        self._language.publish(String(data=command))

    def _on_success(self, message: Bool) -> None:
        self._success = message.data

    def _on_state(self, message: String) -> None:
        self._state = json.loads(message.data)
        self._states += 1

    def _keeper(self, camera: str) -> Callable[[CompressedImage], None]:
        def keep(message: CompressedImage) -> None:
            self._images = {**self._images, camera: bytes(message.data)}
            stamp_ns = messages.stamp_ns(message)
            if camera == CAMERAS[-1] and len(self._images) == len(CAMERAS) and stamp_ns >= self._next_frame_ns:
                self._next_frame_ns = stamp_ns + FRAME_NS
                self._frames.append(self._images)

        return keep

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def __enter__(self) -> RolloutClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        rclpy.try_shutdown()
        self._thread.join(timeout=5.0)
        self._node.destroy_node()
