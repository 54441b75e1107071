# SPDX-License-Identifier: Apache-2.0
"""Export replayed episodes with what the policy planned, as a bag (Foxglove, RViz) or for the Rerun viewer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros import files
from vla_ros.contract import ARM_AXES
from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.writer import BagWriter, TopicQos
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.replay.open_loop import ReplayedEpisode
from vla_ros.grid import Grid
from vla_ros.observations.observation import rotation_from_6d
from vla_ros.robot import Robot
from vla_ros.runtime.execution.timeline import predicted_path

Array = NDArray[np.float64]
POSE_NAMES = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)))

# As policy and guard publish them under their default names.
PATH, PREVIEW = "/policy/predicted_path", "/guard/preview"
TWIST, POSE, POSES = (f"geometry_msgs/msg/{kind}" for kind in ("TwistStamped", "PoseStamped", "PoseArray"))
IMAGE, TEXT = "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"


@dataclasses.dataclass(frozen=True)
class OverlayFrame:
    """One control tick of a replayed episode."""

    time_ns: int
    images: Mapping[str, NDArray[np.uint8]]  # camera -> (h, w, 3) RGB, as the policy saw them
    pose: Array | None  # of the tool (7,) in the base frame [m, quaternion xyzw]; None if not recorded
    demonstrated: Array  # action (7,) [m/s, rad/s, opening]
    planned: Array  # first action (7,) of the chunk
    path: Array | None  # poses (N + 1, 7) along the chunk; None without a pose


def overlay(replayed: ReplayedEpisode, names: Sequence[str], grid: Grid) -> Iterator[OverlayFrame]:
    """Yield the frames of an episode, given the names of its proprioceptive values and the control grid."""
    episode = replayed.episode
    columns = [list(names).index(name) for name in POSE_NAMES] if set(POSE_NAMES) <= set(names) else None
    for index, tick in enumerate(episode.ticks.tolist()):
        chunk, pose, path = replayed.chunks[index], None, None
        if columns is not None:
            values = episode.proprioception[index, columns].astype(np.float64)
            pose = np.concatenate([values[:3], rotation_from_6d(values[3:]).as_quat()])
            path = predicted_path(pose, chunk, grid.period_s)
        images = {camera: np.asarray(frames[index]) for camera, frames in episode.images.items()}
        yield OverlayFrame(grid.start_ns(tick), images, pose, episode.actions[index], chunk[0], path)


def write_rerun(file: Path, frames: Iterable[OverlayFrame], command: str) -> None:
    """Write the frames as a new .rrd file for `rerun FILE` (https://rerun.io; the extra `rerun`)."""
    try:
        import rerun
    except ImportError:
        raise EvaluationError("Rerun files need the package rerun-sdk: pip install 'vla_ros[rerun]'") from None
    if file.exists():
        raise EvaluationError(f"{file} already exists; choose another folder, or move it")
    with files.atomic_write(file) as partial:
        recording = rerun.RecordingStream("vla_ros")
        recording.save(partial)
        recording.log("command", rerun.TextDocument(command), static=True)
        for frame in frames:
            recording.set_time("time", timestamp=frame.time_ns / 1e9)
            for camera, rgb in frame.images.items():
                recording.log(f"camera/{camera}", rerun.Image(rgb))
            for axis, done, planned in zip((*ARM_AXES, "gripper"), frame.demonstrated, frame.planned, strict=True):
                recording.log(f"action/{axis}/demonstrated", rerun.Scalars(float(done)))
                recording.log(f"action/{axis}/planned", rerun.Scalars(float(planned)))
            if frame.pose is not None and frame.path is not None:
                position, quaternion = frame.pose[:3], rerun.Quaternion(xyzw=frame.pose[3:])
                recording.log("tool", rerun.Transform3D(translation=position, quaternion=quaternion))
                recording.log("plan", rerun.LineStrips3D([frame.path[:, :3]]))
        recording.flush()
        recording.disconnect()


def write_bag(folder: Path, frames: Iterable[OverlayFrame], command: str, robot: Robot) -> None:
    """Write the frames as a new MCAP bag with PNG images, for config/views/foxglove.json and policy.rviz.

    The robot's `twist_command` carries the demonstrated actions, `/guard/preview` the first action of each chunk, and
    `/policy/predicted_path` the path along it.
    """
    command_topic = _absolute(robot.twist_command.topic)
    as_pose = robot.ee_pose is not None and robot.ee_pose.type == POSE
    pose_topic = _absolute(robot.stream("ee_pose").topic) if as_pose else "/ee_pose"
    language_topic = _absolute(robot.stream("language").topic)
    image_topics = {name: _compressed(stream.topic) for name, stream in robot.cameras.items()}
    with BagWriter(folder) as bag:
        for topic in image_topics.values():
            bag.add_topic(topic, IMAGE)
        for topic, kind in ((command_topic, TWIST), (PREVIEW, TWIST), (pose_topic, POSE), (PATH, POSES)):
            bag.add_topic(topic, kind)
        bag.add_topic(language_topic, TEXT, TopicQos(durability="transient_local"))
        for index, frame in enumerate(frames):
            time_ns, header = frame.time_ns, _header(frame.time_ns, robot.base_frame)
            if index == 0:
                _write(bag, language_topic, time_ns, TEXT, data=command)
            for camera, rgb in frame.images.items():
                fields = {"header": _header(time_ns, camera), "format": "png", "data": _png(rgb)}
                _write(bag, image_topics[camera], time_ns, IMAGE, **fields)
            for topic, action in ((command_topic, frame.demonstrated), (PREVIEW, frame.planned)):
                _write(bag, topic, time_ns, TWIST, header=header, twist=_twist(action))
            if frame.pose is not None and frame.path is not None:
                _write(bag, pose_topic, time_ns, POSE, header=header, pose=_pose(frame.pose))
                _write(bag, PATH, time_ns, POSES, header=header, poses=[_pose(pose) for pose in frame.path])


def _absolute(topic: str) -> str:
    return "/" + topic.strip("/")


def _compressed(topic: str) -> str:
    return _absolute(topic) if topic.endswith("/compressed") else f"{_absolute(topic)}/compressed"


def _png(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1], np.uint8).reshape(-1)


def _message(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)


def _write(bag: BagWriter, topic: str, time_ns: int, kind: str, **fields: Any) -> None:
    bag.write(topic, time_ns, bytes(typestore().serialize_cdr(_message(kind, **fields), kind)))


def _header(time_ns: int, frame_id: str) -> Any:
    stamp = _message("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return _message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _vector(kind: str, values: Array) -> Any:
    return _message(f"geometry_msgs/msg/{kind}", **dict(zip("xyzw", values.tolist())))


def _twist(action: Array) -> Any:
    linear, angular = _vector("Vector3", action[:3]), _vector("Vector3", action[3:6])
    return _message("geometry_msgs/msg/Twist", linear=linear, angular=angular)


def _pose(pose: Array) -> Any:
    position, orientation = _vector("Point", pose[:3]), _vector("Quaternion", pose[3:])
    return _message("geometry_msgs/msg/Pose", position=position, orientation=orientation)
