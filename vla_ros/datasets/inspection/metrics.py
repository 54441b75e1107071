# SPDX-License-Identifier: Apache-2.0
"""Metrics of demonstration quality: of a recording's streams, of the actions cut from it, and of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros import actions as action_space
from vla_ros.contract import ARM_AXES, ARM_UNITS
from vla_ros.datasets.bags.recording import Recording, match_topic
from vla_ros.datasets.bags.streams import BagStream
from vla_ros.datasets.inspection.lag_estimation import Lag, estimate_lag, image_motion, tool_motion
from vla_ros.observations import messages
from vla_ros.robot import Labels, Robot
from vla_ros.robot_streams import TRANSFORMS, GripperCommand, GripperState, Stream

# An interval this many times the median is a gap.
GAP_INTERVALS = 3.0
# Slower than both is no motion (m/s, rad/s).
IDLE_LINEAR_MPS, IDLE_ANGULAR_RADPS = 0.001, 0.01
BINS = 41
# The size at which images are compared, and how many of a recording at most.
_MOTION_PIXELS = (32, 24)
_MOTION_FRAMES = 2000
_DARK_MEAN, _FLAT_STD = 5.0, 2.0

GRIPPERS = ("gripper_state", "gripper_command")

# Time of the event [ns], receipt minus stamp [s] if there is a stamp, and the value that moves, if any.
Sample = tuple[int, float | None, Any]


def topic_metrics(type_name: str, received: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """Return type, count, rate and gaps of a topic from its receive times (n,) in each bag.

    The rate is that of the median interval, so that pauses do not count.
    """
    intervals_s = np.concatenate([np.zeros(0), *(np.diff(times_ns) / 1e9 for times_ns in received)])
    usual_s = float(np.median(intervals_s)) if len(intervals_s) > 1 else 0.0
    return {
        "type": type_name,
        "messages": sum(map(len, received)),
        "rate_hz": 1 / usual_s if usual_s > 0 else None,
        "longest_gap_s": float(intervals_s.max()) if len(intervals_s) else None,
        "gaps": int((intervals_s > GAP_INTERVALS * usual_s).sum()) if usual_s > 0 else 0,
    }


class StreamMetrics:
    """Metrics of the streams of a recording that the robot file names; decodes all their messages once."""

    def __init__(self, recording: Recording, robot: Robot) -> None:
        self.delays: dict[str, tuple[float, float]] = {}  # median and 95 % quantile of receipt minus stamp [s]
        self.out_of_order: dict[str, int] = {}  # number of stamps
        self.repeated: dict[str, int] = {}
        self.lags: dict[str, Lag | None] = {}  # of cameras behind the tool's pose
        self.faults: list[str] = []  # what was wrong with transforms
        self.grippers: dict[str, tuple[float, float]] = {}  # lowest and highest raw value of gripper streams
        times_ns: dict[str, NDArray[np.int64]] = {}
        motions: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for name, stream in _streams(robot).items():
            samples = self._samples(recording, robot, name, stream)
            if not samples:
                continue
            times_ns[name] = np.array([time_ns for time_ns, _, _ in samples], np.int64)
            delays = [delay_s for _, delay_s, _ in samples if delay_s is not None]
            if delays:
                self.delays[name] = (float(np.median(delays)), float(np.quantile(delays, 0.95)))
            steps = np.diff(times_ns[name])
            self.out_of_order[name], self.repeated[name] = int((steps < 0).sum()), int((steps == 0).sum())
            moving = [(time_ns, value) for time_ns, _, value in samples if value is not None]
            if moving and name in GRIPPERS:
                raw = np.array([value for _, value in moving], np.float64)
                self.grippers[name] = (float(np.nanmin(raw)), float(np.nanmax(raw)))
            if len(moving) > 2 and name in (*robot.cameras, "ee_pose"):
                motion = tool_motion if name == "ee_pose" else image_motion
                motions[name] = motion(np.array([t for t, _ in moving], np.int64), np.stack([v for _, v in moving]))
        # Between the cameras, at each image of the first.
        self.skews_s = _skews_s([times_ns[name] for name in robot.cameras if name in times_ns])
        for name in robot.cameras:
            if "ee_pose" in motions and name in motions:
                self.lags[name] = estimate_lag(*motions["ee_pose"], *motions[name])

    def _samples(
        self, recording: Recording, robot: Robot, name: str, stream: Stream | GripperState | GripperCommand
    ) -> list[Sample]:
        topic = match_topic(stream.topic, recording.topics)
        if topic is None or recording.topics[topic].type != stream.type:
            return []
        if stream.type != TRANSFORMS:
            return list(_message_samples(recording, robot, name, stream, topic))
        poses = BagStream(recording, robot, name, topic)
        latency_s = robot.stream(name).latency_s
        samples: list[Sample] = [
            (time_ns, (receive_ns - time_ns) / 1e9 - latency_s, pose) for receive_ns, time_ns, pose in poses.samples()
        ]
        self.faults = poses.faults
        return samples


def action_metrics(actions: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Return the range, the normalisation bounds and a histogram of each column of actions (T, 7)."""
    if not len(actions):
        return {}
    low, high = action_space.quantile_bounds(actions)
    bounds = [*zip(low.tolist(), high.tolist()), (0.0, 1.0)]
    columns = zip((*ARM_AXES, "gripper"), (*ARM_UNITS, "0 closed, 1 open"), actions.T, bounds, strict=True)
    metrics = {}
    for axis, unit, values, (lower, upper) in columns:
        # Never narrower than the bounds: the range of an axis that does not move can't be divided into bins.
        counts, edges = np.histogram(values, BINS, (min(values.min(), lower), max(values.max(), upper)))
        metrics[axis] = {
            "unit": unit,
            **{name: float(getattr(values, name)()) for name in ("min", "mean", "max")},
            "low": lower,
            "high": upper,
            "histogram": {"from": float(edges[0]), "to": float(edges[-1]), "counts": counts.tolist()},
        }
    return metrics


def motion_metrics(episodes: Sequence[NDArray[np.float64]], robot: Robot | None, period_s: float) -> dict[str, float]:
    """Return the fractions of frames that are idle, too fast, spiky or half open, and gripper switches per episode.

    Args:
        episodes: actions (T, 7) of each, at consecutive ticks. An action is spiky if the change to the next one exceeds
            the robot's acceleration limits.
        robot: None if it is not known: then nothing is too fast or spiky.
    """
    if not episodes:
        return {}
    limits, labels = (robot.limits, robot.labels) if robot else (None, Labels())
    frames = sum(map(len, episodes))
    idle = fast = spiky = switches = between = 0
    for actions in episodes:
        linear, angular = np.linalg.norm(actions[:, :3], axis=1), np.linalg.norm(actions[:, 3:6], axis=1)
        changed = np.diff(actions[:, 6], prepend=actions[:1, 6]) != 0
        idle += int(((linear < IDLE_LINEAR_MPS) & (angular < IDLE_ANGULAR_RADPS) & ~changed).sum())
        if limits:
            fast += int(((linear > limits.linear_mps + 1e-9) | (angular > limits.angular_radps + 1e-9)).sum())
            jumps = np.diff(actions[:, :6], axis=0) / period_s
            linear, angular = np.linalg.norm(jumps[:, :3], axis=1), np.linalg.norm(jumps[:, 3:], axis=1)
            spiky += int(((linear > limits.linear_mps2) | (angular > limits.angular_radps2)).sum())
        switches += int((np.diff(actions[:, 6] > 0.5) != 0).sum())
        between += int(((actions[:, 6] > labels.closed_below) & (actions[:, 6] < labels.open_above)).sum())
    return {
        "idle_fraction": idle / frames,
        **({"beyond_limits_fraction": fast / frames, "spiky_fraction": spiky / frames} if limits else {}),
        "gripper_between_fraction": between / frames,
        "gripper_switches_per_episode": switches / len(episodes),
    }


def image_metrics(images: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many of a camera's images (T, h, w, 3) are dark, of one colour, or identical to the one before."""
    means = images.reshape(len(images), -1).mean(axis=1)
    spread = images.reshape(len(images), -1, 3).std(axis=1).max(axis=1)
    same = (images[1:] == images[:-1]).reshape(max(len(images) - 1, 0), -1).all(axis=1)
    counts = {"dark": means < _DARK_MEAN, "flat": spread < _FLAT_STD, "repeated": same}
    return {"frames": len(images), **{name: int(which.sum()) for name, which in counts.items()}}


def _streams(robot: Robot) -> dict[str, Stream | GripperState | GripperCommand]:
    names = ("ee_pose", "gripper_state", "demonstrated_twist", "gripper_command")
    streams = {**robot.cameras, **{name: getattr(robot, name) for name in names}}
    return {name: stream for name, stream in streams.items() if stream is not None}


def _message_samples(
    recording: Recording, robot: Robot, name: str, stream: Stream | GripperState | GripperCommand, topic: str
) -> Iterator[Sample]:
    for number, (_, receive_ns, message) in enumerate(recording.messages([topic])):
        stamped = hasattr(message, "header")
        delay_s = (receive_ns - messages.stamp_ns(message)) / 1e9 if stamped else None
        value: Any = None
        if name == "ee_pose":
            value = messages.pose(message)
        elif isinstance(stream, GripperState):
            value = messages.measured_value(message, stream)
        elif isinstance(stream, GripperCommand):
            value = messages.number(message)
        elif name in robot.cameras and number < _MOTION_FRAMES:
            value = _small_grey(message, robot, name)
        yield messages.message_time_ns(message, stream, receive_ns), delay_s, value


def _small_grey(message: Any, robot: Robot, camera: str) -> NDArray[np.uint8] | None:
    try:
        rgb = messages.observation_value(message, robot, camera).rgb()
    except ValueError:
        return None  # an image that can't be decoded is counted when episodes are cut
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, _MOTION_PIXELS, interpolation=cv2.INTER_AREA), np.uint8)


def _skews_s(cameras: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return, for each image of the first camera, the largest distance to another camera's nearest image."""
    if len(cameras) < 2:
        return np.zeros(0)
    first, result = np.sort(cameras[0]), np.zeros(len(cameras[0]))
    for other in cameras[1:]:
        other = np.sort(other)
        right = np.clip(np.searchsorted(other, first), 1, max(len(other) - 1, 1))
        nearest = np.minimum(np.abs(other[np.minimum(right, len(other) - 1)] - first), np.abs(other[right - 1] - first))
        result = np.maximum(result, nearest / 1e9)
    return result
