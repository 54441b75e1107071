# SPDX-License-Identifier: Apache-2.0
"""The topics that the recorder writes, with what it has received on each."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from vla_ros import topics
from vla_ros.datasets.bags.episodes.markers import INTERVENTION_TYPE
from vla_ros.nodes.common.qos import LATCHED_QOS, STATIC_TRANSFORMS_QOS, TRANSFORMS_QOS, message_class
from vla_ros.robot import Robot
from vla_ros.robot_streams import TRANSFORMS

# Deep enough for pauses of the writer (full disk cache); best effort matches whatever a camera offers.
CAMERA_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
CDR_HEADER_BYTES = 4


@dataclasses.dataclass
class RecordedTopic:
    """A topic to record, and what it has received."""

    topic: str
    type: str
    qos: QoSProfile
    required: bool = False  # no episode starts while it is silent
    # Its last message opens every episode, since it may have been published long before; of static transforms, the last
    # one for each set of frames.
    repeated: bool = False
    stamped: bool = False  # lockstep goes by its header stamps
    kept: dict[tuple[str, ...], bytes] = dataclasses.field(default_factory=dict)  # what opens every episode
    stamp_ns: int = 0  # the newest in the running episode
    heard_s: float | None = None  # time of the last message, on the steady clock
    count: int = 0  # messages in the running episode

    @property
    def last(self) -> bytes | None:
        """The last message of a `repeated` topic."""
        return next(reversed(self.kept.values()), None)

    def keep(self, data: bytes) -> None:
        """Keep a message to open future episodes with."""
        frames: tuple[str, ...] = ()
        if self.type == TRANSFORMS:
            message = deserialize_message(data, message_class(TRANSFORMS))
            frames = tuple(sorted(one.child_frame_id for one in message.transforms))
        self.kept.pop(frames, None)  # the newest goes last
        self.kept[frames] = data


def robot_topics(robot: Robot, resolve: Callable[[str], str]) -> list[RecordedTopic]:
    """Return the topics to record by full name, each once: demonstrated and commanded twists may share one."""
    sensors = [
        RecordedTopic(
            resolve(sensor.topic),
            sensor.type,
            TRANSFORMS_QOS if sensor.type == TRANSFORMS else CAMERA_QOS,
            required=True,
            stamped=sensor.stamp == "header" and sensor.type != TRANSFORMS,  # transforms have a stamp each
        )
        for sensor in (*robot.cameras.values(), robot.ee_pose, robot.gripper_state)
        if sensor is not None
    ]
    if robot.ee_pose is not None and robot.ee_pose.static_topic is not None:
        static = resolve(robot.ee_pose.static_topic)
        sensors.append(RecordedTopic(static, TRANSFORMS, STATIC_TRANSFORMS_QOS, repeated=True))
    command, demonstrated, gripper = robot.twist_command, robot.demonstrated_twist, robot.gripper_command
    recorded = [
        *sensors,
        RecordedTopic(resolve(robot.language.topic), robot.language.type, LATCHED_QOS, repeated=True),
        RecordedTopic(resolve(gripper.topic), gripper.type, RELIABLE_QOS, repeated=True),
        RecordedTopic(resolve(demonstrated.topic), demonstrated.type, RELIABLE_QOS),
        RecordedTopic(resolve(command.topic), command.type, RELIABLE_QOS, stamped=command.stamp == "header"),
        RecordedTopic(resolve(topics.TASK_SUCCESS), "std_msgs/msg/Bool", RELIABLE_QOS),
        RecordedTopic(resolve(topics.INTERVENTION), INTERVENTION_TYPE, LATCHED_QOS, repeated=True),
    ]
    return list({each.topic: each for each in recorded}.values())


def header_stamp_ns(data: bytes) -> int:
    """Return the stamp of a serialised message that starts with a std_msgs/Header, without deserialising it."""
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, CDR_HEADER_BYTES)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
