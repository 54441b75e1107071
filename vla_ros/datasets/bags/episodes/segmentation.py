# SPDX-License-Identifier: Apache-2.0
"""Where the episodes of a recording are, and who says so.

The first of these that there is: a table that a person wrote (`annotations`), markers of our recorder, the language
command, the bag's custom data (`ros2 bag record --custom-data task='open the drawer'`: the whole bag is one episode).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from vla_ros import topics
from vla_ros.datasets.bags.episodes.annotations import Row
from vla_ros.datasets.bags.episodes.markers import EPISODE_TYPE, EpisodeMarker, parse_marker
from vla_ros.datasets.bags.episodes.segments import Segment, phrasings, segments_from_commands, segments_from_markers
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.errors import BagError
from vla_ros.observations import messages
from vla_ros.robot import Robot, match_topic

TASK_KEY = "task"

Origin = Literal["annotations", "markers", "language", "custom_data", "nothing"]


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The episodes of a recording, usable or not.

    origin: what they come from; "nothing": nobody said where episodes are.
    """

    segments: list[Segment]
    origin: Origin

    @property
    def commands(self) -> list[tuple[int, str]] | None:
        """(time, command) for each change of it, or None where the recording's language topic says it."""
        if self.origin in ("markers", "language", "nothing"):
            return None
        changes = []
        for segment in sorted(self.segments, key=lambda segment: segment.start_ns):
            changes += [(segment.start_ns, segment.texts[0] if segment.texts else ""), (segment.stop_ns, "")]
        return changes


def find_segments(recording: Recording, robot: Robot, rows: Sequence[Row] | None) -> Segmentation:
    """Find the episodes of a recording; `rows` are those of a table about it, None where no table has any.

    Raises:
        BagError: a row does not fit the bag, a marker is malformed, or nothing says where episodes are.
    """
    if rows is not None:
        return Segmentation([_annotated(recording, number, row) for number, row in enumerate(rows)], "annotations")
    end_ns = recording.end_ns + 1
    marked = _received(recording, topics.EPISODE, EPISODE_TYPE)
    markers = [(time_ns, _marker(recording, message)) for time_ns, message in marked]
    if markers:
        # A robot without its language topic is a mistake of the recording, not another kind of recording.
        recording.find({"language": (robot.language.topic, robot.language.type)})
        return Segmentation(segments_from_markers(markers, end_ns), "markers")
    segments = segments_from_commands(spoken_commands(recording, robot), end_ns)
    if segments:
        return Segmentation(segments, "language")
    texts = phrasings(recording.custom_data.get(TASK_KEY, ""))
    if texts:
        whole = Segment(recording.start_ns, end_ns, 0, texts[0], "unknown", texts)
        return Segmentation([whole], "custom_data")
    if match_topic(robot.language.topic, recording.topics) is None:
        raise BagError(
            f"bag {recording.path} does not say what was done in it: there is no topic {robot.language.topic!r}, no "
            f"marker on {topics.EPISODE!r} and no custom data {TASK_KEY!r}. Write it into a table with `vla annotate "
            f"{recording.path}`, or correct `language` in the robot's file. The bag has: "
            + ", ".join(f"{name} ({topic.type})" for name, topic in sorted(recording.topics.items()))
        )
    return Segmentation([], "nothing")


def spoken_commands(recording: Recording, robot: Robot) -> list[tuple[int, str]]:
    """Return (receive time, text) of the language topic's messages; none where the recording lacks it."""
    received = _received(recording, robot.language.topic, robot.language.type)
    return [(time_ns, messages.text(message)) for time_ns, message in received]


def _annotated(recording: Recording, number: int, row: Row) -> Segment:
    """The segment of a row; its times count from the bag's first message."""
    start_ns = recording.start_ns + round(row.start_s * 1e9)
    stop_ns = min(recording.start_ns + round(row.end_s * 1e9), recording.end_ns + 1)
    if start_ns > recording.end_ns:
        length_s = (recording.end_ns - recording.start_ns) / 1e9
        raise BagError(f"{row.where}: start is {row.start_s:g} s, but bag {recording.path} has only {length_s:.2f} s")
    texts = phrasings(row.text)
    outcome = row.outcome if row.keep else "discarded"
    return Segment(start_ns, stop_ns, number, row.task or (texts[0] if texts else ""), outcome, texts)


def _received(recording: Recording, topic: str, kind: str) -> list[tuple[int, Any]]:
    """All messages of a topic with their receive times; none where the recording lacks it."""
    if match_topic(topic, recording.topics) is None:
        return []
    name = recording.find({topic: (topic, kind)})[topic]
    return [(receive_ns, message) for _, receive_ns, message in recording.messages([name])]


def _marker(recording: Recording, message: Any) -> EpisodeMarker:
    try:
        return parse_marker(message.data)
    except BagError as error:
        raise BagError(f"bag {recording.path}: {error}") from None
