# SPDX-License-Identifier: Apache-2.0
"""One recording cut into labelled episodes."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from vla_ros import topics
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.topic_tables import Columns, tables_read
from vla_ros.datasets.bags.episodes.annotations import Row
from vla_ros.datasets.bags.episodes.filters import idle_frames, outlier_frames
from vla_ros.datasets.bags.episodes.interventions import PolicyFrames, find_interventions
from vla_ros.datasets.bags.episodes.labelling import Labelling, twist_columns
from vla_ros.datasets.bags.episodes.segmentation import find_segments
from vla_ros.datasets.bags.episodes.segments import Segment, usable
from vla_ros.datasets.bags.frame_arena import stacked
from vla_ros.datasets.bags.grid_sampling import SILENCE_NS, observations
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.streams import columns_of
from vla_ros.datasets.episode import Episode
from vla_ros.observations.observation import Observation, Refusal
from vla_ros.robot import TWIST_STAMPED, Robot, RobotError, match_topic

# An episode needs an action and something that follows from it.
MIN_FRAMES = 2

MOVED_BY_THE_POLICY = "moved by the policy"

_REFUSALS = {
    "missing": "{stream}: nothing received yet",
    "stale": "{stream}: too old",
    "skewed": "{stream}: too far behind the other camera",
    "frozen": "{stream}: picture frozen",
    "undecodable": "{stream}: not decodable",
    "invalid": "{stream}: not finite, or no rotation",
    "no_command": "no language command",
}

_Frame = tuple[int, Observation]  # tick, what was seen
_Labelled = tuple[int, Observation, np.ndarray]  # and what was done (7,)


class EpisodeCutter:
    """Cuts a recording into episodes; `rows` are those of a table about it, None where no table has any.

    policy_frames: what becomes of frames in which a policy moved the arm beside which it was recorded; "imitate" takes
    what moved the arm as what was done, `twist_command`, instead of what a demonstrator meant.

    segmentation: where they are; labelling: what was done; interventions: who did it, None where it was a demonstrator;
    dropped: counts the frames that were left out, by reason.

    Raises:
        BagError: the recording lacks a topic, or holds values that can't be right.
    """

    def __init__(
        self,
        recording: Recording,
        robot: Robot,
        spec: ObservationSpec,
        timing: Timing,
        rows: Sequence[Row] | None,
        policy_frames: PolicyFrames = "drop",
    ) -> None:
        self._recording = recording
        self._robot = robot
        self._spec = spec
        self._timing = timing
        with tables_read(recording, _numbers(recording, robot, spec), _topics_of_labels(recording, robot)):
            self.segmentation = find_segments(recording, robot, rows)
            self.interventions = find_interventions(recording)
            imitated = self.interventions is not None and policy_frames == "imitate"
            self.labelling = Labelling(recording, robot, robot.twist_command if imitated else None)
        self._corrections = None if imitated else self.interventions
        self.dropped: collections.Counter[str] = collections.Counter()

    def episodes(self, include_failures: bool) -> Iterator[Episode]:
        """Yield the episodes in time order; one that was cut comes as several with the same `source`."""
        wanted = []
        for segment in self.segmentation.segments:
            if usable(segment, include_failures):
                wanted.append(segment)
            else:
                self.dropped[f"episode {segment.outcome}"] += len(segment.ticks(self._timing.period_ns))
        for segment, frames in self._frames(wanted):
            for piece in _pieces(self._filtered(self._labelled(segment, frames))):
                if len(piece) < MIN_FRAMES:
                    self.dropped[f"piece shorter than {MIN_FRAMES} frames"] += len(piece)
                else:
                    yield self._episode(segment, piece)

    def _frames(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, list[_Frame]]]:
        """Yield each segment with its frames, as soon as its last tick has passed."""
        period_ns = self._timing.period_ns
        covered = self._covered()
        waiting = collections.deque(
            (segment, segment.ticks(period_ns), self._unused(segment, covered)) for segment in segments
        )
        frames: list[_Frame] = []
        seen = 0
        for tick, observed in self._observations(waiting):
            while waiting and tick >= waiting[0][1].stop:
                segment, ticks, _ = waiting.popleft()
                self.dropped["nothing recorded"] += len(ticks) - seen
                yield segment, frames
                frames, seen = [], 0
            if not waiting:
                return
            _, ticks, unused = waiting[0]
            if tick not in ticks:
                continue
            seen += 1
            if why := unused[tick]:
                self.dropped[why] += 1
            elif isinstance(observed, Refusal):
                self.dropped[_REFUSALS[observed.reason].format(stream=observed.stream)] += 1
            elif observed is not None:
                frames.append((tick, observed))
        for segment, ticks, _ in waiting:
            self.dropped["nothing recorded"] += len(ticks) - seen
            yield segment, frames
            frames, seen = [], 0

    def _observations(
        self, segments: Collection[tuple[Segment, range, Mapping[int, str]]]
    ) -> Iterator[tuple[int, Observation | Refusal | None]]:
        """What was seen at the ticks of `segments` that are used, None at all others."""
        used = {tick for _, _, unused in segments for tick, why in unused.items() if not why}
        asked = np.array(sorted(used), np.int64)
        commands = self.segmentation.commands
        return observations(self._recording, self._robot, self._spec, self._timing, commands, asked)

    def _unused(self, segment: Segment, covered: Sequence[range]) -> dict[int, str]:
        """Say for each tick of a segment, of those `covered`, why it is not used, whatever was seen; empty: it is."""
        period_ns = self._timing.period_ns
        inside = segment.ticks(period_ns)
        parts = [np.arange(max(one.start, inside.start), min(one.stop, inside.stop)) for one in covered]
        ticks = np.concatenate([np.zeros(0, np.int64), *parts])
        why = np.full(len(ticks), "", object)
        first_ns = self.labelling.first_ns(segment)
        if first_ns is None:
            why[:] = "episode without a twist command"
        else:
            why[ticks * period_ns < first_ns] = "before the first twist command"
        if self._corrections is not None:
            why[~self._corrections.frames(ticks, period_ns)] = MOVED_BY_THE_POLICY
        return dict(zip(ticks.tolist(), why.tolist(), strict=True))

    def _covered(self) -> list[range]:
        """Ticks near anything that was received, ascending: all that are ever sampled.

        A single damaged time may lie years away from all others.
        """
        margin_ns = SILENCE_NS + 2 * self._timing.period_ns
        received_ns = self._recording.places(None).receive_ns
        pauses = np.flatnonzero(np.diff(received_ns) > 2 * margin_ns)
        begins = received_ns[np.append(0, pauses + 1)] - margin_ns
        ends = received_ns[np.append(pauses, len(received_ns) - 1)] + margin_ns
        period_ns = self._timing.period_ns
        return [range(begin // period_ns, end // period_ns + 1) for begin, end in zip(begins.tolist(), ends.tolist())]

    def _labelled(self, segment: Segment, frames: Sequence[_Frame]) -> list[_Labelled]:
        """Return the frames with their labels, without those where nobody knows what was done."""
        ticks = np.array([tick for tick, _ in frames], np.int64)
        actions = self.labelling.actions(segment, ticks, self._timing.period_ns)
        without_arm = np.isnan(actions[:, :6]).any(axis=1)
        without_gripper = ~without_arm & np.isnan(actions[:, 6])
        gripper = "measured" if self._robot.labels.gripper == "state" else "command yet"
        self.dropped["ee_pose: not known well enough for the arm's motion"] += int(without_arm.sum())
        self.dropped[f"no gripper {gripper}"] += int(without_gripper.sum())
        labelled = zip(frames, actions, without_arm | without_gripper, strict=True)
        return [(*frame, action) for frame, action, drop in labelled if not drop]

    def _filtered(self, frames: list[_Labelled]) -> list[_Labelled]:
        """Leave out what the robot's file filters."""
        filters = self._robot.filters
        if filters.outliers is not None and frames:
            impossible = outlier_frames(np.stack([action for _, _, action in frames]), filters.outliers)
            self.dropped["action faster than filters.outliers allows"] += int(impossible.sum())
            frames = [frame for frame, drop in zip(frames, impossible, strict=True) if not drop]
        if filters.idle is not None and frames:
            ticks = np.array([tick for tick, _, _ in frames], np.int64)
            actions = np.stack([action for _, _, action in frames])
            idle = idle_frames(actions, ticks, self._timing.period_ns, filters.idle)
            self.dropped["idle, in a pause longer than filters.idle allows"] += int(idle.sum())
            frames = [frame for frame, drop in zip(frames, idle, strict=True) if not drop]
        return frames

    def _episode(self, segment: Segment, frames: Sequence[_Labelled]) -> Episode:
        ticks = np.array([tick for tick, _, _ in frames], np.int64)
        seen = [observed for _, observed, _ in frames]
        states = [observed.proprioception for observed in seen if observed.proprioception is not None]
        actions = np.stack([action for _, _, action in frames])
        return Episode(
            images={camera: stacked([observed.images[camera] for observed in seen]) for camera in seen[0].images},
            proprioception=np.stack(states) if states else np.zeros((len(seen), 0), np.float32),
            actions=actions,
            command=seen[0].command,
            task=segment.task or seen[0].command,
            outcome=segment.outcome,
            source=f"{self._recording.path.name}#{segment.number}",
            start_ns=int(ticks[0]) * self._timing.period_ns,
            ticks=ticks,
            phrasings=segment.texts,
            executed=self.labelling.executed(actions, ticks, self._timing.period_ns),
        )


def _topics_of_labels(recording: Recording, robot: Robot) -> list[str]:
    """Return the topics that say where episodes are and what was done, as far as the recording has them.

    Without those that are read as numbers.
    """
    wanted = [topics.EPISODE, topics.INTERVENTION, robot.language.topic, robot.gripper_command.topic]
    twists = (robot.demonstrated_twist, robot.twist_command)
    wanted += [stream.topic for stream in twists if stream.type != TWIST_STAMPED]
    pose = robot.ee_pose
    if pose is not None and pose.static_topic is not None and (robot.labels.arm == "motion" or robot.tool_frame):
        wanted += [pose.topic, pose.static_topic]
    if robot.gripper_state is not None and robot.labels.gripper == "state":
        wanted.append(robot.gripper_state.topic)
    return [found for topic in wanted if (found := _find(topic, recording)) is not None]


def _numbers(recording: Recording, robot: Robot, spec: ObservationSpec) -> dict[str, Columns]:
    """Return which numbers of which topics are needed, of those that the recording has."""
    streams = [robot.stream(name) for name in spec.streams if name != "language"]
    wanted = [(stream, columns_of(stream)) for stream in streams]
    if robot.labels.arm == "command":
        wanted += [(stream, twist_columns) for stream in (robot.demonstrated_twist, robot.twist_command)]
    elif robot.ee_pose is not None:
        wanted.append((robot.ee_pose, columns_of(robot.ee_pose)))
    return {
        topic: columns
        for stream, columns in wanted
        if columns is not None
        and (topic := _find(stream.topic, recording)) is not None
        and recording.topics[topic].type == stream.type
    }


def _find(topic: str, recording: Recording) -> str | None:
    with contextlib.suppress(RobotError):  # several topics of that name: told by whoever needs it
        return match_topic(topic, recording.topics)
    return None


def _pieces(frames: Sequence[_Labelled]) -> list[list[_Labelled]]:
    """Cut frames where a tick is missing and where the command changes."""
    pieces: list[list[_Labelled]] = []
    for tick, observed, action in frames:
        follows = pieces and pieces[-1][-1][0] == tick - 1 and pieces[-1][-1][1].command == observed.command
        if follows:
            pieces[-1].append((tick, observed, action))
        else:
            pieces.append([(tick, observed, action)])
    return pieces
