# SPDX-License-Identifier: Apache-2.0
"""Where the episodes of a recording are, and what says so.

The first available of: a table written by a person, markers of our recorder, the language command, and the bag's custom
data (`ros2 bag record --custom-data task='open the drawer'`: the whole bag is one episode).

The table, annotations.csv, has one row per episode, with times in seconds from the bag's first message. It is in the
bag's own folder or else in the folder that contains the bags. A bag without a row is read as it was recorded.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import functools
import io
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from vla_ros import topics
from vla_ros.datasets.bags.episodes.markers import EPISODE_TYPE, EpisodeMarker, parse_marker
from vla_ros.datasets.bags.recording import Recording, match_topic
from vla_ros.datasets.episode import OUTCOMES
from vla_ros.datasets.errors import BagError
from vla_ros.files import write_text
from vla_ros.grid import Grid
from vla_ros.observations import messages
from vla_ros.robot import Robot

logger = logging.getLogger(__name__)

TABLE = "annotations.csv"
COLUMNS = ("bag", "start", "end", "text", "keep", "outcome", "task")
_OPTIONAL = ("outcome", "task")
_KEEP = {"yes": True, "no": False, "": None}
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
TASK_KEY = "task"
# The outcome of the event that ends an episode.
_ENDINGS = {"success": "success", "failure": "failure", "discard": "discarded"}

Origin = Literal["annotations", "markers", "language", "custom_data", "nothing"]


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One row of the table."""

    bag: str  # name of the bag's folder or file
    start_s: float
    end_s: float
    text: str  # the command, or several phrasings separated by |
    keep: bool | None  # None: not decided yet; kept as soon as there is a text
    outcome: str = "unknown"
    task: str = ""
    where: str = ""  # file and line, for error messages


@dataclasses.dataclass(frozen=True)
class Segment:
    """One episode on the recording's clock: receive times in [start_ns, stop_ns).

    Attributes:
        outcome: "success", "failure", "unknown" (a recording without markers), "discarded", or "unfinished" (the
            recording ended, or the next episode began, before the end marker).
        texts: The command in one or several phrasings, unless the recording's language topic has it.
    """

    start_ns: int
    stop_ns: int
    number: int
    task: str
    outcome: str
    texts: tuple[str, ...] = ()

    def ticks(self, grid: Grid) -> range:
        """Return the ticks of the control grid whose whole period is in the segment: no label reaches beyond it."""
        return range(grid.first_from(self.start_ns), grid.tick_at(self.stop_ns))

    def usable(self, include_failures: bool) -> bool:
        """Return whether this is a demonstration: complete, not discarded, and a failure only on request."""
        return self.outcome in ("success", "unknown") or (include_failures and self.outcome == "failure")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The episodes of a recording, usable or not, and their origin; "nothing" says where episodes are."""

    segments: list[Segment]
    origin: Origin

    @property
    def commands(self) -> list[tuple[int, str]] | None:
        """(time, command) for each change of the command, or None if the recording's language topic has them."""
        if self.origin in ("markers", "language", "nothing"):
            return None
        changes = []
        for segment in sorted(self.segments, key=lambda segment: segment.start_ns):
            changes += [(segment.start_ns, segment.texts[0] if segment.texts else ""), (segment.stop_ns, "")]
        return changes


def find_segments(recording: Recording, robot: Robot, annotations: Sequence[Annotation] | None) -> Segmentation:
    """Find the episodes of a recording; `annotations` are its rows of the table, None if it has none.

    Raises:
        BagError: A row does not match the bag, a marker is malformed, or nothing says where episodes are.
    """
    if annotations is not None:
        rows = enumerate(annotations)
        return Segmentation([_annotated(recording, number, row) for number, row in rows], "annotations")
    end_ns = recording.end_ns + 1
    received = _received(recording, topics.EPISODE, EPISODE_TYPE)
    try:
        markers = [(time_ns, parse_marker(message.data)) for time_ns, message in received]
    except BagError as error:
        raise BagError(f"bag {recording.path}: {error}") from None
    if markers:
        # With markers, a missing language topic is a mistake rather than another kind of recording.
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
            f"bag {recording.path} does not say what was done in it: it has no topic {robot.language.topic!r}, no "
            f"marker on {topics.EPISODE!r} and no custom data {TASK_KEY!r}. Describe its episodes with `vla annotate "
            f"{recording.path}`, or correct `language` in the robot file. The bag contains {recording.contents()}"
        )
    return Segmentation([], "nothing")


def segments_from_markers(markers: Iterable[tuple[int, EpisodeMarker]], end_ns: int) -> list[Segment]:
    """Split a recording that ends at `end_ns` at its markers, given as (receive time, marker) in any order.

    An end without a start is what a latched topic repeats to a recorder that joined late: it ends nothing.
    """
    segments: list[Segment] = []
    running: tuple[int, EpisodeMarker] | None = None
    for time_ns, marker in sorted(markers, key=lambda entry: entry[0]):
        if running is not None:
            start_ns, start = running
            same = marker.event != "start" and marker.episode == start.episode
            outcome = _ENDINGS[marker.event] if same else "unfinished"
            segments.append(Segment(start_ns, time_ns, start.episode, start.task, outcome))
        running = (time_ns, marker) if marker.event == "start" else None
    if running is not None:
        segments.append(Segment(running[0], end_ns, running[1].episode, running[1].task, "unfinished"))
    return segments


def segments_from_commands(commands: Sequence[tuple[int, str]], end_ns: int) -> list[Segment]:
    """Split a recording without markers where its command, (receive time, text), changes; empty text is a pause.

    The command doubles as the task.
    """
    segments: list[Segment] = []
    running: tuple[int, str] | None = None
    for time_ns, text in [*sorted(commands, key=lambda entry: entry[0]), (end_ns, "")]:
        if running is not None and running[1] == text:
            continue
        if running is not None:
            segments.append(Segment(running[0], time_ns, len(segments), running[1], "unknown"))
        running = (time_ns, text) if text else None
    return segments


def spoken_commands(recording: Recording, robot: Robot) -> list[tuple[int, str]]:
    """Return (receive time, text) of the messages on the language topic; none if the recording lacks it."""
    language = robot.language
    return [(time_ns, messages.text(one)) for time_ns, one in _received(recording, language.topic, language.type)]


def phrasings(text: str) -> tuple[str, ...]:
    """Split "open the drawer | pull the drawer open" into its phrasings, without repeats."""
    return tuple(dict.fromkeys(part for part in map(str.strip, text.split("|")) if part))


def _annotated(recording: Recording, number: int, row: Annotation) -> Segment:
    start_ns = recording.start_ns + round(row.start_s * 1e9)
    stop_ns = min(recording.start_ns + round(row.end_s * 1e9), recording.end_ns + 1)
    if start_ns > recording.end_ns:
        length_s = (recording.end_ns - recording.start_ns) / 1e9
        raise BagError(f"{row.where}: start is {row.start_s:g} s, but bag {recording.path} lasts only {length_s:.2f} s")
    texts = phrasings(row.text)
    outcome = row.outcome if row.keep else "discarded"
    return Segment(start_ns, stop_ns, number, row.task or (texts[0] if texts else ""), outcome, texts)


def _received(recording: Recording, topic: str, kind: str) -> list[tuple[int, Any]]:
    """Return all messages of a topic with their receive times; none if the recording lacks it."""
    if match_topic(topic, recording.topics) is None:
        return []
    name = recording.find({topic: (topic, kind)})[topic]
    return [(receive_ns, message) for _, receive_ns, message in recording.messages([name])]


def annotation_file(bag: Path) -> Path | None:
    """Return the table for `bag`, or None."""
    folders = [bag, bag.parent] if bag.is_dir() else [bag.parent]
    return next((folder / TABLE for folder in folders if (folder / TABLE).is_file()), None)


def annotations_of(bag: Path) -> list[Annotation] | None:
    """Return the rows of `bag` in order of time, None if no table has any; BagError if the table is malformed."""
    table = annotation_file(bag)
    rows = [row for row in read_table(table) if row.bag == bag.name] if table is not None else []
    return sorted(rows, key=lambda row: row.start_s) or None


def read_table(path: Path) -> list[Annotation]:
    """Read a table as spreadsheets write it: separated by commas, semicolons or tabs, in UTF-8, UTF-16 or Windows-1252.

    Raises:
        BagError: It can't be read, a column is unknown or missing, a value is invalid, or episodes of a bag overlap.
    """
    status = path.stat()
    return list(_read_table(path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=8)  # every bag in a folder looks up the folder's table
def _read_table(path: Path, mtime_ns: int, size: int) -> tuple[Annotation, ...]:
    text = _decode(path)
    first = text.partition("\n")[0]
    delimiter = next((one for one in ";\t" if one in first), ",")
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise BagError(f"{path} is not a table of comma-separated values: {error}") from None
    if not lines:
        raise BagError(f"{path} is empty; its first line must be {','.join(COLUMNS)}; `vla annotate` writes it")
    header = [name.strip().lower() for name in lines[0]]
    required = [name for name in COLUMNS if name not in _OPTIONAL]
    if not {*required} <= {*header} <= {*COLUMNS} or len(set(header)) < len(header):
        raise BagError(
            f"{path} has the columns {', '.join(header)}; it must have {', '.join(required)}, and may have "
            f"{', '.join(_OPTIONAL)}"
        )
    rows = [
        _parse_row(dict(zip(header, line)), f"{path}, line {number}", len(line), len(header))
        for number, line in enumerate(lines[1:], start=2)
        if any(map(str.strip, line))
    ]
    last: dict[str, Annotation] = {}
    for row in sorted(rows, key=lambda row: (row.bag, row.start_s)):
        before = last.get(row.bag)
        if before is not None and row.start_s < before.end_s:
            raise BagError(f"{row.where}: the episode begins before that of {before.where} ends; shorten one of them")
        last[row.bag] = row
    return tuple(rows)


def _decode(path: Path) -> str:
    """Return a table's text; raise BagError if it can't be read or is in an unknown encoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BagError(f"{path} can't be read: {error}") from None
    encoding = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            try:
                text = data.decode("cp1252")
            except UnicodeDecodeError:
                pass
            else:
                logger.warning("%s is not UTF-8; reading it as Windows-1252. Save it as CSV UTF-8 to be sure", path)
                return text
        raise BagError(f"{path} is neither UTF-8, UTF-16 nor Windows-1252 ({error}); save it as CSV UTF-8") from None


def write_table(path: Path, rows: Iterable[Annotation]) -> None:
    """Write a table atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        keep = "" if row.keep is None else "yes" if row.keep else "no"
        writer.writerow([row.bag, f"{row.start_s:.3f}", f"{row.end_s:.3f}", row.text, keep, row.outcome, row.task])
    write_text(path, text.getvalue())


def _parse_row(values: dict[str, str], where: str, length: int, expected: int) -> Annotation:
    if length != expected:
        raise BagError(f"{where} has {length} values instead of {expected}; put texts that contain commas in quotes")
    values = {name: value.strip() for name, value in values.items()}
    start_s, end_s = _seconds(values["start"], f"{where}: start"), _seconds(values["end"], f"{where}: end")
    if not 0 <= start_s < end_s:
        raise BagError(f"{where}: start must be 0 or more, and end later; got {start_s:g} and {end_s:g}")
    if values["keep"].lower() not in _KEEP:
        raise BagError(f"{where}: keep must be yes or no, or empty (yes if there is a text); got {values['keep']!r}")
    keep = _KEEP[values["keep"].lower()]
    if keep is None and phrasings(values["text"]):
        keep = True
    if keep and not phrasings(values["text"]):
        raise BagError(f"{where}: text is empty; describe what was done, or write no under keep")
    outcome = values.get("outcome") or "unknown"
    if keep and outcome not in OUTCOMES:
        raise BagError(f"{where}: outcome must be one of {', '.join(OUTCOMES)}; got {outcome!r}")
    return Annotation(values["bag"], start_s, end_s, values["text"], keep, outcome, values.get("task", ""), where)


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BagError(f"{where} must be seconds from the bag's first message; got {text!r}")
    return value
