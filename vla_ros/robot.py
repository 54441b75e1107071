# SPDX-License-Identifier: Apache-2.0
"""The robot file: topics, actuator units and limits, one YAML file for each robot (config/robots/).

Live nodes and the bag reader both read it, so a bag is interpreted exactly as the robot runs.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections import Counter
from pathlib import Path
from typing import Literal

import yaml

from vla_ros import resources, schema
from vla_ros.errors import RobotError
from vla_ros.robot_streams import (
    IMAGE_TYPES,
    JOINT_TYPE,
    MAX_LATENCY_S,
    NUMBER_TYPES,
    POSE_TYPES,
    TEXT_TYPES,
    TRANSFORMS,
    TWIST,
    TWIST_STAMPED,
    WITHOUT_HEADER,
    GripperCommand,
    GripperState,
    PoseStream,
    Stream,
    TakeoverTwist,
    TwistStream,
    require,
)

# Plausibility checks that `unchecked` switches off, those of the guard included.
CHECKS = (
    "units", "camera_topics", "arm_not_following", "pose_frozen", "pose_jump",
    "second_camera_publisher", "second_pose_publisher", "second_enable_publisher",
)  # fmt: skip
# Of the twists [Hz]; faster than any controller reads them, slower than any arm moves smoothly.
MIN_COMMAND_HZ, MAX_COMMAND_HZ = 10.0, 500.0
# A longer stop is useless, and a sign of a limit in the wrong unit.
MAX_STOP_S = 1.0


@dataclasses.dataclass(frozen=True)
class Servo:
    """MoveIt Servo executes the twists; `node` is its name, the prefix of its services and its status."""

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
    """Where training's action labels come from.

    The arm's: the recorded `demonstrated_twist` ("command"), or how `ee_pose` moved if no commands were recorded
    ("motion"). The gripper's: the recorded `gripper_command`, or in hindsight the measured opening ("state"): open
    above `open_above`, closed below `closed_below`, in between already what it becomes next (Octo, arXiv:2405.12213).
    `closed_below` must exceed the opening at which an object keeps the fingers apart.
    """

    arm: Literal["command", "motion"] = "command"
    gripper: Literal["command", "state"] = "command"
    closed_below: float = 0.05
    open_above: float = 0.95

    def __post_init__(self) -> None:
        require(
            0 < self.closed_below < self.open_above < 1,
            "labels: 0 < closed_below < open_above < 1 must hold",
            f"closed_below = {self.closed_below} and open_above = {self.open_above}",
        )


@dataclasses.dataclass(frozen=True)
class Idle:
    """A pause of the demonstrator, excluded if `longer_than_s`: slower than both speeds, gripper unchanged.

    A policy that learns to pause may never resume.
    """

    linear_mps: float
    angular_radps: float
    longer_than_s: float


@dataclasses.dataclass(frozen=True)
class Outliers:
    """Faster actions are measurement errors or clock jumps; their frames are excluded."""

    linear_mps: float
    angular_radps: float


@dataclasses.dataclass(frozen=True)
class Filters:
    """Usable frames to exclude from training nevertheless; null: none."""

    idle: Idle | None = None
    outliers: Outliers | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """The arm's limits, whatever the policy says: norms of speed, acceleration and jerk, and the workspace.

    The workspace is a box for the tool in the base frame. Acceleration and jerk also shape stops, and thus determine
    how long they take (`stopping_time_s`).
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
        for part, name in (("linear", "linear_mps"), ("angular", "angular_radps")):
            for limit in (name, f"{name}2", f"{name}3"):
                require(getattr(self, limit) > 0, f"limits: {limit} must be positive", getattr(self, limit))
            if self.stopping_time_s(part) > MAX_STOP_S:
                raise RobotError(
                    f"limits: a stop from {name} must take at most {MAX_STOP_S:g} s; with this acceleration and jerk "
                    f"it takes {self.stopping_time_s(part):.2f} s: lower {name}, or raise {name}2 and {name}3"
                )
        low, high = self.workspace_min_m, self.workspace_max_m
        require(all(map(operator.lt, low, high)), "limits: workspace must not be empty", f"{low} to {high} m")

    def stopping_time_s(self, part: str) -> float:
        """Return the duration of the longest stop of the `linear` or `angular` part."""
        unit = {"linear": "mps", "angular": "radps"}[part]
        speed, acceleration, jerk = (getattr(self, f"{part}_{unit}{power}") for power in ("", "2", "3"))
        if math.isinf(acceleration) or math.isinf(speed):
            return 0.0
        # From full speed and acceleration: the latter falls (a / j), builds up the other way, and falls again.
        return float(speed / acceleration + 2 * acceleration / jerk)


@dataclasses.dataclass(frozen=True)
class ObservationLimits:
    """Maximum age of a sample, skew between cameras, and when a camera counts as frozen or covered.

    frozen_s: how long it may repeat identical bytes; null disables the check: rendered images have no noise, so a scene
    at rest looks frozen. min_contrast: standard deviation of the image's 8 x 8 block means [gray levels, 0 to 255]; a
    covered lens shows almost none, whatever its noise; null disables the check.
    """

    max_age_s: float
    max_skew_s: float
    frozen_s: float | None
    min_contrast: float | None = None


@dataclasses.dataclass(frozen=True)
class Robot:
    """A robot file as data. Topics are relative names, in the namespace of the node or the bag.

    Twists in the tool's frame, whose frame_id is `tool_frame` or `ee_pose.ee_frame`, are converted to the base frame.
    `command_hz` is the rate of the twists that the guard sends.
    """

    name: str
    base_frame: str
    cameras: dict[str, Stream]
    language: Stream
    twist_command: TwistStream
    demonstrated_twist: TwistStream
    gripper_command: GripperCommand
    limits: Limits
    observation: ObservationLimits
    ee_pose: PoseStream | None = None
    gripper_state: GripperState | None = None
    tool_frame: str | None = None
    takeover_twist: TakeoverTwist = dataclasses.field(default_factory=TakeoverTwist)
    command_hz: float = 100.0
    labels: Labels = dataclasses.field(default_factory=Labels)
    filters: Filters = dataclasses.field(default_factory=Filters)
    servo: Servo | None = None
    emergency_stops: tuple[EmergencyStop, ...] = (EmergencyStop("emergency_stop"),)
    unchecked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_streams()
        self._check_pose()
        self._check_frames()
        self._check_plausible()
        rule = f"command_hz must be in [{MIN_COMMAND_HZ:g}, {MAX_COMMAND_HZ:g}]"
        require(MIN_COMMAND_HZ <= self.command_hz <= MAX_COMMAND_HZ, rule, self.command_hz)
        given = self.twist_command.type
        supported = self.servo is None or given == TWIST_STAMPED
        require(supported, f"twist_command: type must be {TWIST_STAMPED} for Servo", repr(given))
        state = self.gripper_state
        if state is not None and (state.type == JOINT_TYPE) != bool(state.joints):
            raise RobotError(
                f"gripper_state: joints must name the joints whose positions add up to the opening for {JOINT_TYPE}, "
                f"and be empty for other types; got type {state.type!r} and joints {list(state.joints)}"
            )
        for section, source, needed in (("arm", "motion", "ee_pose"), ("gripper", "state", "gripper_state")):
            if getattr(self.labels, section) == source and getattr(self, needed) is None:
                raise RobotError(f"labels: {section} = {source!r} requires {needed}; add it to the file")
        for part in (self.gripper_command, self.gripper_state):
            if part is not None:
                rule = f"gripper topic {part.topic!r}: closed and open must differ"
                require(part.closed != part.open, rule, f"{part.open} twice")

    def _check_streams(self) -> None:
        """Raise RobotError for an unknown message type, or one without the header that stamps require."""
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
            require(stream.type in types, f"{where}: type must be one of {', '.join(types)}", repr(stream.type))
            if getattr(stream, "stamp", "receive") == "header" and stream.type in WITHOUT_HEADER:
                raise RobotError(f"{where}: {stream.type} has no header; use stamp: receive")
            rule = f"{where}: latency_s must be in [{-MAX_LATENCY_S:g}, {MAX_LATENCY_S:g}]"
            require(abs(stream.latency_s) <= MAX_LATENCY_S, rule, stream.latency_s)

    def _check_plausible(self) -> None:
        """Raise RobotError for values that no arm has, and for two cameras on one topic, unless `unchecked`."""
        for name in self.unchecked:
            require(name in CHECKS, f"unchecked: must be among {', '.join(CHECKS)}", repr(name))
        if "camera_topics" not in self.unchecked:
            for topic, count in Counter(stream.topic for stream in self.cameras.values()).items():
                require(count == 1, "cameras: each needs its own topic", f"{count} on {topic!r}")
        if "units" in self.unchecked:
            return
        limits, observation = self.limits, self.observation
        corners = [abs(value) for value in (*limits.workspace_min_m, *limits.workspace_max_m)]
        for name, value, maximum, question in (
            ("limits: linear_mps", limits.linear_mps, 3.0, "m/s; is it in millimetres?"),
            ("limits: angular_radps", limits.angular_radps, 30.0, "rad/s; is it in degrees?"),
            ("limits: workspace", max(corners), 5.0, "m; is it in millimetres?"),
            ("observation: max_age_s", observation.max_age_s, 2.0, "s; is it in milliseconds?"),
            ("observation: max_skew_s", observation.max_skew_s, 2.0, "s; is it in milliseconds?"),
        ):
            require(value <= maximum, f"{name} must be at most {maximum:g} {question} (unchecked: [units])", value)

    def _check_pose(self) -> None:
        """Raise RobotError if the tool's frame is missing or superfluous."""
        pose = self.ee_pose
        if pose is None:
            return
        given = repr(pose.ee_frame)
        if pose.type != TRANSFORMS:
            require(pose.ee_frame is None, f"ee_pose: ee_frame must be removed for {pose.type}", given)
            return
        names_tool = (pose.ee_frame or "").lstrip("/") not in ("", self.base_frame.lstrip("/"))
        rule = f"must name the tool's frame (tool0, say), different from base_frame {self.base_frame!r}"
        require(names_tool, f"ee_pose: ee_frame {rule}", given)
        rule = "must be header for transforms, which are combined by their stamps"
        require(pose.stamp == "header", f"ee_pose: stamp {rule}", repr(pose.stamp))

    def _check_frames(self) -> None:
        """Raise RobotError for a frame without a name, or twists in a frame that is neither the base nor the tool."""
        for name in ("base_frame", "tool_frame"):
            given = getattr(self, name)
            unnamed = given is not None and not given.lstrip("/")
            rule = f"{name} must name a frame; for twists without a frame_id, set frame: base or tool at their topic"
            require(not unnamed, rule, repr(given))
        for name in ("twist_command", "demonstrated_twist", "takeover_twist"):
            frame = getattr(self, name).frame
            if frame is not None and self.twist_frame(frame) is None:
                names = ", ".join(("base", "tool", self.base_frame, *self.tool_frames))
                raise RobotError(f"{name}: frame must be one of {names}; got {frame!r}")

    @property
    def tool_frames(self) -> tuple[str, ...]:
        """The names of the tool's frame."""
        names = (self.tool_frame, None if self.ee_pose is None else self.ee_pose.ee_frame)
        return tuple(dict.fromkeys(name.lstrip("/") for name in names if name))

    def twist_frame(self, name: str) -> Literal["base", "tool"] | None:
        """Return which frame twists in the frame called `name` are in; None if it is neither the base nor the tool."""
        name = name.lstrip("/")
        if name == self.base_frame.lstrip("/"):
            return "base"
        if name in self.tool_frames:
            return "tool"
        return "base" if name == "base" else "tool" if name == "tool" else None

    def stream(self, name: str) -> Stream | GripperState:
        """Return the stream called `name`: a camera, ee_pose, gripper_state or language; raises RobotError."""
        state = {"ee_pose": self.ee_pose, "gripper_state": self.gripper_state}
        streams = {**self.cameras, **state, "language": self.language}
        found = streams.get(name)
        if found is None:
            known = ", ".join(key for key, value in streams.items() if value)
            raise RobotError(f"robot {self.name!r} has no stream {name!r}, only {known}; add it to the robot file")
        return found


def robot_file(name_or_path: str | Path) -> Path:
    """Return the file that `load_robot` reads."""
    path, shipped = Path(name_or_path), resources.path("config/robots")
    if path.suffix not in (".yaml", ".yml"):
        return shipped / f"{name_or_path}.yaml"
    only_a_name = path.name == str(name_or_path) and not path.exists() and (shipped / path).exists()
    return shipped / path if only_a_name else path


def load_robot(name_or_path: str | Path) -> Robot:
    """Read a robot file, given as a path or as the name of a file in config/robots (`tabletop`, `tabletop.yaml`).

    Raises:
        RobotError: no such file, not YAML, or an unknown, missing or malformed key.
    """
    path, shipped = robot_file(name_or_path), resources.path("config/robots")
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        names = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise RobotError(f"robot file {path} does not exist; use the path of a YAML file, or one of {names}") from None
    except yaml.YAMLError as error:
        raise RobotError(f"robot file {path} is not YAML: {error}") from None
    return schema.parse(Robot, data, f"robot file {path}", RobotError)
