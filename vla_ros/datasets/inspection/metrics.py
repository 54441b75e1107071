# SPDX-License-Identifier: Apache-2.0
"""Figures that tell good demonstrations from bad ones: of a recording's streams, and of the actions cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros import actions as action_space
from vla_ros.contract import ARM_AXES, ARM_UNITS
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.streams import BagStream
from vla_ros.datasets.inspection.lag_estimation import Lag, estimate_lag, picture_motion, tool_motion
from vla_ros.observations import messages
from vla_ros.robot import TRANSFORMS, GripperCommand, GripperState, Robot, Stream, match_topic

# An interval of more than so many usual ones is a gap.
GAP_INTERVALS = 3.0
# Slower than this in both ways is no motion (m/s, rad/s).
IDLE_LINEAR_MPS, IDLE_ANGULAR_RADPS = 0.001, 0.01
BINS = 41
# Pictures are compared at this size, and so many of a recording at most.
_MOTION_PIXELS = (32, 24)
_MOTION_FRAMES = 2000
_DARK_MEAN, _FLAT_STD = 5.0, 2.0


def topic_figures(kind: str, received: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """Type, number, rate and gaps of a topic, from its receive times (n,) in each bag.

    The rate is that of the median interval, so that pauses do not count.
    """
    intervals_s = np.concatenate([np.zeros(0), *(np.diff(times_ns) / 1e9 for times_ns in received)])
    usual_s = float(np.median(intervals_s)) if len(intervals_s) > 1 else 0.0
    return {
        "type": kind,
        "messages": sum(map(len, received)),
        "rate_hz": 1 / usual_s if usual_s > 0 else None,
        "longest_gap_s": float(intervals_s.max()) if len(intervals_s) else None,
        "gaps": int((intervals_s > GAP_INTERVALS * usual_s).sum()) if usual_s > 0 else 0,
    }


class StreamFigures:
    """What is known of each stream of a recording that the robot's file names; it decodes all their messages once.

    delays: stream -> (median, 95 % quantile) of receipt minus stamp [s]; out_of_order, repeated: stream -> how many
    stamps; skews_s: between the cameras, at each picture of the first; lags: stream -> how late it is, or None;
    faults: what was wrong with transforms, in words.
    """

    def __init__(self, recording: Recording, robot: Robot) -> None:
        self.delays: dict[str, tuple[float, float]] = {}
        self.out_of_order: dict[str, int] = {}
        self.repeated: dict[str, int] = {}
        self.lags: dict[str, Lag | None] = {}
        self.faults: list[str] = []
        times_ns: dict[str, NDArray[np.int64]] = {}
        motions: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for name, stream in _streams(robot).items():
            if stream.type == TRANSFORMS:
                samples, self.faults = _poses(recording, robot, name)
            else:
                samples = list(_samples(recording, robot, name, stream))
            if not samples:
                continue
            times_ns[name] = np.array([time_ns for time_ns, _, _ in samples], np.int64)
            delays = [delay_s for _, delay_s, _ in samples if delay_s is not None]
            if delays:
                self.delays[name] = (float(np.median(delays)), float(np.quantile(delays, 0.95)))
            steps = np.diff(times_ns[name])
            self.out_of_order[name], self.repeated[name] = int((steps < 0).sum()), int((steps == 0).sum())
            values = [(time_ns, value) for time_ns, _, value in samples if value is not None]
            if len(values) > 2 and name in (*robot.cameras, "ee_pose"):
                moved = tool_motion if name == "ee_pose" else picture_motion
                motions[name] = moved(np.array([t for t, _ in values], np.int64), np.stack([v for _, v in values]))
        self.skews_s = _skews_s([times_ns[name] for name in robot.cameras if name in times_ns])
        for name in robot.cameras:
            if "ee_pose" in motions and name in motions:
                self.lags[name] = estimate_lag(*motions["ee_pose"], *motions[name])


def action_figures(actions: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Ranges, the bounds that normalisation will use, and a histogram of each column of actions (T, 7)."""
    if not len(actions):
        return {}
    low, high = action_space.quantile_bounds(actions)
    bounds = [*zip(low.tolist(), high.tolist()), (0.0, 1.0)]
    columns = zip((*ARM_AXES, "gripper"), (*ARM_UNITS, "0 closed, 1 open"), actions.T, bounds, strict=True)
    figures = {}
    for axis, unit, values, (lower, upper) in columns:
        # Never narrower than the bounds: of an axis that does not move there is nothing to divide.
        counts, edges = np.histogram(values, BINS, (min(values.min(), lower), max(values.max(), upper)))
        figures[axis] = {
            "unit": unit, "min": float(values.min()), "mean": float(values.mean()), "max": float(values.max()),
            "low": lower, "high": upper,
            "histogram": {"from": float(edges[0]), "to": float(edges[-1]), "counts": counts.tolist()},
        }  # fmt: skip
    return figures


def motion_figures(episodes: Sequence[NDArray[np.float64]], robot: Robot, period_s: float) -> dict[str, float]:
    """Shares of frames that are idle, beyond the robot's limits, spiky, or half open; gripper switches an episode.

    episodes: actions (T, 7) of each, consecutive ticks. Spiky: the change to the next action is more than the robot's
    acceleration limits allow.
    """
    if not episodes:
        return {}
    limits, labels = robot.limits, robot.labels
    frames = sum(map(len, episodes))
    idle = fast = spiky = switches = between = 0
    for actions in episodes:
        linear, angular = np.linalg.norm(actions[:, :3], axis=1), np.linalg.norm(actions[:, 3:6], axis=1)
        changed = np.diff(actions[:, 6], prepend=actions[:1, 6]) != 0
        idle += int(((linear < IDLE_LINEAR_MPS) & (angular < IDLE_ANGULAR_RADPS) & ~changed).sum())
        fast += int(((linear > limits.linear_mps + 1e-9) | (angular > limits.angular_radps + 1e-9)).sum())
        jumps = np.diff(actions[:, :6], axis=0) / period_s
        spiky += int((
            (np.linalg.norm(jumps[:, :3], axis=1) > limits.linear_mps2)
            | (np.linalg.norm(jumps[:, 3:], axis=1) > limits.angular_radps2)
        ).sum())  # fmt: skip
        switches += int((np.diff(actions[:, 6] > 0.5) != 0).sum())
        between += int(((actions[:, 6] > labels.closed_below) & (actions[:, 6] < labels.open_above)).sum())
    return {
        "idle_fraction": idle / frames,
        "beyond_limits_fraction": fast / frames,
        "spiky_fraction": spiky / frames,
        "gripper_between_fraction": between / frames,
        "gripper_switches_per_episode": switches / len(episodes),
    }


def picture_figures(pictures: NDArray[np.uint8]) -> dict[str, int]:
    """How many of the pictures (T, h, w, 3) of a camera are dark, of one colour, or the very same as the one before."""
    means = pictures.reshape(len(pictures), -1).mean(axis=1)
    spread = pictures.reshape(len(pictures), -1, 3).std(axis=1).max(axis=1)
    same = (pictures[1:] == pictures[:-1]).reshape(max(len(pictures) - 1, 0), -1).all(axis=1)
    return {
        "frames": len(pictures), "dark": int((means < _DARK_MEAN).sum()), "flat": int((spread < _FLAT_STD).sum()),
        "repeated": int(same.sum()),
    }  # fmt: skip


def _streams(robot: Robot) -> dict[str, Stream | GripperState | GripperCommand]:
    streams = {
        **robot.cameras, "ee_pose": robot.ee_pose, "gripper_state": robot.gripper_state,
        "demonstrated_twist": robot.demonstrated_twist, "gripper_command": robot.gripper_command,
    }  # fmt: skip
    return {name: stream for name, stream in streams.items() if stream is not None}


def _samples(
    recording: Recording, robot: Robot, name: str, stream: Stream | GripperState | GripperCommand
) -> Iterator[tuple[int, float | None, Any]]:
    """Yield (time of the event, receipt minus stamp [s] where there are stamps, what moves) of a stream."""
    topic = match_topic(stream.topic, recording.topics)
    if topic is None or recording.topics[topic].type != stream.type:
        return
    for number, (_, receive_ns, message) in enumerate(recording.messages([topic])):
        stamped = hasattr(message, "header")
        delay_s = (receive_ns - messages.stamp_ns(message)) / 1e9 if stamped else None
        value: Any = None
        if name == "ee_pose":
            value = messages.pose(message)
        elif name in robot.cameras and number < _MOTION_FRAMES:
            value = _small_grey(message, robot, name)
        yield messages.message_time_ns(message, stream, receive_ns), delay_s, value


def _poses(recording: Recording, robot: Robot, name: str) -> tuple[list[tuple[int, float | None, Any]], list[str]]:
    """What `_samples` yields, of a pose that is put together from transforms; and what was wrong with these."""
    stream = robot.stream(name)
    topic = match_topic(stream.topic, recording.topics)
    if topic is None or recording.topics[topic].type != stream.type:
        return [], []
    poses = BagStream(recording, robot, name, topic)
    found = [
        (time_ns, (receive_ns - time_ns) / 1e9 - stream.latency_s, pose)
        for receive_ns, time_ns, pose in poses.samples()
    ]
    return list(found), poses.faults


def _small_grey(message: Any, robot: Robot, camera: str) -> NDArray[np.uint8] | None:
    try:
        rgb = messages.observation_value(message, robot, camera).rgb()
    except ValueError:
        return None  # counted where episodes are cut: a picture that can't be decoded
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, _MOTION_PIXELS, interpolation=cv2.INTER_AREA), np.uint8)


def _skews_s(cameras: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """At each picture of the first camera, how far the farthest of the others' nearest pictures is from it."""
    if len(cameras) < 2:
        return np.zeros(0)
    first, result = np.sort(cameras[0]), np.zeros(len(cameras[0]))
    for other in cameras[1:]:
        other = np.sort(other)
        right = np.clip(np.searchsorted(other, first), 1, max(len(other) - 1, 1))
        nearest = np.minimum(np.abs(other[np.minimum(right, len(other) - 1)] - first), np.abs(other[right - 1] - first))
        result = np.maximum(result, nearest / 1e9)
    return result
