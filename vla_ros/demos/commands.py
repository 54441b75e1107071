# SPDX-License-Identifier: Apache-2.0
"""What was commanded during a recording: twists, gripper targets, language, and the markers of its episodes."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import messages
from vla_ros.demos.errors import BagError
from vla_ros.demos.labels import as_of, hold_average
from vla_ros.demos.markers import EPISODE_TOPIC, EPISODE_TYPE, EpisodeMarker, parse_marker
from vla_ros.demos.recording import Recording
from vla_ros.demos.segments import Segment, segments_from_commands, segments_from_markers
from vla_ros.robot import Robot, match_topic


@dataclasses.dataclass(frozen=True)
class Commands:
    """The commands of one recording, in the order in which they were received.

    twist_ns (S,): the time that counts for each twist, as the robot's file says; twists (S, 6) m/s, rad/s, base frame
    gripper_ns (G,): receive times; openings (G,) in [0, 1]
    segments: the episodes, usable or not
    delay_s: median of receive time minus header stamp, where twists have stamps; large when two clocks were recorded
    """

    twist_ns: NDArray[np.int64]
    twists: NDArray[np.float64]
    gripper_ns: NDArray[np.int64]
    openings: NDArray[np.float64]
    segments: list[Segment]
    delay_s: float

    def actions(self, ticks: NDArray[np.int64], period_ns: int) -> NDArray[np.float64]:
        """Return the labels (T, 7) of `ticks`: mean twist over the period, gripper as commanded at its middle.

        The gripper is NaN before its first command.
        """
        start_ns = ticks * period_ns
        arm = hold_average(self.twist_ns, self.twists, start_ns, period_ns)
        gripper = as_of(self.gripper_ns, self.openings, start_ns + period_ns // 2)
        return np.concatenate([arm, gripper[:, None]], axis=1)

    def first_twist_ns(self, segment: Segment) -> int | None:
        """Return the time of the first twist inside a segment, or None."""
        inside = self.twist_ns[(self.twist_ns >= segment.start_ns) & (self.twist_ns < segment.stop_ns)]
        return int(inside.min()) if len(inside) else None


def read_commands(recording: Recording, robot: Robot) -> Commands:
    """Read what training takes as labels, and where the episodes are: from markers, else from the language command.

    Raises:
        BagError: a topic is missing, a twist is not in the robot's base frame, or a value is not a finite number.
    """
    wanted = {
        "demonstrated twist": (robot.demonstrated_twist.topic, robot.demonstrated_twist.type),
        "gripper command": (robot.gripper_command.topic, robot.gripper_command.type),
        "language": (robot.language.topic, robot.language.type),
    }
    if match_topic(EPISODE_TOPIC, recording.topics) is not None:
        wanted["episode markers"] = (EPISODE_TOPIC, EPISODE_TYPE)
    topics = recording.find(wanted)
    received: dict[str, list] = {purpose: [] for purpose in wanted}
    purposes = {topic: purpose for purpose, topic in topics.items()}
    for topic, receive_ns, message in recording.messages(purposes):
        received[purposes[topic]].append((receive_ns, message))

    twists = received["demonstrated twist"]
    gripper = received["gripper command"]
    end_ns = recording.end_ns + 1
    if received.get("episode markers"):
        markers = [(time_ns, _marker(recording, message)) for time_ns, message in received["episode markers"]]
        segments = segments_from_markers(markers, end_ns)
    else:
        commands = [(time_ns, messages.text(message)) for time_ns, message in received["language"]]
        segments = segments_from_commands(commands, end_ns)
    stamp = robot.demonstrated_twist.stamp
    delays = [receive_ns - messages.stamp_ns(message) for receive_ns, message in twists] if stamp == "header" else []
    return Commands(
        twist_ns=np.array([messages.message_time_ns(message, stamp, time_ns) for time_ns, message in twists], np.int64),
        twists=np.array([_twist(recording, robot, message) for _, message in twists]).reshape(-1, 6),
        gripper_ns=np.array([time_ns for time_ns, _ in gripper], np.int64),
        openings=np.array([_opening(recording, robot, message) for _, message in gripper], np.float64),
        segments=segments,
        delay_s=statistics.median(delays) / 1e9 if delays else 0.0,
    )


def measured_openings(recording: Recording, robot: Robot, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the gripper's measured opening at each time (T,), NaN where the recording does not tell.

    A gripper that was not commanded yet stays where it is, so this is its command until the first one.

    Raises:
        BagError: a message on the gripper's topic has joints without positions.
    """
    state = robot.gripper_state
    topic = match_topic(state.topic, recording.topics) if state is not None else None
    if state is None or topic is None or recording.topics[topic].type != state.type:
        return np.full(len(times_ns), np.nan)
    try:
        samples = [
            (messages.message_time_ns(message, state.stamp, receive_ns), messages.measured_opening(message, state))
            for _, receive_ns, message in recording.messages([topic])
            if set(state.joints) <= set(message.name)
        ]
    except (ValueError, IndexError) as error:
        raise BagError(f"bag {recording.path}, {topic}: {error}") from None
    sample_ns = np.array([time_ns for time_ns, _ in samples], np.int64)
    return as_of(sample_ns, np.array([opening for _, opening in samples], np.float64), times_ns)


def _marker(recording: Recording, message: Any) -> EpisodeMarker:
    try:
        return parse_marker(message.data)
    except BagError as error:
        raise BagError(f"bag {recording.path}: {error}") from None


def _twist(recording: Recording, robot: Robot, message: object) -> NDArray[np.float64]:
    frame = message.header.frame_id.lstrip("/")  # type: ignore[attr-defined]
    topic = robot.demonstrated_twist.topic
    if frame != robot.base_frame:
        raise BagError(
            f"bag {recording.path}: {topic} has a twist in the frame {frame!r}, training takes it in the base frame "
            f"{robot.base_frame!r}; record it in that frame, or correct base_frame in the robot's file"
        )
    value = messages.twist(message)
    if not np.isfinite(value).all():
        raise BagError(f"bag {recording.path}: {topic} has a twist that is not finite: {value}; record the bag again")
    return value


def _opening(recording: Recording, robot: Robot, message: object) -> float:
    topic = robot.gripper_command.topic
    data = message.data  # type: ignore[attr-defined]
    if len(data) != 1 or not np.isfinite(data[0]):
        raise BagError(f"bag {recording.path}: {topic} has the value {list(data)}; expected one finite number")
    return messages.commanded_opening(message, robot.gripper_command)
