# SPDX-License-Identifier: Apache-2.0
"""A replayed episode as a bag: config/views/foxglove.json and policy.rviz show it as they show the running policy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.writer import BagWriter, TopicQos, typestore
from vla_ros.evaluation.reports.overlay import OverlayFrame
from vla_ros.robot import Robot

# As the node publishes them, under its usual name.
PLAN, PLANNED = "/policy/plan", "/policy/preview"
TWIST, POSE, POSES = (f"geometry_msgs/msg/{kind}" for kind in ("TwistStamped", "PoseStamped", "PoseArray"))
PICTURE, TEXT = "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"


def write_bag(folder: Path, frames: Iterable[OverlayFrame], command: str, robot: Robot) -> Path:
    """Write the frames as an MCAP bag, pictures as PNG, and return its folder.

    What was demonstrated is on the robot's `twist_command`, the first action of the policy's chunk on
    `/policy/preview`, where the chunk leads on `/policy/plan`.

    Raises:
        BagError: the folder exists already.
    """
    command_topic = f"/{robot.twist_command.topic.lstrip('/')}"
    as_pose = robot.ee_pose is not None and robot.ee_pose.type == POSE
    pose_topic = f"/{robot.stream('ee_pose').topic.lstrip('/')}" if as_pose else "/ee_pose"
    language_topic = f"/{robot.stream('language').topic.lstrip('/')}"
    pictures = {name: _picture_topic(stream.topic) for name, stream in robot.cameras.items()}
    latched = TopicQos(durability="transient_local")
    with BagWriter(folder) as bag:
        for topic, kind in (
            *((topic, PICTURE) for topic in pictures.values()),
            *((command_topic, TWIST), (PLANNED, TWIST), (pose_topic, POSE), (PLAN, POSES)),
        ):
            bag.add_topic(topic, kind)
        bag.add_topic(language_topic, TEXT, latched)
        for index, frame in enumerate(frames):
            time_ns = frame.time_ns
            header = _header(time_ns, robot.base_frame)
            if index == 0:
                _write(bag, language_topic, time_ns, TEXT, data=command)
            for camera, rgb in frame.images.items():
                picture = {"header": _header(time_ns, camera), "format": "png", "data": _png(rgb)}
                _write(bag, pictures[camera], time_ns, PICTURE, **picture)
            for topic, action in ((command_topic, frame.demonstrated), (PLANNED, frame.planned)):
                _write(bag, topic, time_ns, TWIST, header=header, twist=_twist(action))
            if frame.pose is not None and frame.path is not None:
                _write(bag, pose_topic, time_ns, POSE, header=header, pose=_pose(frame.pose))
                _write(bag, PLAN, time_ns, POSES, header=header, poses=[_pose(pose) for pose in frame.path])
    return folder


def _picture_topic(topic: str) -> str:
    """The pictures are written compressed, whatever the robot publishes."""
    return "/" + topic.strip("/") if topic.endswith("/compressed") else f"/{topic.strip('/')}/compressed"


def _png(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1], np.uint8).reshape(-1)


def _message(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)


def _write(bag: BagWriter, topic: str, time_ns: int, kind: str, **fields: Any) -> None:
    bag.write(topic, time_ns, bytes(typestore().serialize_cdr(_message(kind, **fields), kind)))


def _header(time_ns: int, frame_id: str) -> Any:
    stamp = _message("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return _message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _vector(kind: str, values: NDArray[np.float64]) -> Any:
    return _message(f"geometry_msgs/msg/{kind}", **dict(zip("xyzw", values.tolist())))


def _twist(action: NDArray[np.float64]) -> Any:
    linear, angular = _vector("Vector3", action[:3]), _vector("Vector3", action[3:6])
    return _message("geometry_msgs/msg/Twist", linear=linear, angular=angular)


def _pose(pose: NDArray[np.float64]) -> Any:
    position, orientation = _vector("Point", pose[:3]), _vector("Quaternion", pose[3:])
    return _message("geometry_msgs/msg/Pose", position=position, orientation=orientation)
