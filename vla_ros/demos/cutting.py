# SPDX-License-Identifier: Apache-2.0
"""One recording cut into labelled episodes."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from vla_ros.contract import ObservationSpec, Timing
from vla_ros.demos.annotations import Row
from vla_ros.demos.episode import Episode
from vla_ros.demos.filters import idle_frames, outlier_frames
from vla_ros.demos.interventions import PolicyFrames, find_interventions
from vla_ros.demos.labelling import Labelling
from vla_ros.demos.markers import EPISODE_TOPIC, INTERVENTION_TOPIC
from vla_ros.demos.recording import Recording
from vla_ros.demos.sampling import observations
from vla_ros.demos.segmentation import find_segments
from vla_ros.demos.segments import Segment, usable
from vla_ros.observation import Observation, Refusal
from vla_ros.robot import Robot, RobotError, match_topic

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
        with recording.kept(_topics_of_labels(recording, robot)):
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
        waiting = collections.deque(segments)
        period_ns = self._timing.period_ns
        frames: list[_Frame] = []
        seen = 0
        commands = self.segmentation.commands
        for tick, observed in observations(self._recording, self._robot, self._spec, self._timing, commands):
            while waiting and tick >= waiting[0].ticks(period_ns).stop:
                self.dropped["nothing recorded"] += len(waiting[0].ticks(period_ns)) - seen
                yield waiting.popleft(), frames
                frames, seen = [], 0
            if not waiting:
                return
            if tick not in waiting[0].ticks(period_ns):
                continue
            seen += 1
            why = self._why_not(waiting[0], tick, observed)
            if why:
                self.dropped[why] += 1
            elif isinstance(observed, Observation):
                frames.append((tick, observed))
        for segment in waiting:
            self.dropped["nothing recorded"] += len(segment.ticks(period_ns)) - seen
            yield segment, frames
            frames, seen = [], 0

    def _why_not(self, segment: Segment, tick: int, observed: Observation | Refusal) -> str:
        if self._corrections is not None:
            by_hand = self._corrections.frames(np.array([tick]), self._timing.period_ns)
            if not by_hand[0]:
                return MOVED_BY_THE_POLICY
        first_ns = self.labelling.first_ns(segment)
        if first_ns is None:
            return "episode without a twist command"
        if tick * self._timing.period_ns < first_ns:
            return "before the first twist command"
        if isinstance(observed, Refusal):
            return _REFUSALS[observed.reason].format(stream=observed.stream)
        return ""

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
            images={camera: np.stack([observed.images[camera] for observed in seen]) for camera in seen[0].images},
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
    """Return the topics that say where episodes are and what was done, as far as the recording has them."""
    wanted = [EPISODE_TOPIC, INTERVENTION_TOPIC, robot.language.topic]
    wanted += [robot.demonstrated_twist.topic, robot.twist_command.topic, robot.gripper_command.topic]
    if robot.ee_pose is not None and (robot.labels.arm == "motion" or robot.tool_frame):
        wanted += [topic for topic in (robot.ee_pose.topic, robot.ee_pose.static_topic) if topic is not None]
    if robot.gripper_state is not None and robot.labels.gripper == "state":
        wanted.append(robot.gripper_state.topic)
    found = []
    for topic in wanted:
        with contextlib.suppress(RobotError):  # several topics of that name: told by whoever needs it
            found.append(match_topic(topic, recording.topics))
    return [topic for topic in found if topic is not None]


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
