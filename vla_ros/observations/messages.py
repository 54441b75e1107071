# SPDX-License-Identifier: Apache-2.0
"""ROS messages to plain values and observation samples, duck-typed: one code path for rclpy and for recorded messages.

Most messages are one sample and some are none; with transforms (/tf) it takes several to know the tool's pose.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.geometry.rigid import Pose
from vla_ros.geometry.transforms import Transform, TransformTree
from vla_ros.imaging import raw
from vla_ros.imaging.compressed import decode_compressed
from vla_ros.imaging.images import Image
from vla_ros.robot import Robot
from vla_ros.robot_streams import JOINT_TYPE, GripperCommand, GripperState, PoseStream, Stream

Decoder = Callable[[Any], Image]
Samples = list[tuple[int, Any]]  # time of the event in ns, value


class LazyImage:
    """An Image or CompressedImage message that is decoded only if it is used."""

    def __init__(self, message: Any, decode: Decoder) -> None:
        self._message = message
        self._decode = decode

    def rgb(self) -> Image:
        """Decode to (H, W, 3) uint8 RGB; raises ValueError if the bytes are not such an image."""
        return self._decode(self._message)

    def fingerprint(self) -> bytes:
        """Return bytes that two different images practically never share: the encoded data itself."""
        return memoryview(self._message.data).tobytes()


def stamp_ns(message: Any) -> int:
    """Return the header's stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def pose(message: Any) -> NDArray[np.float64]:
    """Return a geometry_msgs/PoseStamped as (7,): position [m], quaternion x y z w."""
    position, orientation = message.pose.position, message.pose.orientation
    return np.array([position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w])


def transforms(message: Any, wants: Callable[[str], bool]) -> list[Transform]:
    """Return those transforms of a tf2_msgs/TFMessage whose child frame is wanted."""
    found = []
    for one in message.transforms:
        if wants(one.child_frame_id):
            at, turned = one.transform.translation, one.transform.rotation
            pose = (at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w)
            found.append(Transform(stamp_ns(one), one.header.frame_id, one.child_frame_id, pose))
    return found


def twist(message: Any) -> NDArray[np.float64]:
    """Return a geometry_msgs/TwistStamped or Twist as (6,): m/s, rad/s."""
    value = getattr(message, "twist", message)
    linear, angular = value.linear, value.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def twist_frame(message: Any, robot: Robot, key: str, said: str | None) -> Literal["base", "tool"]:
    """Return whether a twist is in the robot's base frame or in the tool's.

    Args:
        key: Of the topic in the robot file, for messages.
        said: The frame that counts instead of the message's frame_id; a Twist, which names none, is in the base frame.

    Raises:
        ValueError: Nothing says which of the two it is.
    """
    name = said or (message.header.frame_id.lstrip("/") if hasattr(message, "header") else "base")
    frame = robot.twist_frame(name) if name else None
    if frame is not None:
        return frame
    what = "has a twist without a frame_id"
    if name:
        what = f"has a twist in the frame {name!r}, neither base_frame {robot.base_frame!r} nor the tool's frame"
    raise ValueError(f"{what}; say which it is in the robot file, with frame: base or frame: tool in {key}")


def number(message: Any) -> float:
    """Return the only number of a std_msgs/Float64, Float32, or MultiArray of either; ValueError if not exactly one."""
    values = np.atleast_1d(np.asarray(message.data, np.float64))
    if values.shape != (1,):
        raise ValueError(f"has {values.size} values; expected one number")
    return float(values[0])


def text(message: Any) -> str:
    """Return a std_msgs/String's text, stripped."""
    return str(message.data).strip()


def measured_opening(message: Any, gripper: GripperState) -> float | None:
    """Return the gripper's opening in [0, 1] from its joints or its width; ValueError if the message lacks it.

    None for a JointState without the gripper's joints: several publishers may share that topic.
    """
    value = measured_value(message, gripper)
    return None if value is None else actions.opening_from_value(value, gripper.closed, gripper.open)


def measured_value(message: Any, gripper: GripperState) -> float | None:
    """Return the gripper's width, or the sum of its joints, in the actuator's unit; see `measured_opening`."""
    if gripper.type != JOINT_TYPE:
        return number(message)
    names = message.name
    try:
        indices = [names.index(joint) for joint in gripper.joints]
    except ValueError:
        return None
    if max(indices) >= len(message.position):
        raise ValueError(
            f"{gripper.topic} has {len(message.position)} positions for {len(names)} joints; publish one per joint or "
            "correct the topic in the robot file"
        )
    return float(sum(message.position[index] for index in indices))


def commanded_opening(message: Any, gripper: GripperCommand) -> float:
    """Return the commanded opening in [0, 1]; ValueError if the message is not one finite number."""
    value = number(message)
    if not np.isfinite(value):
        raise ValueError(f"has the value {value}; expected one finite number")
    return actions.opening_from_value(value, gripper.closed, gripper.open)


def message_time_ns(message: Any, stream: Stream | GripperState | GripperCommand, receive_ns: int) -> int:
    """Return when the event happened: header stamp or receive time, as the robot file says, minus the latency."""
    from_header = not isinstance(stream, GripperCommand) and stream.stamp == "header"
    time_ns = stamp_ns(message) if from_header else receive_ns
    return time_ns - round(stream.latency_s * 1e9) if stream.latency_s else time_ns


def observation_value(message: Any, robot: Robot, stream: str, decode_image: Decoder = raw.decode_raw) -> Any:
    """Return a message's value as the observation buffer takes it.

    A LazyImage for a camera (`decode_image` decodes raw ones), (7,) for ee_pose, a float for gripper_state, text for
    language; None for a JointState without the gripper's joints.

    Raises:
        ValueError: A pose is in another frame than the robot's base frame, or joints have no positions.
    """
    if stream in robot.cameras:
        return LazyImage(message, decode_compressed if _is_compressed(robot, stream) else decode_image)
    if stream == "ee_pose":
        frame = message.header.frame_id.lstrip("/")
        if frame and frame != robot.base_frame.lstrip("/"):
            raise ValueError(
                f"{robot.stream('ee_pose').topic} is in the frame {frame!r}, but the robot's base frame is "
                f"{robot.base_frame!r}; publish it in that frame or correct base_frame in the robot file"
            )
        return pose(message)
    if stream == "language":
        return text(message)
    if stream == "gripper_state" and robot.gripper_state is not None:
        return measured_opening(message, robot.gripper_state)
    raise ValueError(f"robot {robot.name!r} has no observation stream {stream!r}")


class StreamReader:
    """Turns the messages of one of a robot's streams, in order of receipt, into samples.

    Raises:
        RobotError: The robot file has no such stream.
    """

    def __init__(self, robot: Robot, name: str, decode_image: Decoder = raw.decode_raw) -> None:
        self.name, self.stream = name, robot.stream(name)
        self.static_topic: str | None = None  # a second topic, whose messages go to `read_static`
        self._robot, self._decode = robot, decode_image
        self._tree: TransformTree | None = None
        if isinstance(self.stream, PoseStream) and self.stream.ee_frame is not None:
            self.static_topic = self.stream.static_topic
            self._tree = TransformTree(robot.base_frame, self.stream.ee_frame)

    def read(self, message: Any, receive_ns: int) -> Samples:
        """Return the samples that this message completes, with values as in `observation_value`.

        Raises:
            ValueError, IndexError: The message contradicts the robot file.
        """
        if self._tree is not None:
            return self._poses(self._tree.add(transforms(message, self._tree.wants)))
        value = observation_value(message, self._robot, self.name, self._decode)
        return [] if value is None else [(message_time_ns(message, self.stream, receive_ns), value)]

    def image(self, like: Any, data: Any) -> LazyImage:
        """Return the image of a message that differs from the message `like` only in its stamp and `data`."""
        if _is_compressed(self._robot, self.name):
            return LazyImage(SimpleNamespace(format=like.format, data=data), decode_compressed)
        fields = {name: getattr(like, name) for name in ("height", "width", "encoding", "is_bigendian", "step")}
        return LazyImage(SimpleNamespace(**fields, data=data), self._decode)

    def read_static(self, message: Any) -> Samples:
        """Add a message of `static_topic`; return the samples that were waiting for it."""
        assert self._tree is not None
        return self._poses(self._tree.add(transforms(message, lambda _: True), static=True))

    def prime(self, message: Any) -> None:
        """Add a message of `static_topic` that was latched before all others; of several, the first one counts."""
        assert self._tree is not None
        self._tree.prime(transforms(message, lambda _: True))

    def clear(self) -> None:
        """Forget what was received, as after a clock reset; static transforms remain."""
        if self._tree is not None:
            self._tree.clear()

    @property
    def problem(self) -> str | None:
        """Why arriving messages yield no samples, in words; None if they do."""
        return None if self._tree is None else self._tree.problem

    @property
    def faults(self) -> list[str]:
        """What was wrong with some messages, with counts."""
        counts = self._tree.faults.items() if self._tree is not None else ()
        return [f"{what} ({count} times)" for what, count in sorted(counts)]

    def _poses(self, found: list[tuple[int, Pose]]) -> Samples:
        latency_ns = round(self.stream.latency_s * 1e9)
        return [(stamp_ns - latency_ns, np.array(pose)) for stamp_ns, pose in found]


def _is_compressed(robot: Robot, camera: str) -> bool:
    return robot.cameras[camera].type.endswith("CompressedImage")
