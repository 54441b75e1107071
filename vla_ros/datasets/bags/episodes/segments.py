# SPDX-License-Identifier: Apache-2.0
"""Which stretches of a recording are episodes, and how each went."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from vla_ros.datasets.bags.episodes.markers import EpisodeMarker

# How the event that ends an episode is called as an outcome.
_ENDINGS = {"success": "success", "failure": "failure", "discard": "discarded"}


@dataclasses.dataclass(frozen=True)
class Segment:
    """One episode on the recording's clock: receive times in [start_ns, stop_ns).

    outcome: "success", "failure", "unknown" (a recording without markers), "discarded", or "unfinished" (the recording
    ended, or the next episode began, before the end marker).
    texts: the command, in one phrasing or several, where it is not the recording's language topic that says it.
    """

    start_ns: int
    stop_ns: int
    number: int
    task: str
    outcome: str
    texts: tuple[str, ...] = ()

    def ticks(self, period_ns: int) -> range:
        """Ticks of the control grid whose whole period lies in the segment, so that no label reaches beyond it."""
        return range(-(-self.start_ns // period_ns), self.stop_ns // period_ns)


def segments_from_markers(markers: Iterable[tuple[int, EpisodeMarker]], end_ns: int) -> list[Segment]:
    """Cut a recording that ends at `end_ns` at its markers, given as (receive time, marker) in any order.

    An ending without a start is what a latched topic repeats to a recorder that joined late: it ends nothing.
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
    """Cut a recording without markers where its language command, (receive time, text), changes; empty text is a pause.

    The command is the task, since nothing else is known.
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


def phrasings(text: str) -> tuple[str, ...]:
    """Split "open the drawer | pull the drawer open" into the ways to say it, without repeats."""
    return tuple(dict.fromkeys(part for part in map(str.strip, text.split("|")) if part))


def usable(segment: Segment, include_failures: bool) -> bool:
    """Whether the segment is a demonstration: not discarded, not unfinished, and a failure only on request."""
    return segment.outcome in ("success", "unknown") or (include_failures and segment.outcome == "failure")
