# SPDX-License-Identifier: Apache-2.0
"""ROS messages to plain values, duck-typed: the same code reads live rclpy messages and those that rosbags reads."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions, images
from vla_ros.robot import GripperCommand, GripperState, Robot

RawDecoder = Callable[[Any], NDArray[np.uint8]]


class LazyImage:
    """An Image or CompressedImage message that is decoded when, and only if, it is looked at."""

    def __init__(self, message: Any, decode: RawDecoder) -> None:
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


def decode_raw(message: Any) -> NDArray[np.uint8]:
    """sensor_msgs/Image of any encoding that rosbags-image knows, any step, to RGB. Raises ValueError for others."""
    from rosbags.image import ImageError, message_to_cvimage
    from rosbags.image.image import to_cvtype

    try:
        bits, _, _, channels = to_cvtype(message.encoding)
        compact: Any = SimpleNamespace(
            encoding=message.encoding,
            height=message.height,
            width=message.width,
            is_bigendian=message.is_bigendian,
            data=_without_padding(message, message.width * channels * bits // 8),
        )
        return np.array(message_to_cvimage(compact, "rgb8"), dtype=np.uint8)
    except (ImageError, TypeError) as error:  # a TypeError of numpy's: fewer bytes than height and width say
        raise ValueError(f"an image of encoding {message.encoding!r} can't be decoded: {error}") from None


def _without_padding(message: Any, row_bytes: int) -> NDArray[np.uint8]:
    """The pixels without the bytes that `step` adds to each row, which rosbags-image takes for pixels."""
    data = np.frombuffer(message.data, np.uint8)
    if message.step == row_bytes:
        return data
    if message.step < row_bytes or len(data) % message.step:
        raise ValueError(f"step {message.step} does not fit {row_bytes} bytes a row and {len(data)} bytes in all")
    return data.reshape(-1, message.step)[:, :row_bytes].reshape(-1)


def stamp_ns(message: Any) -> int:
    """The header's stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def pose(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/PoseStamped to (7,): position m, quaternion x y z w."""
    position, orientation = message.pose.position, message.pose.orientation
    return np.array([position.x, position.y, position.z, orientation.x, orientation.y, orientation.z, orientation.w])


def twist(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/TwistStamped or Twist to (6,): m/s, rad/s."""
    twist = getattr(message, "twist", message)
    linear, angular = twist.linear, twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def measured_opening(message: Any, gripper: GripperState) -> float:
    """sensor_msgs/JointState to the gripper's opening in [0, 1]. Raises ValueError without a joint or its position."""
    names = list(message.name)
    missing = [joint for joint in gripper.joints if joint not in names]
    if missing:
        raise ValueError(
            f"{gripper.topic} has no joint {missing[0]!r}; it has {', '.join(names)}: correct the robot's file"
        )
    indices = [names.index(joint) for joint in gripper.joints]
    if max(indices) >= len(message.position):
        raise ValueError(
            f"{gripper.topic} has {len(message.position)} positions for {len(names)} joints; publish one for each, or "
            "correct the topic in the robot's file"
        )
    total = float(sum(message.position[index] for index in indices))
    return actions.opening_from_value(total, gripper.closed, gripper.open)


def commanded_opening(message: Any, gripper: GripperCommand) -> float:
    """std_msgs/Float64MultiArray in the actuator's unit to an opening in [0, 1]."""
    return actions.opening_from_value(float(message.data[0]), gripper.closed, gripper.open)


def text(message: Any) -> str:
    """std_msgs/String to stripped text."""
    return str(message.data).strip()


def observation_value(message: Any, robot: Robot, stream: str, decode_image: RawDecoder = decode_raw) -> Any:
    """The value that the observation buffer takes for `stream`, from the message of its topic.

    A LazyImage for a camera, (7,) for ee_pose, a float for gripper_state, text for language. `decode_image` decodes raw
    images (cv_bridge on a robot that has it). JointState messages without the gripper's joints give None: other
    publishers share that topic.

    Raises:
        ValueError: a pose in another frame than the robot's base frame, or joints without positions.
    """
    if stream in robot.cameras:
        compressed = robot.cameras[stream].type.endswith("CompressedImage")
        return LazyImage(message, decode_compressed if compressed else decode_image)
    if stream == "ee_pose":
        _check_frame(message, robot)
        return pose(message)
    if stream == "language":
        return text(message)
    if stream == "gripper_state" and robot.gripper_state is not None:
        if not set(robot.gripper_state.joints) <= set(message.name):
            return None
        return measured_opening(message, robot.gripper_state)
    raise ValueError(f"robot {robot.name!r} has no observation stream {stream!r}")


def _check_frame(message: Any, robot: Robot) -> None:
    """Raise ValueError when a pose says that it is in another frame than the robot's base frame."""
    frame = message.header.frame_id.lstrip("/")
    if frame and frame != robot.base_frame.lstrip("/"):
        raise ValueError(
            f"{robot.stream('ee_pose').topic} is in the frame {frame!r}, the robot's base frame is "
            f"{robot.base_frame!r}; publish it there or correct base_frame in the robot's file"
        )


def message_time_ns(message: Any, stamp: str, receive_ns: int) -> int:
    """The time that counts for a message: its header's stamp or when it was received, as the robot's file says."""
    return stamp_ns(message) if stamp == "header" else receive_ns
