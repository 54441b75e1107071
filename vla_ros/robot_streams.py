# SPDX-License-Identifier: Apache-2.0
"""The topics of a robot: message type, time stamp and unit of each, as its file says."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vla_ros.errors import RobotError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TRANSFORMS = "tf2_msgs/msg/TFMessage"
POSE_TYPES = ("geometry_msgs/msg/PoseStamped", TRANSFORMS)
TWIST_STAMPED, TWIST = "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Twist"
TEXT_TYPES = ("std_msgs/msg/String",)
JOINT_TYPE = "sensor_msgs/msg/JointState"
NUMBER_TYPES = tuple(
    f"std_msgs/msg/{name}" for name in ("Float64MultiArray", "Float32MultiArray", "Float64", "Float32")
)
# Without a header, only the time of receipt is known.
WITHOUT_HEADER = (TWIST, *TEXT_TYPES, *NUMBER_TYPES)

MAX_LATENCY_S = 1.0


@dataclasses.dataclass(frozen=True)
class Stream:
    """A topic, its message type, and which time counts: the header's stamp or that of receipt.

    `latency_s` lies between the event and that time (a camera's exposure and transfer, say). It is subtracted, live and
    in bags alike, so that streams of different latencies are compared at the times of their events.
    """

    topic: str
    type: str
    stamp: Literal["header", "receive"]
    latency_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class TwistStream(Stream):
    """Twists of the tool in the robot's base frame, or in the tool's.

    `frame` says in which, whatever frame_id the messages have: "base", "tool", or the name of one of the two.
    """

    frame: str | None = None


@dataclasses.dataclass(frozen=True)
class TakeoverTwist:
    """What a person drives the arm with; `frame` as in `TwistStream`, by default that of each message."""

    frame: str | None = None


@dataclasses.dataclass(frozen=True)
class PoseStream(Stream):
    """The tool's pose in the robot's base frame.

    Either a PoseStamped, or transforms (TFMessage, /tf): the chain from the robot's `base_frame` to `ee_frame`, with
    static ones on the topic of the same name with `_static`.
    """

    ee_frame: str | None = None

    @property
    def static_topic(self) -> str | None:
        """The latched topic of static transforms; None for a PoseStamped."""
        return f"{self.topic}_static" if self.type == TRANSFORMS else None


@dataclasses.dataclass(frozen=True)
class GripperState:
    """The gripper's measured opening.

    Either a JointState, summing the positions of `joints`, or a number (`NUMBER_TYPES`) without `joints`. `closed` and
    `open` are the values (m or rad) at the two ends.
    """

    topic: str
    type: str
    stamp: Literal["header", "receive"]
    closed: float
    open: float
    joints: tuple[str, ...] = ()
    latency_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class GripperAction:
    """The action server that moves the gripper, if no driver listens to the topic.

    ParallelGripperCommand sets the value as the position of each of `joints`; GripperCommand has none. `max_effort` is
    in N, or Nm for a rotating gripper.
    """

    name: str
    type: Literal["control_msgs/action/ParallelGripperCommand", "control_msgs/action/GripperCommand"]
    max_effort: float
    joints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        needs_joints = self.type.endswith("ParallelGripperCommand")
        rule = "name the joints to move" if needs_joints else "be empty"
        where = f"gripper action {self.name!r}"
        require(
            needs_joints == bool(self.joints), f"{where}: joints must {rule} for {self.type}", f"{list(self.joints)}"
        )
        require(self.max_effort > 0, f"{where}: max_effort must be positive", self.max_effort)


@dataclasses.dataclass(frozen=True)
class GripperCommand:
    """The gripper's command topic, and its value in the actuator's unit when closed and when open.

    With an `action`, the value is sent there as well; the topic stays, since bags record topics, not actions. Messages
    are numbers without a header: they count from their receipt, less `latency_s`.
    """

    topic: str
    type: str
    closed: float
    open: float
    latency_s: float = 0.0
    action: GripperAction | None = None


def require(condition: bool, rule: str, given: object) -> None:
    """Raise RobotError with `rule` and what is `given` unless the condition holds."""
    if not condition:
        raise RobotError(f"{rule}; got {given}")
