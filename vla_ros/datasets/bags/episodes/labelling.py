# SPDX-License-Identifier: Apache-2.0
"""What was done during a recording: the arm's twists and the gripper's openings, commanded or measured."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.datasets.bags.cdr.topic_tables import Columns, read_tables
from vla_ros.datasets.bags.episodes.labels import HeldValues, as_of, motion, poses_at
from vla_ros.datasets.bags.episodes.segments import Segment
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.streams import BagStream, columns_of, times_of
from vla_ros.datasets.errors import BagError
from vla_ros.observations import messages
from vla_ros.observations.messages import observation_value
from vla_ros.robot import GripperCommand, GripperState, Robot, Stream, match_topic


@dataclasses.dataclass(frozen=True)
class Samples:
    """A stream over a whole recording, in the order of receipt: times of the events (S,), values (S, ...)."""

    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]


class Labelling:
    """The actions of one recording, from what the robot's file says under `labels`.

    commanded: the stream of twists to take; None: what the demonstrator meant, `demonstrated_twist`. What moved the
    arm, `twist_command`, is read beside it where it is another topic and was recorded.
    delay_s: median of receive time minus header stamp of the arm's stream, 0 without stamps: large when two clocks were
    recorded.

    Raises:
        BagError: a topic is missing, a twist is in an unknown frame, or a value is not a finite number.
    """

    def __init__(self, recording: Recording, robot: Robot, commanded: Stream | None = None) -> None:
        self._recording = recording
        self._robot = robot
        self._commanded = commanded or robot.demonstrated_twist
        self._delays_ns: list[int] = []
        self._measured_openings: Samples | None = None
        labels = robot.labels
        wanted: dict[str, Stream | GripperCommand] = {}
        if labels.arm == "command":
            wanted["demonstrated twist"] = self._commanded
        elif robot.ee_pose is not None:
            wanted["ee_pose, for the arm's motion"] = robot.ee_pose
        if labels.gripper == "command":
            wanted["gripper command"] = robot.gripper_command
        _require_topics(recording, wanted)
        self._max_gap_ns = round(robot.observation.max_age_s * 1e9)
        self._twists, self._poses = Samples(np.zeros(0, np.int64), np.zeros((0, 6))), None
        self._executed: HeldValues | None = None
        if labels.arm == "command":
            self._twists = self._read_twists(self._commanded)
            if self._is_recorded_beside(robot.twist_command):
                self._executed = _holding(self._read_twists(robot.twist_command))
        else:
            self._poses = self._read_poses()
        self._sorted_twists_ns = np.sort(self._twists.time_ns)
        self._held = _holding(self._twists)
        self._commands: Samples | None = None
        if labels.gripper == "command":
            self._commands = self._read(robot.gripper_command, self._commanded_opening)
        else:
            self._openings()

    @property
    def delay_s(self) -> float:
        return statistics.median(self._delays_ns) / 1e9 if self._delays_ns else 0.0

    def actions(self, segment: Segment, ticks: NDArray[np.int64], period_ns: int) -> NDArray[np.float64]:
        """Return the labels (T, 7) of `ticks` of a segment: mean twist over each period, and the gripper's opening.

        As commanded at the period's middle, or as measured at its end. NaN where nobody knows.
        """
        start_ns = ticks * period_ns
        if self._poses is None:
            arm = _held(self._held, start_ns, period_ns)
        else:
            arm = motion(self._poses.time_ns, self._poses.values, start_ns, period_ns, self._max_gap_ns)
        gripper = self._gripper(segment, start_ns, period_ns)
        return np.concatenate([arm, gripper[:, None]], axis=1)

    def executed(self, actions: NDArray[np.float64], ticks: NDArray[np.int64], period_ns: int) -> NDArray | None:
        """Return what moved the arm (T, 7) at `ticks` with the labels `actions`, each gripper as there.

        None where nobody recorded it beside what was meant, for one of the ticks or at all.
        """
        if self._executed is None:
            return None
        arm = _held(self._executed, ticks * period_ns, period_ns)
        return None if np.isnan(arm).any() else np.concatenate([arm, actions[:, 6:]], axis=1)

    def first_ns(self, segment: Segment) -> int | None:
        """Return when the demonstrator begins in a segment: its first twist or None; where motion counts, its start."""
        if self._poses is not None:
            return segment.start_ns
        time_ns = self._sorted_twists_ns
        first = np.searchsorted(time_ns, segment.start_ns)
        return int(time_ns[first]) if first < len(time_ns) and time_ns[first] < segment.stop_ns else None

    def _gripper(self, segment: Segment, start_ns: NDArray[np.int64], period_ns: int) -> NDArray[np.float64]:
        if self._commands is None:
            return self._decided_openings(segment, start_ns + period_ns)
        gripper = as_of(self._commands.time_ns, self._commands.values, start_ns + period_ns // 2)
        unknown = np.isnan(gripper)
        if unknown.any():
            # A gripper that was not commanded yet stays where it is.
            measured = self._openings()
            gripper[unknown] = as_of(measured.time_ns, measured.values, start_ns[unknown])
        return gripper

    def _decided_openings(self, segment: Segment, time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Measured openings in the segment as 0 or 1; in between counts what they are next."""
        measured, labels = self._openings(), self._robot.labels
        order = np.argsort(measured.time_ns, kind="stable")
        sample_ns, openings = measured.time_ns[order], measured.values[order]
        inside = (sample_ns >= segment.start_ns) & (sample_ns <= segment.stop_ns) & np.isfinite(openings)
        decided = actions.binarize_gripper(openings[inside], labels.closed_below, labels.open_above)
        return as_of(sample_ns[inside], decided, time_ns, self._max_gap_ns)

    def _openings(self) -> Samples:
        """The gripper's measured opening, read when it is needed first; no samples where the recording has none."""
        if self._measured_openings is None:
            state = self._robot.gripper_state
            topic = match_topic(state.topic, self._recording.topics) if state is not None else None
            if state is not None and topic is not None and self._recording.topics[topic].type == state.type:
                self._measured_openings = self._read(state, lambda message: messages.measured_opening(message, state))
            else:
                if self._robot.labels.gripper == "state" and state is not None:
                    _require_topics(self._recording, {"gripper_state, for the gripper's opening": state})
                self._measured_openings = Samples(np.zeros(0, np.int64), np.zeros(0))
        return self._measured_openings

    def _is_recorded_beside(self, stream: Stream) -> bool:
        """Whether `stream` is in the recording, as another topic than the one that labels are taken from."""
        topics = self._recording.topics
        topic, labelled = match_topic(stream.topic, topics), match_topic(self._commanded.topic, topics)
        return topic not in (None, labelled) and topics[topic].type == stream.type

    def _read_twists(self, stream: Stream) -> Samples:
        robot = self._robot

        def value(message: Any) -> NDArray[np.float64]:
            in_tool = self._is_in_tool_frame(message)
            return np.append(messages.twist(message), in_tool)

        found = self._read(stream, value, (7,), twist_columns)
        twists, rotated = Samples(found.time_ns, found.values[:, :6].copy()), found.values[:, 6] != 0
        strange = ~np.isfinite(twists.values).all(axis=1)
        if strange.any():
            what = f"has a twist that is not finite: {twists.values[strange][0]}; record the bag again"
            raise BagError(f"bag {self._recording.path}, {self._topic(stream)}: {what}")
        if rotated.any():
            if robot.ee_pose is None:
                raise BagError(
                    f"bag {self._recording.path}: {stream.topic} is in the tool's frame {robot.tool_frame!r}; to turn "
                    "it into the base frame, ee_pose is needed: add it to the robot's file"
                )
            _require_topics(self._recording, {"ee_pose, to turn twists into the base frame": robot.ee_pose})
            poses = self._read_poses()
            at = poses_at(poses.time_ns, poses.values, twists.time_ns[rotated], self._max_gap_ns)
            known = np.isfinite(at).all(axis=1)
            turned = np.full((len(at), 6), np.nan)
            if known.any():
                turned[known] = actions.rotate_twist(twists.values[rotated][known], at[known, 3:])
            twists.values[rotated] = turned
        return twists

    def _is_in_tool_frame(self, message: Any) -> bool:
        if not hasattr(message, "header"):
            return False  # a Twist without a header says no frame
        frame, robot = message.header.frame_id.lstrip("/"), self._robot
        if robot.tool_frame is not None and frame == robot.tool_frame.lstrip("/"):
            return True
        if frame != robot.base_frame.lstrip("/"):
            tool = f"or the tool's frame {robot.tool_frame!r}" if robot.tool_frame else "(and tool_frame is not set)"
            raise ValueError(
                f"has a twist in the frame {frame!r}, training takes it in the base frame {robot.base_frame!r} {tool}; "
                "record it in one of them, or correct base_frame and tool_frame in the robot's file"
            )
        return False

    def _read_poses(self) -> Samples:
        stream = self._robot.stream("ee_pose")
        if columns := columns_of(stream):
            robot = self._robot
            return self._read(stream, lambda message: observation_value(message, robot, "ee_pose"), (7,), columns)
        topic = self._topic(stream)
        times_ns, poses = [], []
        for receive_ns, time_ns, pose in BagStream(self._recording, self._robot, "ee_pose", topic).samples():
            times_ns.append(time_ns)
            poses.append(pose)
            if stream.stamp == "header":
                self._delays_ns.append(receive_ns - time_ns - round(stream.latency_s * 1e9))
        return Samples(np.array(times_ns, np.int64), np.array(poses, np.float64).reshape(-1, 7))

    def _commanded_opening(self, message: Any) -> float:
        return messages.commanded_opening(message, self._robot.gripper_command)

    def _read(
        self,
        stream: Stream | GripperState | GripperCommand,
        value: Callable[[Any], Any],
        shape: tuple[int, ...] = (),
        columns: Columns | None = None,
    ) -> Samples:
        """Read a stream; messages whose value is None are passed over.

        columns: which numbers of a message its value begins with; the rest of it depends on none.
        """
        recording, topic = self._recording, self._topic(stream)

        def value_of(message: Any) -> Any:
            try:
                return value(message)
            except (ValueError, IndexError) as error:
                raise BagError(f"bag {recording.path}, {topic}: {error}") from None

        table = read_tables(recording, {topic: columns}).get(topic) if columns is not None else None
        places, times_ns, values = [], [], []
        for place, _, receive_ns, message in recording.placed_messages(
            [topic], None if table is None else recording.marked([table.places])
        ):
            found = value_of(message)
            if found is None:
                continue
            places.append((*place, receive_ns))
            times_ns.append(messages.message_time_ns(message, stream, receive_ns))
            values.append(found)
            if _stamped(stream):
                self._delays_ns.append(receive_ns - messages.stamp_ns(message))
        read = Samples(np.array(times_ns, np.int64), np.array(values, np.float64).reshape(-1, *shape))
        if table is None:
            return read
        if _stamped(stream):
            self._delays_ns += (table.places.receive_ns - table.stamp_ns).tolist()
        rest = value_of(table.first)[table.numbers.shape[1] :]
        numbers = np.concatenate([table.numbers, np.tile(rest, (len(table.numbers), 1))], axis=1)
        order = np.lexsort(
            np.concatenate([np.array(places, np.int64).reshape(-1, 3), np.stack(table.places, axis=1)]).T[[1, 0, 2]]
        )
        return Samples(
            np.concatenate([read.time_ns, times_of(table, stream)])[order],
            np.concatenate([read.values, numbers])[order],
        )

    def _topic(self, stream: Stream | GripperState | GripperCommand) -> str:
        return self._recording.find({stream.topic: (stream.topic, stream.type)})[stream.topic]


def _stamped(stream: Stream | GripperState | GripperCommand) -> bool:
    """Whether the stamps of the arm's stream tell how long its messages took."""
    return isinstance(stream, Stream) and stream.stamp == "header"


def twist_columns(first: Any) -> tuple[int, ...]:
    """All the numbers of a twist."""
    return tuple(range(6))


def _holding(twists: Samples) -> HeldValues:
    """Twists that hold, and as a seventh value how much of them is not known."""
    unknown = np.isnan(twists.values).any(axis=1, keepdims=True)  # (S, 1)
    return HeldValues(twists.time_ns, np.concatenate([np.where(unknown, 0.0, twists.values), unknown], axis=1))


def _held(twists: HeldValues, start_ns: NDArray[np.int64], period_ns: int) -> NDArray[np.float64]:
    """Average held twists; NaN where one of them is not known."""
    arm = twists.average(start_ns, period_ns)
    return np.where(arm[:, 6:] > 1e-6, np.nan, arm[:, :6])


def _require_topics(recording: Recording, streams: dict[str, Any]) -> None:
    """Raise BagError that lists all of `streams` that the recording lacks."""
    recording.find({purpose: (stream.topic, stream.type) for purpose, stream in streams.items()})
