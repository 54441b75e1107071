# SPDX-License-Identifier: Apache-2.0
"""The state of the simulated robot as ROS messages."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header, MultiArrayDimension

from vla_ros.imaging import images
from vla_ros.sim.state import SceneState

BASE_FRAME = "base_link"
JPEG_QUALITY = 95


def time_message(time_ns: int) -> Time:
    """Convert integer nanoseconds to builtin_interfaces/Time."""
    return Time(sec=time_ns // 1_000_000_000, nanosec=time_ns % 1_000_000_000)


def pose_message(state: SceneState, stamp: Time) -> PoseStamped:
    """Return the tool's pose in base_link."""
    message = PoseStamped(header=Header(stamp=stamp, frame_id=BASE_FRAME))
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = map(float, state.tcp_position)
    quaternion = Rotation.from_matrix(state.tcp_rotation).as_quat()
    orientation.x, orientation.y, orientation.z, orientation.w = map(float, quaternion)
    return message


def joint_message(names: tuple[str, ...], positions: NDArray[np.float64], stamp: Time) -> JointState:
    """Return the positions of the arm joints [rad] and of both fingers [m]."""
    return JointState(header=Header(stamp=stamp), name=list(names), position=array.array("d", positions))


def image_message(rgb: NDArray[np.uint8], camera: str, stamp: Time) -> Image:
    """Return an RGB image (H, W, 3) as rgb8. rclpy checks any type other than `array.array` slowly."""
    header, data = Header(stamp=stamp, frame_id=f"{camera}_optical_frame"), array.array("B", rgb.tobytes())
    height, width, _ = rgb.shape
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def compressed_message(rgb: NDArray[np.uint8], camera: str, stamp: Time) -> CompressedImage:
    """Return an RGB image (H, W, 3) as JPEG."""
    header = Header(stamp=stamp, frame_id=f"{camera}_optical_frame")
    return CompressedImage(header=header, format="jpeg", data=array.array("B", images.encode_jpeg(rgb, JPEG_QUALITY)))


def state_message(state: SceneState, time_ns: int) -> Float64MultiArray:
    """Return the scene: the time [s] as one padding element, as declared by `data_offset`, then the state vector."""
    vector = state.to_vector()
    message = Float64MultiArray(data=array.array("d", [time_ns / 1e9, *vector]))
    message.layout.data_offset = 1
    message.layout.dim = [MultiArrayDimension(label="scene_state", size=len(vector), stride=len(vector))]
    return message


def state_time_ns(message: Float64MultiArray) -> int:
    """Return the time of a `state_message`, to within a microsecond."""
    return round(float(message.data[0]) * 1e6) * 1000


def parse_state(message: Float64MultiArray) -> SceneState:
    """Return the scene of a `state_message`."""
    return SceneState.from_vector(np.array(message.data[message.layout.data_offset :]))
