# SPDX-License-Identifier: Apache-2.0
"""Closed-loop rollouts over ROS: reset the simulated arm, publish a command, and watch the task from outside.

The client is an ordinary node that sees what everybody on the network sees. No part of the policy runs in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Bool, String

from vla_ros import topics
from vla_ros.nodes.clients.services import RemoteNode, RemoteSimulator, ServiceError
from vla_ros.nodes.common import startup
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

    `watch` records the cameras, for a video; `ros_arguments` follow --ros-args.

    Raises:
        UserError: ROS does not know these arguments.
    """

    def __init__(self, namespace: str, *, watch: bool, ros_arguments: Sequence[str] = ()) -> None:
        startup.start_ros(["--ros-args", *ros_arguments])
        self._node = Node("rollouts", namespace=namespace)
        self._simulator, self._policy = RemoteSimulator(self._node), RemoteNode(self._node, "policy")
        self._language = self._node.create_publisher(String, topics.LANGUAGE_COMMAND, LATCHED_QOS)
        self._success: bool | None = None
        # The newest ~/state of guard and policy, and how many have come.
        self._states: dict[str, dict[str, str]] = {topics.GUARD_STATE: {}, topics.POLICY_STATE: {}}
        self._state_counts = Counter[str]()
        self._images: Images = {}
        self._frames: list[Images] = []
        self._next_frame_ns = 0
        self._node.create_subscription(Bool, topics.TASK_SUCCESS, self._on_success, LATCHED_QOS)
        for topic in self._states:
            self._node.create_subscription(
                DiagnosticStatus, topic, functools.partial(self._on_state, topic), LATCHED_QOS
            )
        for camera in CAMERAS if watch else ():
            topic = f"camera/{camera}/image_raw/compressed"
            self._node.create_subscription(CompressedImage, topic, self._keeper(camera), SENSOR_QOS)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="executor", daemon=True)
        self._thread.start()

    def guard_state(self) -> dict[str, str]:
        """Return the guard's newest ~/state; empty before the first."""
        return self._states[topics.GUARD_STATE]

    def policy_state(self) -> dict[str, str]:
        """Return the policy's newest ~/state; empty before the first."""
        return self._states[topics.POLICY_STATE]

    def wait_for_final_states(self) -> None:
        """Wait for states published after this call, with the figures of everything until now."""
        seen, deadline = Counter(self._state_counts), time.monotonic() + 2 * STATE_PERIOD_S
        while any(self._state_counts[topic] == seen[topic] for topic in self._states) and time.monotonic() < deadline:
            time.sleep(POLL_S)

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

    def _on_state(self, topic: str, message: DiagnosticStatus) -> None:
        self._states[topic] = {pair.key: pair.value for pair in message.values}
        self._state_counts[topic] += 1

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
