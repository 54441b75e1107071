# SPDX-License-Identifier: Apache-2.0
"""Inconsistent episodes never get into training; every frame counts the same, and every history length occurs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.datasets.episode import Episode, chunk_frames, window_frames, windows


def fields(length: int = 3) -> dict[str, Any]:
    return {
        "images": {"static": np.zeros((length, 4, 4, 3), np.uint8)},
        "proprioception": np.zeros((length, 2), np.float32),
        "actions": np.zeros((length, 7)),
        "command": "push", "task": "push", "outcome": "success", "source": "bag#0", "start_ns": 0,
        "ticks": np.arange(length),
    }  # fmt: skip


def test_consistent_arrays_make_an_episode_of_their_length() -> None:
    assert len(Episode(**fields())) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": {"static": np.zeros((2, 4, 4, 3), np.uint8)}}, r"images\['static'\]"),
        ({"images": {"static": np.zeros((3, 4, 4, 3))}}, "float64"),
        ({"proprioception": np.zeros((3, 2))}, r"proprioception.*float64.*expected \(3, 2\) float32"),
        ({"actions": np.zeros((3, 6))}, r"actions.*\(3, 6\)"),
        ({"actions": np.full((3, 7), np.nan)}, "actions.*not finite"),
        ({"actions": np.full((3, 7), 1.5)}, "gripper opening"),
        ({"ticks": np.array([0, 1, 3])}, "ticks.*consecutive"),
        ({"outcome": "good"}, "outcome: got good"),
        (fields(0), "at least one tick"),
    ],
)
def test_inconsistent_arrays_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Episode(**{**fields(), **change})


LENGTHS = st.lists(st.integers(1, 12), max_size=4)


@given(LENGTHS, st.integers(1, 7))
def test_every_frame_is_in_exactly_as_many_windows_as_the_history_is_long(lengths: list[int], history: int) -> None:
    index = windows(lengths, history)
    for episode, length in enumerate(lengths):
        _, first, stop = index[index[:, 0] == episode].T
        frames, valid = window_frames(first, stop, history)
        assert np.bincount(frames[valid], minlength=length).tolist() == [history] * length


@given(LENGTHS, st.integers(1, 7))
def test_every_history_length_up_to_the_window_begins_at_the_first_frame(lengths: list[int], history: int) -> None:
    index = windows(lengths, history)
    assert len(index) == sum(length + history - 1 for length in lengths)
    for episode, length in enumerate(lengths):
        at_start = index[(index[:, 0] == episode) & (index[:, 1] == 0)]
        assert set(at_start[:, 2]) == set(range(1, min(length, history) + 1))


def test_window_is_placed_first_and_padded_with_its_last_frame() -> None:
    frames, valid = window_frames(np.array([0, 3]), np.array([2, 7]), history=4)
    assert frames.tolist() == [[0, 1, 1, 1], [3, 4, 5, 6]]
    assert valid.tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize(
    ("frame", "targets", "valid"),
    [(0, [0, 1, 2], [True, True, True]), (3, [3, 4, 4], [True, True, False]), (4, [4, 4, 4], [True, False, False])],
)
def test_chunk_ends_where_the_episode_ends(frame: int, targets: list[int], valid: list[bool]) -> None:
    frames, mask = chunk_frames(np.array(frame), 5, chunk=3)
    assert frames.tolist() == targets
    assert mask.tolist() == valid


def test_chunks_of_a_batch_of_windows_end_with_their_own_episodes() -> None:
    frames, valid = chunk_frames(np.array([[0, 1], [1, 1]]), np.array([[3], [2]]), chunk=2)
    assert frames.tolist() == [[[0, 1], [1, 2]], [[1, 1], [1, 1]]]
    assert valid.tolist() == [[[True, True], [True, True]], [[True, False], [True, False]]]


@pytest.mark.parametrize(("lengths", "history", "name"), [([3], 0, "history"), ([3, 0], 2, r"lengths\[1\]")])
def test_sizes_below_one_are_refused_by_name(lengths: list[int], history: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        windows(lengths, history)
