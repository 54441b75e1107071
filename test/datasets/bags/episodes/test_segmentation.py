# SPDX-License-Identifier: Apache-2.0
"""Where episodes are in a recording, and which of them are demonstrations."""

from __future__ import annotations

import pytest

from vla_ros.datasets.bags.episodes.markers import EpisodeMarker
from vla_ros.datasets.bags.episodes.segmentation import Segment, segments_from_commands, segments_from_markers
from vla_ros.grid import Grid


def marker(event: str, episode: int) -> EpisodeMarker:
    return EpisodeMarker(event, episode, f"task {episode}", "command")


def outcomes(*events: tuple[int, str, int]) -> list[tuple[int, int, int, str]]:
    segments = segments_from_markers([(time_ns, marker(event, episode)) for time_ns, event, episode in events], 1000)
    return [(segment.start_ns, segment.stop_ns, segment.number, segment.outcome) for segment in segments]


def test_episodes_lie_between_their_markers() -> None:
    found = outcomes(
        (10, "start", 0), (20, "success", 0), (30, "start", 1), (40, "failure", 1), (50, "start", 2), (60, "discard", 2)
    )
    assert found == [(10, 20, 0, "success"), (30, 40, 1, "failure"), (50, 60, 2, "discarded")]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(10, "start", 0)], [(10, 1000, 0, "unfinished")]),
        ([(10, "start", 0), (30, "start", 1), (40, "success", 1)], [(10, 30, 0, "unfinished"), (30, 40, 1, "success")]),
        ([(10, "start", 0), (30, "success", 1)], [(10, 30, 0, "unfinished")]),
    ],
)
def test_an_episode_without_an_end_is_unfinished(events: list, expected: list) -> None:
    assert outcomes(*events) == expected


def test_a_latched_end_of_an_earlier_episode_ends_nothing() -> None:
    assert outcomes((5, "success", 7), (10, "start", 8), (20, "success", 8)) == [(10, 20, 8, "success")]


def test_without_markers_each_command_is_an_episode_of_unknown_outcome() -> None:
    segments = segments_from_commands([(10, "push"), (20, "push"), (30, "pull"), (40, ""), (60, "pull")], 100)
    assert [(segment.start_ns, segment.stop_ns, segment.task) for segment in segments] == [
        (10, 30, "push"), (30, 40, "pull"), (60, 100, "pull"),
    ]  # fmt: skip
    assert {segment.outcome for segment in segments} == {"unknown"}


@pytest.mark.parametrize(
    ("outcome", "normally", "with_failures"),
    [
        ("success", True, True),
        ("unknown", True, True),
        ("failure", False, True),
        ("discarded", False, False),
        ("unfinished", False, False),
    ],
)
def test_only_demonstrations_are_used(outcome: str, normally: bool, with_failures: bool) -> None:
    segment = Segment(0, 1, 0, "", outcome)
    assert segment.usable(include_failures=False) == normally
    assert segment.usable(include_failures=True) == with_failures


@pytest.mark.parametrize(
    ("start_ns", "stop_ns", "ticks"), [(100, 300, [1, 2]), (101, 300, [2]), (100, 299, [1]), (101, 199, [])]
)
def test_ticks_of_a_segment_have_their_whole_period_in_it(start_ns: int, stop_ns: int, ticks: list[int]) -> None:
    assert list(Segment(start_ns, stop_ns, 0, "", "success").ticks(Grid(10_000_000))) == ticks
