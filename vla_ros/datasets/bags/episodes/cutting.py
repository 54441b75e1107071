# SPDX-License-Identifier: Apache-2.0
"""Cut a recording into labelled episodes, and leave out frames that training should not imitate.

Those are the frames of a policy that a person corrected (DAgger, arXiv:1011.0686), long pauses, and impossible actions.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_ros import topics
from vla_ros.contract import ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.batch_reader import Columns, preloaded, read_tables
from vla_ros.datasets.bags.episodes.labelling import ActionLabels, twist_columns
from vla_ros.datasets.bags.episodes.markers import INTERVENTION_TYPE
from vla_ros.datasets.bags.episodes.segmentation import TABLE, Annotation, Segment, find_segments
from vla_ros.datasets.bags.recording import Recording, match_topic
from vla_ros.datasets.bags.streams import SILENCE_NS, columns_of, observations
from vla_ros.datasets.episode import Episode
from vla_ros.errors import RobotError
from vla_ros.grid import Grid
from vla_ros.imaging.images import stack_frames
from vla_ros.observations.observation import Observation, Refusal
from vla_ros.robot import Idle, Outliers, Robot
from vla_ros.robot_streams import TWIST_STAMPED, Stream

# An episode needs an action and something that follows from it.
MIN_FRAMES = 2
# Transport takes less, from a camera's driver to the recorder.
OTHER_CLOCK_S = 0.1
MOVED_BY_THE_POLICY = "moved by the policy"

# What becomes of frames in which a policy moved the arm: they are dropped, or imitated like a person's.
PolicyFrames = Literal["drop", "imitate"]

_REFUSALS = {
    "missing": "{stream}: nothing received yet",
    "stale": "{stream}: too old",
    "skewed": "{stream}: too far behind the other camera",
    "frozen": "{stream}: image frozen",
    "invalid": "{stream}: not finite, or not a rotation",
    "no_command": "no language command",
}

_Frame = tuple[int, Observation]  # tick, what was seen
_Mask = NDArray[np.bool_]


def clock_offset(late_s: float, remedy: str) -> str:
    """Return how far stamps are from their receipt and the key that helps, "" if that is no more than transport."""
    if abs(late_s) <= OTHER_CLOCK_S:
        return ""
    side = "before" if late_s > 0 else "after"
    return (
        f"stamps are {abs(late_s):.6g} s {side} receipt: of another clock? Synchronize it, or set {remedy} in the "
        "robot file"
    )


class EpisodeCutter:
    """Cuts a recording into episodes.

    If `policy_frames` is "imitate", actions are what moved the arm, `twist_command`, not what a demonstrator meant.

    Attributes:
        segmentation: Where the episodes are.
        labels: Their actions.
        interventions: Who moved the arm; None if it was always a demonstrator.
        dropped: Number of frames left out, by reason.

    Raises:
        BagError: The recording lacks a topic, or contains impossible values.
    """

    def __init__(
        self,
        recording: Recording,
        robot: Robot,
        spec: ObservationSpec,
        timing: Timing,
        annotations: Sequence[Annotation] | None,
        policy_frames: PolicyFrames = "drop",
    ) -> None:
        self._recording, self._robot, self._spec, self._timing = recording, robot, spec, timing
        twists = (robot.demonstrated_twist, *([robot.twist_command] if policy_frames == "imitate" else []))
        columns = _table_columns(recording, robot, spec, twists)
        with preloaded(recording, columns, _label_topics(recording, robot, twists)):
            self.segmentation = find_segments(recording, robot, annotations)
            self.interventions = find_interventions(recording)
            imitated = self.interventions is not None and policy_frames == "imitate"
            commanded: Literal["demonstrated_twist", "twist_command"]
            commanded = "twist_command" if imitated else "demonstrated_twist"
            self.labels = ActionLabels(recording, robot, commanded, by_guard=self.interventions is not None)
        self._arm_key = commanded
        self._corrections = None if imitated else self.interventions
        self.dropped: collections.Counter[str] = collections.Counter()
        self._undecodable: dict[str, str] = {}

    def episodes(self, include_failures: bool) -> Iterator[Episode]:
        """Yield the episodes in order of time; one that is interrupted becomes several with the same `source`."""
        wanted = []
        for segment in self.segmentation.segments:
            if segment.usable(include_failures):
                wanted.append(segment)
            else:
                self.dropped[self._unusable(segment)] += len(segment.ticks(self._timing.grid))
        for segment, frames in self._frames(wanted):
            ticks = np.array([tick for tick, _ in frames], np.int64)
            actions = self.labels.actions(segment, ticks, self._timing.grid)
            chosen = self._choose(ticks, actions)
            seen = [frames[index][1] for index in chosen]
            for run in _runs(ticks[chosen], [observed.command for observed in seen]):
                if run.stop - run.start < MIN_FRAMES:
                    self.dropped[f"piece shorter than {MIN_FRAMES} frames"] += run.stop - run.start
                else:
                    yield self._episode(segment, ticks[chosen][run], seen[run], actions[chosen][run])

    def _frames(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, list[_Frame]]]:
        """Yield each segment with its frames, as soon as its last tick has passed."""
        covered = self._covered()
        unused = [self._unused(segment, covered) for segment in segments]
        used = sorted({tick for whys in unused for tick, why in whys.items() if not why})
        seen = observations(
            self._recording, self._robot, self._spec, self._timing, self.segmentation.commands, np.array(used, np.int64)
        )
        following = next(seen, None)
        for segment, whys in zip(segments, unused):
            ticks = segment.ticks(self._timing.grid)
            frames: list[_Frame] = []
            missing = len(ticks)
            while following is not None and following[0] < ticks.stop:
                (tick, observed), following = following, next(seen, None)
                if tick not in ticks:
                    continue
                missing -= 1
                if why := whys[tick]:
                    self.dropped[why] += 1
                elif isinstance(observed, Refusal):
                    self.dropped[self._why(observed)] += 1
                elif observed is not None:
                    frames.append((tick, observed))
            self.dropped["nothing recorded"] += missing
            yield segment, frames

    def _unusable(self, segment: Segment) -> str:
        """Return why a whole segment is left out."""
        if segment.outcome != "discarded" or self.segmentation.origin != "annotations":
            return f"episode {segment.outcome}"
        return (
            f"episode discarded: no text in {TABLE}"
            if not segment.texts
            else f"episode discarded: no under keep in {TABLE}"
        )

    def _why(self, refusal: Refusal) -> str:
        """Return why there is no observation, and if the stream's clock may be to blame, that."""
        if refusal.reason == "undecodable":  # images that can't be decoded for one reason, but for its numbers, are one
            return self._undecodable.setdefault(re.sub(r"\d+", "", refusal.detail), refusal.detail)
        why = _REFUSALS[refusal.reason].format(stream=refusal.stream)
        clock = self._other_clock(refusal.stream) if refusal.reason in ("missing", "stale", "skewed") else ""
        if clock and refusal.reason == "missing":
            return f"{refusal.stream}: {clock}"
        return f"{why}; {clock}" if clock else why

    @functools.cache  # noqa: B019  # a cutter lives as long as its recording
    def _other_clock(self, name: str) -> str:
        """Return that a stream's stamps are of another clock, with the way out, or ""."""
        stream = self._robot.stream(name)
        columns, topic = columns_of(stream), _find(stream.topic, self._recording)
        if stream.stamp != "header" or columns is None or topic is None:
            return ""
        table = read_tables(self._recording, {topic: columns}).get(topic)
        if table is None:
            return ""
        late_s = float(np.median(table.refs.receive_ns - table.stamp_ns)) / 1e9
        key = f"cameras.{name}" if name in self._robot.cameras else name
        return clock_offset(late_s, f"{key}.stamp: receive")

    def _unused(self, segment: Segment, covered: Sequence[range]) -> dict[int, str]:
        """Return for each of a segment's `covered` ticks why it is not used, whatever was seen at it; "" if it is."""
        grid = self._timing.grid
        inside = segment.ticks(grid)
        parts = [np.arange(max(one.start, inside.start), min(one.stop, inside.stop)) for one in covered]
        ticks = np.concatenate([np.zeros(0, np.int64), *parts])
        why = np.full(len(ticks), "", object)
        first_ns = self.labels.first_ns(segment)
        if first_ns is None:
            clock = clock_offset(self.labels.delay_s, f"{self._arm_key}.stamp: receive")
            why[:] = "episode without a twist command" + (f"; its {clock}" if clock else "")
        else:
            why[grid.start_ns(ticks) < first_ns] = "before the first twist command"
        if self._corrections is not None:
            why[~self._corrections.frames(ticks, grid)] = MOVED_BY_THE_POLICY
        return dict(zip(ticks.tolist(), why.tolist(), strict=True))

    def _covered(self) -> list[range]:
        """Return the ranges of ticks near anything received, ascending: a damaged time may be years from all others."""
        grid = self._timing.grid
        margin_ns = SILENCE_NS + 2 * grid.period_ns
        received_ns = self._recording.refs(None).receive_ns
        pauses = np.flatnonzero(np.diff(received_ns) > 2 * margin_ns)
        begins = received_ns[np.append(0, pauses + 1)] - margin_ns
        ends = received_ns[np.append(pauses, len(received_ns) - 1)] + margin_ns
        covered = zip(begins.tolist(), ends.tolist())
        return [range(grid.tick_at(begin), grid.tick_at(end) + 1) for begin, end in covered]

    def _choose(self, ticks: NDArray[np.int64], actions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the indices of frames whose label is known and that the robot file's filters let through."""
        without_arm = np.isnan(actions[:, :6]).any(axis=1)
        without_gripper = ~without_arm & np.isnan(actions[:, 6])
        gripper = "measured" if self._robot.labels.gripper == "state" else "command yet"
        self.dropped["ee_pose: not known well enough for the arm's motion"] += int(without_arm.sum())
        self.dropped[f"no gripper {gripper}"] += int(without_gripper.sum())
        chosen = np.flatnonzero(~(without_arm | without_gripper))
        filters = self._robot.filters
        if filters.outliers is not None:
            outliers = outlier_frames(actions[chosen], filters.outliers)
            self.dropped["action faster than filters.outliers allows"] += int(outliers.sum())
            chosen = chosen[~outliers]
        if filters.idle is not None:
            idle = idle_frames(actions[chosen], ticks[chosen], self._timing.grid, filters.idle)
            self.dropped["idle, in a pause longer than filters.idle allows"] += int(idle.sum())
            chosen = chosen[~idle]
        return chosen

    def _episode(
        self, segment: Segment, ticks: NDArray[np.int64], seen: Sequence[Observation], actions: NDArray[np.float64]
    ) -> Episode:
        states = [observed.proprioception for observed in seen if observed.proprioception is not None]
        return Episode(
            images={camera: stack_frames([observed.images[camera] for observed in seen]) for camera in seen[0].images},
            proprioception=np.stack(states) if states else np.zeros((len(seen), 0), np.float32),
            actions=actions,
            command=seen[0].command,
            task=segment.task or seen[0].command,
            outcome=segment.outcome,
            source=f"{self._recording.path.name}#{segment.number}",
            start_ns=self._timing.grid.start_ns(int(ticks[0])),
            ticks=ticks,
            phrasings=segment.texts,
        )


def _label_topics(recording: Recording, robot: Robot, twists: Sequence[Stream]) -> list[str]:
    """Return the recording's topics from which segments and labels come, except for those read as tables."""
    wanted = [topics.EPISODE, topics.INTERVENTION, robot.language.topic, robot.gripper_command.topic]
    wanted += [stream.topic for stream in twists if stream.type != TWIST_STAMPED]
    pose = robot.ee_pose
    if pose is not None and pose.static_topic is not None and (robot.labels.arm == "motion" or _in_tool_frame(robot)):
        wanted += [pose.topic, pose.static_topic]
    if robot.gripper_state is not None and robot.labels.gripper == "state":
        wanted.append(robot.gripper_state.topic)
    return [found for topic in wanted if (found := _find(topic, recording)) is not None]


def _in_tool_frame(robot: Robot) -> bool:
    """Return whether twists may have to be rotated from the tool's frame into the base frame."""
    return bool(robot.tool_frames) or robot.demonstrated_twist.frame == "tool"


def _table_columns(
    recording: Recording, robot: Robot, spec: ObservationSpec, twists: Sequence[Stream]
) -> dict[str, Columns]:
    """Return which numbers of which of the recording's topics are read as tables."""
    streams = [robot.stream(name) for name in spec.streams if name != "language"]
    wanted = [(stream, columns_of(stream)) for stream in streams]
    if robot.labels.arm == "command":
        wanted += [(stream, twist_columns) for stream in twists]
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
    with contextlib.suppress(RobotError):  # an ambiguous name; reported where the topic is needed
        return match_topic(topic, recording.topics)
    return None


def _runs(ticks: NDArray[np.int64], commands: Sequence[str]) -> list[slice]:
    """Split frames (T,) where a tick is missing and where the command changes."""
    changes = [before != after for before, after in itertools.pairwise(commands)]
    cuts = np.flatnonzero((np.diff(ticks) != 1) | np.array(changes, bool)) + 1
    return [slice(*ends) for ends in itertools.pairwise([0, *cuts.tolist(), len(ticks)])]


@dataclasses.dataclass(frozen=True)
class Interventions:
    """Who moves the arm: at ascending receive times (S,), whether a person does from then on (S,).

    The guard says so on `intervention` (std_msgs/Bool, latched): true from the first twist of a takeover, false
    from the policy's next turn. A recording without such a message is a demonstrator's alone.
    """

    time_ns: NDArray[np.int64]
    by_hand: _Mask

    def frames(self, ticks: NDArray[np.int64], grid: Grid) -> _Mask:
        """Return for which ticks (T,) a person moved the arm during the whole period that begins there.

        Before the first message the policy moves it: a correction begins with a message.
        """
        start_ns, stop_ns = grid.start_ns(ticks), grid.start_ns(ticks + 1)
        at_start = np.append(self.by_hand, False)[np.searchsorted(self.time_ns, start_ns, side="right") - 1]
        handed_back_ns = self.time_ns[~self.by_hand]
        first, last = (np.searchsorted(handed_back_ns, time_ns) for time_ns in (start_ns + 1, stop_ns))
        return np.asarray(at_start & (first == last))

    def share(self, segment: Segment, grid: Grid) -> float:
        """Return the share of an episode's ticks in which a person moved the arm, 0 for an episode without a tick."""
        ticks = np.array(segment.ticks(grid), np.int64)
        return float(self.frames(ticks, grid).mean()) if len(ticks) else 0.0


def find_interventions(recording: Recording) -> Interventions | None:
    """Read who moved the arm; None if the recording was not made beside a policy."""
    if match_topic(topics.INTERVENTION, recording.topics) is None:
        return None
    name = recording.find({"intervention": (topics.INTERVENTION, INTERVENTION_TYPE)})["intervention"]
    said = sorted((receive_ns, bool(message.data)) for _, receive_ns, message in recording.messages([name]))
    return Interventions(np.array([time for time, _ in said], np.int64), np.array([hand for _, hand in said], bool))


def idle_frames(actions: NDArray[np.float64], ticks: NDArray[np.int64], grid: Grid, idle: Idle) -> _Mask:
    """Return which frames (T,) lie in a pause longer than `idle` allows; actions (T, 7), ticks (T,) ascending.

    A frame whose gripper opening differs from the frame before it is not part of a pause.
    """
    linear, angular = _speeds(actions)
    slow = (linear < idle.linear_mps) & (angular < idle.angular_radps)
    follows = np.diff(ticks, prepend=ticks[:1] - 1) == 1
    changed = np.diff(actions[:, 6], prepend=actions[:1, 6]) != 0
    still = slow & ~(changed & follows)
    # A run ends at a frame that is not still, or where ticks are missing.
    run = np.cumsum(~still | ~follows)
    lengths = np.bincount(run, weights=still, minlength=1 if len(run) else 0).astype(np.int64)
    return np.asarray(still & (grid.start_ns(lengths[run]) > idle.longer_than_s * 1e9))


def outlier_frames(actions: NDArray[np.float64], outliers: Outliers) -> _Mask:
    """Return which frames (T,) have an action (T, 7) faster than `outliers` allows."""
    linear, angular = _speeds(actions)
    return np.asarray((linear > outliers.linear_mps) | (angular > outliers.angular_radps))


def _speeds(actions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the linear and the angular speed (T,) of actions (T, 7)."""
    return np.linalg.norm(actions[:, :3], axis=1), np.linalg.norm(actions[:, 3:6], axis=1)
