# SPDX-License-Identifier: Apache-2.0
"""The robot's file: topics, actuator units and limits, read by the live nodes and by the bag reader alike.

One YAML file for each robot (config/robots/), so that what a bag is read with is what the robot is run with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import yaml

from vla_ros import schema
from vla_ros.errors import UserError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TRANSFORMS = "tf2_msgs/msg/TFMessage"
POSE_TYPES = ("geometry_msgs/msg/PoseStamped", TRANSFORMS)
TWIST_STAMPED, TWIST = "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Twist"
TEXT_TYPES = ("std_msgs/msg/String",)
JOINT_TYPE = "sensor_msgs/msg/JointState"
NUMBER_TYPES = (
    "std_msgs/msg/Float64MultiArray", "std_msgs/msg/Float32MultiArray", "std_msgs/msg/Float64", "std_msgs/msg/Float32"
)  # fmt: skip
# Their messages have no header, so only the time of receipt is known.
_WITHOUT_HEADER = (TWIST, *TEXT_TYPES, *NUMBER_TYPES)

MAX_LATENCY_S = 1.0
# A stop that takes longer is none; a limit that was written down in the wrong unit would make it so.
LONGEST_STOP_S = 1.0


class RobotError(UserError):
    """A robot file that is malformed, or topics that do not fit it."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """A topic, its message type, and which time counts: the message's header stamp or the time it was received.

    latency_s: how long after the event that time is (exposure and transfer of a camera, say). It is subtracted, live
    and in bags alike, so that streams of different latency are compared at the times of their events.
    """

    topic: str
    type: str
    stamp: Literal["header", "receive"]
    latency_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class PoseStream(Stream):
    """Where the tool's pose in the robot's base frame comes from.

    A PoseStamped: it says so itself. Transforms (TFMessage, /tf): their chain between the robot's `base_frame` and
    `ee_frame`; those that never change are on the topic of the same name with `_static`.
    """

    ee_frame: str | None = None

    @property
    def static_topic(self) -> str | None:
        """The topic of the transforms that always hold, latched; None for a pose."""
        return f"{self.topic}_static" if self.type == TRANSFORMS else None


@dataclasses.dataclass(frozen=True)
class GripperState:
    """Where the gripper's measured opening comes from.

    A JointState: the sum of the positions of `joints`. A number (`NUMBER_TYPES`): the width itself, without `joints`.
    `closed` and `open` are that value (m or rad) at the two ends.
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
    """The action server that moves the gripper, where no driver listens to the topic.

    `joints`: for ParallelGripperCommand, each gets the value as its position; GripperCommand takes none.
    `max_effort`: N, or Nm for a gripper that turns.
    """

    name: str
    type: Literal["control_msgs/action/ParallelGripperCommand", "control_msgs/action/GripperCommand"]
    max_effort: float
    joints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        needs_joints = self.type.endswith("ParallelGripperCommand")
        if needs_joints != bool(self.joints):
            expected = "the joints that it moves" if needs_joints else "none"
            given = f"joints is {list(self.joints)}"
            raise RobotError(f"gripper action {self.name!r}: {given}; {self.type} takes {expected}")
        if not self.max_effort > 0:
            raise RobotError(f"gripper action {self.name!r}: max_effort is {self.max_effort}; allowed: positive")


@dataclasses.dataclass(frozen=True)
class GripperCommand:
    """The gripper's command topic and its value, in the actuator's unit, when closed and when open.

    With an `action`, the same value goes there as well; the topic remains, since bags hold topics and not actions.
    The messages are numbers without a header: they count from when they were received, less `latency_s`.
    """

    topic: str
    type: str
    closed: float
    open: float
    latency_s: float = 0.0
    action: GripperAction | None = None


@dataclasses.dataclass(frozen=True)
class Servo:
    """MoveIt Servo carries the twists out; `node` is its name, below which its services and its status are."""

    node: str


@dataclasses.dataclass(frozen=True)
class EmergencyStop:
    """One button: a std_msgs/Bool topic with one publisher, true while it is pressed.

    Attributes:
        topic: Relative to the arm's namespace, or absolute for a button of the whole cell.
        heartbeat_s: Longest silence of a button that repeats its state; null for one that only tells changes.
    """

    topic: str
    heartbeat_s: float | None = None

    def __post_init__(self) -> None:
        if self.heartbeat_s is not None and not 0.0 < self.heartbeat_s <= 2.0:
            raise RobotError(f"emergency stop {self.topic!r}: heartbeat_s must be in (0, 2] s; got {self.heartbeat_s}")


@dataclasses.dataclass(frozen=True)
class Labels:
    """Where the actions that training learns come from.

    arm: "command": the recorded `demonstrated_twist`; "motion": how `ee_pose` moved, where nobody recorded commands.
    gripper: "command": the recorded `gripper_command`; "state": the measured opening, decided in hindsight: above
        `open_above` it is open, below `closed_below` closed, and in between it is on its way to what it is next (Octo,
        arXiv:2405.12213). Where an object keeps the fingers apart, `closed_below` must lie above that opening.
    """

    arm: Literal["command", "motion"] = "command"
    gripper: Literal["command", "state"] = "command"
    closed_below: float = 0.05
    open_above: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.closed_below < self.open_above < 1:
            raise RobotError(
                f"labels: closed_below is {self.closed_below}, open_above {self.open_above}; allowed: openings between "
                "0 (closed) and 1 (open), closed_below the smaller"
            )


@dataclasses.dataclass(frozen=True)
class Idle:
    """A demonstrator who pauses: slower than both speeds, gripper unchanged. What is `longer_than_s` is left out.

    A policy that has learned pauses may never end one.
    """

    linear_mps: float
    angular_radps: float
    longer_than_s: float


@dataclasses.dataclass(frozen=True)
class Outliers:
    """Actions faster than this are errors of measurement or jumps of the clock, and their frames are left out."""

    linear_mps: float
    angular_radps: float


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which frames are left out of training although they could be used; null: none."""

    idle: Idle | None = None
    outliers: Outliers | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the arm may do, whatever the policy says: speed, acceleration and jerk of either part, each by its norm.

    The workspace is a box for the tool in the base frame. A stop is shaped by acceleration and jerk as well, so they
    also say how long it takes: see `stopping_time_s`.
    """

    linear_mps: float
    angular_radps: float
    linear_mps2: float
    angular_radps2: float
    linear_mps3: float
    angular_radps3: float
    workspace_min_m: tuple[float, float, float]
    workspace_max_m: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in (
            "linear_mps", "angular_radps", "linear_mps2", "angular_radps2", "linear_mps3", "angular_radps3",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise RobotError(f"limits: {name} is {getattr(self, name)}; allowed: a positive number")
        for part, unit in (("linear", "mps"), ("angular", "radps")):
            if self.stopping_time_s(part) > LONGEST_STOP_S:
                name, takes = f"{part}_{unit}", f"{self.stopping_time_s(part):.2f} s"
                raise RobotError(
                    f"limits: a stop from {name} takes {takes} with this acceleration and jerk; allowed: "
                    f"{LONGEST_STOP_S} s; lower {name}, or raise {name}2 and {name}3"
                )
        if not all(low < high for low, high in zip(self.workspace_min_m, self.workspace_max_m)):
            raise RobotError(
                f"limits: workspace {self.workspace_min_m} ... {self.workspace_max_m} m is empty on an axis"
            )

    def stopping_time_s(self, part: str) -> float:
        """How long the longest stop of the `linear` or `angular` part takes: from full speed, at full acceleration."""
        unit = {"linear": "mps", "angular": "radps"}[part]
        speed, acceleration, jerk = (getattr(self, f"{part}_{unit}{power}") for power in ("", "2", "3"))
        if math.isinf(acceleration) or math.isinf(speed):
            return 0.0
        # Worst when it begins at full acceleration: that is let go (a / j), built up the other way, and let go again.
        return speed / acceleration + 2 * acceleration / jerk


@dataclasses.dataclass(frozen=True)
class ObservationLimits:
    """When an observation is refused.

    A sample is older than `max_age_s`, cameras are further apart than `max_skew_s`, or a camera has shown the very same
    bytes for longer than `frozen_s` (null: don't check: rendered pictures have no noise, a scene at rest looks frozen).
    """

    max_age_s: float
    max_skew_s: float
    frozen_s: float | None


@dataclasses.dataclass(frozen=True)
class Robot:
    """A robot's file as data. Topics are relative names: they live in the namespace of the node or the bag.

    tool_frame: the frame_id of twists that are given in the tool's frame; they are turned into the base frame.
    """

    name: str
    base_frame: str
    cameras: dict[str, Stream]
    language: Stream
    twist_command: Stream
    demonstrated_twist: Stream
    gripper_command: GripperCommand
    limits: Limits
    observation: ObservationLimits
    ee_pose: PoseStream | None = None
    gripper_state: GripperState | None = None
    tool_frame: str | None = None
    labels: Labels = dataclasses.field(default_factory=Labels)
    filters: Filters = dataclasses.field(default_factory=Filters)
    servo: Servo | None = None
    emergency_stops: tuple[EmergencyStop, ...] = (EmergencyStop("emergency_stop"),)
    unchecked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_streams()
        self._check_pose()
        if self.servo is not None and self.twist_command.type != TWIST_STAMPED:
            raise RobotError(f"twist_command has the type {self.twist_command.type!r}; Servo takes {TWIST_STAMPED}")
        state = self.gripper_state
        if state is not None and (state.type == JOINT_TYPE) != bool(state.joints):
            raise RobotError(
                f"gripper_state has the type {state.type!r} and the joints {list(state.joints)}; {JOINT_TYPE} needs "
                "the joints whose positions add up to the opening, other types have none"
            )
        for section, source, needed in (("arm", "motion", "ee_pose"), ("gripper", "state", "gripper_state")):
            if getattr(self.labels, section) == source and getattr(self, needed) is None:
                raise RobotError(f"labels: {section} is {source!r}, which comes from {needed}: add it to the file")
        for part in (self.gripper_command, self.gripper_state):
            if part is not None and part.closed == part.open:
                raise RobotError(
                    f"gripper topic {part.topic!r}: closed and open are both {part.open}; they must differ"
                )

    def _check_streams(self) -> None:
        """Raise RobotError for a stream of a type that is not known, or without a header to take stamps from."""
        kinds: list[tuple[str, Stream | GripperState | GripperCommand | None, tuple[str, ...]]] = [
            *((f"cameras: {name}", stream, IMAGE_TYPES) for name, stream in self.cameras.items()),
            ("language", self.language, TEXT_TYPES),
            ("ee_pose", self.ee_pose, POSE_TYPES),
            ("twist_command", self.twist_command, (TWIST_STAMPED, TWIST)),
            ("demonstrated_twist", self.demonstrated_twist, (TWIST_STAMPED, TWIST)),
            ("gripper_state", self.gripper_state, (JOINT_TYPE, *NUMBER_TYPES)),
            ("gripper_command", self.gripper_command, NUMBER_TYPES),
        ]
        for where, stream, types in kinds:
            if stream is None:
                continue
            if stream.type not in types:
                raise RobotError(f"{where} has the type {stream.type!r}; allowed: {', '.join(types)}")
            if getattr(stream, "stamp", "receive") == "header" and stream.type in _WITHOUT_HEADER:
                raise RobotError(f"{where}: {stream.type} has no header to take a stamp from; write stamp: receive")
            if abs(stream.latency_s) > MAX_LATENCY_S:
                raise RobotError(
                    f"{where}: latency_s is {stream.latency_s}; allowed: {-MAX_LATENCY_S:g} to {MAX_LATENCY_S:g} s"
                )

    def _check_pose(self) -> None:
        """Raise RobotError where the tool's frame is missing, or is one too many."""
        pose = self.ee_pose
        if pose is None:
            return
        if pose.type != TRANSFORMS:
            if pose.ee_frame is not None:
                raise RobotError(f"ee_pose: ee_frame is {pose.ee_frame!r}; a {pose.type} has none: remove it")
            return
        given = (pose.ee_frame or "").lstrip("/")
        if given in ("", self.base_frame.lstrip("/")):
            raise RobotError(
                f"ee_pose: ee_frame is {pose.ee_frame!r}; {TRANSFORMS} needs the name of the tool's frame, another one "
                f"than base_frame ({self.base_frame!r}): ee_frame: tool0, say"
            )
        if pose.stamp != "header":
            raise RobotError(
                f"ee_pose: stamp is {pose.stamp!r}; a chain of transforms is put together by their stamps: write "
                "stamp: header"
            )

    def stream(self, name: str) -> Stream | GripperState:
        """The stream an observation calls `name`: a camera, ee_pose, gripper_state or language. Raises RobotError."""
        streams = {
            **self.cameras,
            "ee_pose": self.ee_pose,
            "gripper_state": self.gripper_state,
            "language": self.language,
        }
        found = streams.get(name)
        if found is None:
            has = ", ".join(key for key, value in streams.items() if value)
            raise RobotError(f"robot {self.name!r} has no stream {name!r} (it has: {has}); add it to the robot's file")
        return found


def load_robot(name_or_path: str | Path) -> Robot:
    """Read a robot's file, given as a path or as the name of a file in config/robots (`tabletop`).

    Raises:
        RobotError: there is no such file, it is no YAML, or it has an unknown, a missing or a malformed key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _shipped(str(name_or_path))
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RobotError(
            f"robot file {path} does not exist; give a path to a YAML file or one of: {_names()}"
        ) from None
    except yaml.YAMLError as error:
        raise RobotError(f"robot file {path} is not YAML: {error}") from None
    return schema.parse(Robot, data, f"robot file {path}", RobotError)


def match_topic(topic: str, available: Iterable[str]) -> str | None:
    """The one of `available` that `topic` (a relative name) means: the same name, or that name in some namespace.

    None where there is none. Raises RobotError where several namespaces have it.
    """
    relative = topic.lstrip("/")
    names = list(available)
    exact = [name for name in names if name.lstrip("/") == relative]
    found = exact or [name for name in names if name.endswith("/" + relative)]
    if len(found) > 1:
        raise RobotError(
            f"topic {topic!r} may be any of {', '.join(sorted(found))}: name one of them in the robot's file"
        )
    return found[0] if found else None


def _shipped(name: str) -> Path:
    from vla_ros import resources

    return resources.path("config/robots") / f"{name}.yaml"


def _names() -> str:
    return ", ".join(sorted(path.stem for path in _shipped("any").parent.glob("*.yaml")))
