# SPDX-License-Identifier: Apache-2.0
"""From the messages of an observation's stream to its samples: one piece of code for the live node and for bags.

Most messages are one sample, some are none; of transforms (/tf) it takes several to know where the tool was.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.geometry.rigid import Pose
from vla_ros.geometry.transforms import TransformTree
from vla_ros.observations import messages
from vla_ros.observations.messages import Decoder, LazyImage, decode_raw
from vla_ros.robot import PoseStream, Robot

Samples = list[tuple[int, Any]]  # time of the event in ns, value


class StreamReader:
    """Reads the messages of the stream that the robot's file calls `name`, in the order in which they were received.

    stream: its topic, type and stamp. static_topic: a second topic, whose messages are for `read_static`, or None.

    Raises:
        RobotError: the robot's file has no such stream.
    """

    def __init__(self, robot: Robot, name: str, decode_image: Decoder = decode_raw) -> None:
        self.name, self.stream = name, robot.stream(name)
        self.static_topic: str | None = None
        self._robot = robot
        self._decode = decode_image
        self._tree: TransformTree | None = None
        if isinstance(self.stream, PoseStream) and self.stream.ee_frame is not None:
            self.static_topic = self.stream.static_topic
            self._tree = TransformTree(robot.base_frame, self.stream.ee_frame)

    def read(self, message: Any, receive_ns: int) -> Samples:
        """Return what is known from this message on: values as `messages.observation_value` gives them.

        Raises:
            ValueError, IndexError: the message is not what the robot's file says.
        """
        if self._tree is not None:
            return self._poses(self._tree.add(messages.transforms(message, self._tree.wants)))
        value = messages.observation_value(message, self._robot, self.name, self._decode)
        return [] if value is None else [(messages.message_time_ns(message, self.stream, receive_ns), value)]

    def picture(self, like: Any, data: Any) -> LazyImage:
        """Return the value of a camera's message that differs from the message `like` in its stamp and `data` only."""
        return messages.picture(like, data, self._robot, self.name, self._decode)

    def read_static(self, message: Any) -> Samples:
        """Take a message of `static_topic`; poses that waited for it are known from now on."""
        assert self._tree is not None
        return self._poses(self._tree.add(messages.transforms(message, lambda _: True), static=True))

    def prime(self, message: Any) -> None:
        """Take a message of `static_topic` that was latched before the first other message; the first one counts."""
        assert self._tree is not None
        self._tree.prime(messages.transforms(message, lambda _: True))

    def clear(self) -> None:
        """Forget what was received before the clock was set back, or before now; what is static still holds."""
        if self._tree is not None:
            self._tree.clear()

    @property
    def problem(self) -> str | None:
        """Why messages that arrive say nothing, in words; None where they do."""
        return None if self._tree is None else self._tree.problem

    @property
    def faults(self) -> list[str]:
        """What was wrong with some of the messages, with counts."""
        counts = self._tree.faults.items() if self._tree is not None else ()
        return [f"{what} ({count} times)" for what, count in sorted(counts)]

    def _poses(self, found: list[tuple[int, Pose]]) -> Samples:
        latency_ns = round(self.stream.latency_s * 1e9)
        return [(stamp_ns - latency_ns, np.array(pose)) for stamp_ns, pose in found]
