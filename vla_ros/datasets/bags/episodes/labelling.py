# SPDX-License-Identifier: Apache-2.0
"""Action labels of a recording: the arm's twists and the gripper's openings, commanded or measured, per control period.

A command holds until the next one, but only for a limited time, as in the robot's controller: one that receives nothing
stops the arm. Measured poses are interpolated between neighbours.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla_ros import actions
from vla_ros.datasets.bags.cdr.batch_reader import Columns, read_tables
from vla_ros.datasets.bags.episodes.segmentation import Segment
from vla_ros.datasets.bags.recording import Recording, match_topic
from vla_ros.datasets.bags.streams import BagStream, columns_of, event_times_ns
from vla_ros.datasets.errors import BagError
from vla_ros.geometry import rigid
from vla_ros.grid import Grid
from vla_ros.observations import messages
from vla_ros.robot import Robot
from vla_ros.robot_streams import GripperCommand, GripperState, Stream, TwistStream

Times = NDArray[np.int64]
Floats = NDArray[np.float64]

# How long controllers follow a twist without a new one: the simulated arm 0.2 s, MoveIt Servo 0.1 s by default.
HOLD_NS = 200_000_000


@dataclasses.dataclass(frozen=True)
class _Series:
    """A stream over a whole recording, in order of receipt: times of the events (S,), values (S, ...)."""

    time_ns: Times
    values: Floats


class ActionLabels:
    """The actions of one recording, from the sources that the robot file names under `labels`.

    Args:
        commanded: The key of the twists to use in the robot file; by default what the demonstrator meant.
        by_guard: The guard has published them, and names the frame of each itself.

    Raises:
        BagError: A topic is missing, a twist is in an unknown frame, or a value is not finite.
    """

    def __init__(
        self,
        recording: Recording,
        robot: Robot,
        commanded: Literal["demonstrated_twist", "twist_command"] = "demonstrated_twist",
        by_guard: bool = False,
    ) -> None:
        self._recording, self._robot, self._key = recording, robot, commanded
        self._delays_ns: list[int] = []
        self._measured: _Series | None = None
        stream: TwistStream = getattr(robot, commanded)
        self._said_frame = None if by_guard else stream.frame
        gripper = robot.gripper_command
        by_command, gripper_by_command = robot.labels.arm == "command", robot.labels.gripper == "command"
        wanted: dict[str, Stream | GripperCommand] = {"demonstrated twist": stream} if by_command else {}
        if not by_command and robot.ee_pose is not None:
            wanted["ee_pose, for the arm's motion"] = robot.ee_pose
        if gripper_by_command:
            wanted["gripper command"] = gripper
        _require_topics(recording, wanted)
        self._max_gap_ns = round(robot.observation.max_age_s * 1e9)
        twists = self._read_twists(stream) if by_command else _Series(np.zeros(0, np.int64), np.zeros((0, 6)))
        self._poses = None if by_command else self._read_poses()
        self._sorted_twists_ns = np.sort(twists.time_ns)
        self._meant = _hold_twists(twists)
        self._gripper_commands: _Series | None = None
        if gripper_by_command:
            self._gripper_commands = self._read(gripper, lambda one: messages.commanded_opening(one, gripper))
        else:
            self._openings()

    @property
    def delay_s(self) -> float:
        """Median of receive time minus header stamp of the arm's stream, 0 without stamps; large between two clocks."""
        return statistics.median(self._delays_ns) / 1e9 if self._delays_ns else 0.0

    def actions(self, segment: Segment, ticks: Times, grid: Grid) -> Floats:
        """Return the labels (T, 7) at `ticks` of a segment: the mean twist over each period, and the gripper's opening.

        The opening is the one commanded at the period's middle, or measured at its end. NaN if unknown.
        """
        start_ns, stop_ns = grid.start_ns(ticks), grid.start_ns(ticks + 1)
        if self._poses is None:
            arm = _mean_twists(self._meant, start_ns, stop_ns)
        else:
            arm = motion(self._poses.time_ns, self._poses.values, start_ns, stop_ns, self._max_gap_ns)
        return np.concatenate([arm, self._gripper(segment, start_ns, stop_ns)[:, None]], axis=1)

    def first_ns(self, segment: Segment) -> int | None:
        """Return when the demonstrator begins in a segment: its first twist or None; its start if motion counts."""
        if self._poses is not None:
            return segment.start_ns
        time_ns = self._sorted_twists_ns
        first = np.searchsorted(time_ns, segment.start_ns)
        return int(time_ns[first]) if first < len(time_ns) and time_ns[first] < segment.stop_ns else None

    def _gripper(self, segment: Segment, start_ns: Times, stop_ns: Times) -> Floats:
        if (commands := self._gripper_commands) is not None:
            gripper = as_of(commands.time_ns, commands.values, start_ns + (stop_ns - start_ns) // 2)
            if (unknown := np.isnan(gripper)).any():
                # Before its first command, a gripper stays where it is.
                measured = self._openings()
                gripper[unknown] = as_of(measured.time_ns, measured.values, start_ns[unknown])
            return gripper
        measured, labels = self._openings(), self._robot.labels
        sample_ns, openings = _in_order(measured.time_ns, measured.values)
        inside = (sample_ns >= segment.start_ns) & (sample_ns <= segment.stop_ns) & np.isfinite(openings)
        binary = actions.binarize_gripper(openings[inside], labels.closed_below, labels.open_above)
        return as_of(sample_ns[inside], binary, stop_ns, self._max_gap_ns)

    def _openings(self) -> _Series:
        """Return the gripper's measured openings, read on first use; empty if the recording has none."""
        if self._measured is None:
            self._measured = _Series(np.zeros(0, np.int64), np.zeros(0))
            if (state := self._robot.gripper_state) is not None:
                topic = match_topic(state.topic, self._recording.topics)
                if topic is not None and self._recording.topics[topic].type == state.type:
                    self._measured = self._read(state, lambda message: messages.measured_opening(message, state))
                elif self._robot.labels.gripper == "state":
                    _require_topics(self._recording, {"gripper_state, for the gripper's opening": state})
        return self._measured

    def _read_twists(self, stream: Stream) -> _Series:
        robot = self._robot
        found = self._read(stream, lambda one: [*messages.twist(one), self._is_in_tool_frame(one)], (7,), twist_columns)
        twists, in_tool = _Series(found.time_ns, found.values[:, :6].copy()), found.values[:, 6] != 0
        strange = ~np.isfinite(twists.values).all(axis=1)
        if strange.any():
            what = f"has a twist that is not finite: {twists.values[strange][0]}; record the bag again"
            raise BagError(f"bag {self._recording.path}, {self._topic(stream)}: {what}")
        if in_tool.any():
            if robot.ee_pose is None:
                raise BagError(
                    f"bag {self._recording.path}: {stream.topic} is in the tool's frame; rotating it into the base "
                    "frame takes ee_pose: add that to the robot file"
                )
            _require_topics(self._recording, {"ee_pose, to rotate twists into the base frame": robot.ee_pose})
            poses = self._read_poses()
            at = rigid.interpolate_poses(poses.time_ns, poses.values, twists.time_ns[in_tool], self._max_gap_ns)
            known = np.isfinite(at).all(axis=1)
            rotated = np.full((len(at), 6), np.nan)
            if known.any():
                rotated[known] = actions.rotate_twist(twists.values[in_tool][known], at[known, 3:])
            twists.values[in_tool] = rotated
        return twists

    def _is_in_tool_frame(self, message: Any) -> bool:
        return messages.twist_frame(message, self._robot, self._key, self._said_frame) == "tool"

    def _read_poses(self) -> _Series:
        stream = self._robot.stream("ee_pose")
        if columns := columns_of(stream):
            robot = self._robot
            return self._read(stream, lambda one: messages.observation_value(one, robot, "ee_pose"), (7,), columns)
        topic = self._topic(stream)
        times_ns, poses = [], []
        for receive_ns, time_ns, pose in BagStream(self._recording, self._robot, "ee_pose", topic).samples():
            times_ns.append(time_ns)
            poses.append(pose)
            if stream.stamp == "header":
                self._delays_ns.append(receive_ns - time_ns - round(stream.latency_s * 1e9))
        return _Series(np.array(times_ns, np.int64), np.array(poses, np.float64).reshape(-1, 7))

    def _read(
        self,
        stream: Stream | GripperState | GripperCommand,
        value: Callable[[Any], Any],
        shape: tuple[int, ...] = (),
        columns: Columns | None = None,
    ) -> _Series:
        """Read a stream, skipping messages whose `value`, of this `shape`, is None.

        `columns` tells which numbers of a message its value begins with; the rest of the value is the same for all.
        """
        recording, topic = self._recording, self._topic(stream)

        def value_of(message: Any) -> Any:
            try:
                return value(message)
            except (ValueError, IndexError) as error:
                raise BagError(f"bag {recording.path}, {topic}: {error}") from None

        table = read_tables(recording, {topic: columns}).get(topic) if columns is not None else None
        left_out = None if table is None else recording.mask([table.refs])
        read_refs, times_ns, values = [], [], []
        for ref, _, receive_ns, message in recording.messages_with_refs([topic], left_out):
            found = value_of(message)
            if found is None:
                continue
            read_refs.append((*ref, receive_ns))
            times_ns.append(messages.message_time_ns(message, stream, receive_ns))
            values.append(found)
            if _has_stamps(stream):
                self._delays_ns.append(receive_ns - messages.stamp_ns(message))
        read = _Series(np.array(times_ns, np.int64), np.array(values, np.float64).reshape(-1, *shape))
        if table is None:
            return read
        if _has_stamps(stream):
            self._delays_ns += (table.refs.receive_ns - table.stamp_ns).tolist()
        rest = value_of(table.first)[table.numbers.shape[1] :]
        numbers = np.concatenate([table.numbers, np.tile(rest, (len(table.numbers), 1))], axis=1)
        tabled = _Series(event_times_ns(table, stream), numbers)
        refs = np.concatenate([np.array(read_refs, np.int64).reshape(-1, 3), np.stack(table.refs, axis=1)])
        file, entry, received_ns = refs.T
        order = np.lexsort((entry, file, received_ns))
        merged_ns, merged = np.append(read.time_ns, tabled.time_ns), np.concatenate([read.values, tabled.values])
        return _Series(merged_ns[order], merged[order])

    def _topic(self, stream: Stream | GripperState | GripperCommand) -> str:
        return self._recording.find({stream.topic: (stream.topic, stream.type)})[stream.topic]


def _has_stamps(stream: Stream | GripperState | GripperCommand) -> bool:
    return isinstance(stream, Stream) and stream.stamp == "header"


def twist_columns(first: Any) -> tuple[int, ...]:
    """Return all the numbers of a twist."""
    return tuple(range(6))


def _hold_twists(twists: _Series) -> ZeroOrderHold:
    """Hold twists, and as a seventh value whether they are unknown."""
    unknown = np.isnan(twists.values).any(axis=1, keepdims=True)  # (S, 1)
    return ZeroOrderHold(twists.time_ns, np.concatenate([np.where(unknown, 0.0, twists.values), unknown], axis=1))


def _mean_twists(twists: ZeroOrderHold, start_ns: Times, stop_ns: Times) -> Floats:
    """Return the mean twists (T, 6) over each period; NaN if part of one is unknown."""
    arm = twists.average(start_ns, stop_ns)
    return np.where(arm[:, 6:] > 1e-6, np.nan, arm[:, :6])


def _require_topics(recording: Recording, streams: dict[str, Any]) -> None:
    """Raise BagError that lists all of `streams` that the recording lacks."""
    recording.find({purpose: (stream.topic, stream.type) for purpose, stream in streams.items()})


class ZeroOrderHold:
    """Values (S, D) that each hold until the next one, for `hold_ns` at most; zero while none holds.

    Samples may come in any order; of equal times the last one counts.
    """

    def __init__(self, sample_ns: Times, values: Floats, hold_ns: int = HOLD_NS) -> None:
        self._sample_ns, self._values = _in_order(sample_ns, values)
        if len(sample_ns) == 0:
            return
        until_next_ns = np.diff(self._sample_ns, append=self._sample_ns[-1] + hold_ns)
        self._held_s = np.minimum(until_next_ns, hold_ns) / 1e9  # (S,)
        # The integral up to each sample; its differences are exact enough: 1e-12 m/s after an hour.
        sums = np.cumsum(self._values * self._held_s[:, None], axis=0)
        self._integrals = np.concatenate([np.zeros((1, values.shape[1])), sums])

    def average(self, start_ns: Times, stop_ns: Times) -> Floats:
        """Average over [start, stop) for each of `start_ns` and `stop_ns` (T,): (T, D)."""
        if len(self._sample_ns) == 0:
            return np.zeros((len(start_ns), self._values.shape[1]))
        duration_s = (stop_ns - start_ns) / 1e9
        return (self._integral(stop_ns) - self._integral(start_ns)) / duration_s[:, None]

    def _integral(self, time_ns: Times) -> Floats:
        last = np.searchsorted(self._sample_ns, time_ns, side="right") - 1
        sample = np.maximum(last, 0)
        since_s = np.minimum((time_ns - self._sample_ns[sample]) / 1e9, self._held_s[sample])
        since_s = np.where(last < 0, 0.0, since_s)
        return self._integrals[sample] + self._values[sample] * since_s[:, None]


def as_of(sample_ns: Times, values: Floats, time_ns: Times, max_age_ns: int | None = None) -> Floats:
    """Return the newest of `values` (S,) at or before each of `time_ns` (T,), NaN if older than `max_age_ns`."""
    sample_ns, values = _in_order(sample_ns, values)
    last = np.searchsorted(sample_ns, time_ns, side="right") - 1
    unknown = last < 0
    if max_age_ns is not None:
        unknown |= time_ns - np.append(sample_ns, 0)[last] > max_age_ns
    return np.where(unknown, np.nan, np.append(values, np.nan)[last])


def motion(sample_ns: Times, poses: Floats, start_ns: Times, stop_ns: Times, max_gap_ns: int) -> Floats:
    """Return the constant twists (T, 6) that lead from the measured pose at each of `start_ns` to that at `stop_ns`.

    In the frame of the poses; NaN if either pose is unknown (see `rigid.interpolate_poses`).
    """
    before = rigid.interpolate_poses(sample_ns, poses, start_ns, max_gap_ns)
    after = rigid.interpolate_poses(sample_ns, poses, stop_ns, max_gap_ns)
    known = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    result = np.full((len(start_ns), 6), np.nan)
    if known.any():
        b, a = before[known], after[known]
        duration_s = (stop_ns - start_ns)[known, None] / 1e9
        result[known] = actions.twist_between(b[:, :3], b[:, 3:], a[:, :3], a[:, 3:], duration_s)
    return result


def _in_order(sample_ns: Times, values: Floats) -> tuple[Times, Floats]:
    """Sort samples by time; those of equal times keep their order."""
    order = np.argsort(sample_ns, kind="stable")
    return sample_ns[order], values[order]
