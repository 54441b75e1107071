# SPDX-License-Identifier: Apache-2.0
"""ROS messages to plain values, duck-typed: the same code reads live rclpy messages and those that rosbags reads."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.geometry.transforms import Transform
from vla_ros.imaging import images
from vla_ros.imaging.raw_images import decode_raw
from vla_ros.robot import JOINT_TYPE, GripperCommand, GripperState, Robot, Stream

Decoder = Callable[[Any], NDArray[np.uint8]]


class LazyImage:
    """An Image or CompressedImage message that is decoded when, and only if, it is looked at."""

    def __init__(self, message: Any, decode: Decoder) -> None:
        self._message = message
        self._decode = decode

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB. Raises ValueError when the message's bytes are no such image."""
        return self._decode(self._message)

    def fingerprint(self) -> bytes:
        """Bytes that two different pictures practically never share: the encoded data itself."""
        return memoryview(self._message.data).tobytes()


def decode_compressed(message: Any) -> NDArray[np.uint8]:
    """sensor_msgs/CompressedImage (jpeg, png) to RGB."""
    return images.decode_image_file(bytes(memoryview(message.data)))


def stamp_ns(message: Any) -> int:
    """The header's stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def pose(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/PoseStamped to (7,): position m, quaternion x y z w."""
    position, orientation = message.pose.position, message.pose.orientation
    return np.array([position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w])


def transforms(message: Any, wants: Callable[[str], bool]) -> list[Transform]:
    """tf2_msgs/TFMessage to the transforms in it of child frames that somebody `wants`."""
    found = []
    for one in message.transforms:
        if wants(one.child_frame_id):
            at, turned = one.transform.translation, one.transform.rotation
            pose = (at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w)
            found.append(Transform(stamp_ns(one), one.header.frame_id, one.child_frame_id, pose))
    return found


def twist(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/TwistStamped or Twist to (6,): m/s, rad/s."""
    value = getattr(message, "twist", message)
    linear, angular = value.linear, value.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def number(message: Any) -> float:
    """The one number of a std_msgs/Float64, Float32, or MultiArray of either. Raises ValueError for more or fewer."""
    values = np.atleast_1d(np.asarray(message.data, np.float64))
    if values.shape != (1,):
        raise ValueError(f"has {values.size} values; expected one number")
    return float(values[0])


def measured_opening(message: Any, gripper: GripperState) -> float | None:
    """The gripper's opening in [0, 1] from its joints or its width.

    JointState messages without the gripper's joints give None: other publishers share that topic.

    Raises:
        ValueError: joints without positions, or not one number.
    """
    if gripper.type != JOINT_TYPE:
        return actions.opening_from_value(number(message), gripper.closed, gripper.open)
    names = message.name
    try:
        indices = [names.index(joint) for joint in gripper.joints]
    except ValueError:
        return None
    if max(indices) >= len(message.position):
        raise ValueError(
            f"{gripper.topic} has {len(message.position)} positions for {len(names)} joints; publish one for each, or "
            "correct the topic in the robot's file"
        )
    total = float(sum(message.position[index] for index in indices))
    return actions.opening_from_value(total, gripper.closed, gripper.open)


def commanded_opening(message: Any, gripper: GripperCommand) -> float:
    """A number in the actuator's unit to an opening in [0, 1]. Raises ValueError when it is not one finite number."""
    value = number(message)
    if not np.isfinite(value):
        raise ValueError(f"has the value {value}; expected one finite number")
    return actions.opening_from_value(value, gripper.closed, gripper.open)


def text(message: Any) -> str:
    """std_msgs/String to stripped text."""
    return str(message.data).strip()


def observation_value(message: Any, robot: Robot, stream: str, decode_image: Decoder = decode_raw) -> Any:
    """The value that the observation buffer takes for `stream`, from the message of its topic.

    A LazyImage for a camera (`decode_image` decodes raw ones), (7,) for ee_pose, a float for gripper_state, text for
    language. JointState messages without the gripper's joints give None: other publishers share that topic.

    Raises:
        ValueError: a pose in another frame than the robot's base frame, or joints without positions.
    """
    if stream in robot.cameras:
        return LazyImage(message, decode_compressed if _compressed(robot, stream) else decode_image)
    if stream == "ee_pose":
        _check_frame(message, robot)
        return pose(message)
    if stream == "language":
        return text(message)
    if stream == "gripper_state" and robot.gripper_state is not None:
        return measured_opening(message, robot.gripper_state)
    raise ValueError(f"robot {robot.name!r} has no observation stream {stream!r}")


def picture(like: Any, data: Any, robot: Robot, stream: str, decode_image: Decoder = decode_raw) -> LazyImage:
    """The value that `observation_value` gives for a camera's message that differs from `like` in its `data` only."""
    if _compressed(robot, stream):
        return LazyImage(_Data(data), decode_compressed)
    fields = {name: getattr(like, name) for name in ("height", "width", "encoding", "is_bigendian", "step")}
    return LazyImage(SimpleNamespace(**fields, data=data), decode_image)


class _Data:
    """A CompressedImage as far as anybody reads it."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data


def _compressed(robot: Robot, camera: str) -> bool:
    return robot.cameras[camera].type.endswith("CompressedImage")


def _check_frame(message: Any, robot: Robot) -> None:
    """Raise ValueError when a pose says that it is in another frame than the robot's base frame."""
    frame = message.header.frame_id.lstrip("/")
    if frame and frame != robot.base_frame.lstrip("/"):
        raise ValueError(
            f"{robot.stream('ee_pose').topic} is in the frame {frame!r}, the robot's base frame is "
            f"{robot.base_frame!r}; publish it there or correct base_frame in the robot's file"
        )


def message_time_ns(message: Any, stream: Stream | GripperState | GripperCommand, receive_ns: int) -> int:
    """When a message's event was: its header's stamp or its receipt, as the robot's file says, less the latency."""
    from_header = not isinstance(stream, GripperCommand) and stream.stamp == "header"
    time_ns = stamp_ns(message) if from_header else receive_ns
    return time_ns - round(stream.latency_s * 1e9) if stream.latency_s else time_ns
