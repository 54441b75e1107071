# SPDX-License-Identifier: Apache-2.0
"""Pauses and impossible actions are found, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.datasets.bags.episodes.cutting import idle_frames, outlier_frames
from vla_ros.robot import Idle, Outliers

PERIOD_NS = 100_000_000
IDLE = Idle(linear_mps=0.001, angular_radps=0.01, longer_than_s=0.25)


def actions(speeds: str, gripper: str = "") -> np.ndarray:
    """One frame a letter: "m" moves, "t" turns, "." pauses; gripper "0" or "1", as before by default."""
    result = np.zeros((len(speeds), 7))
    result[:, 1] = [0.1 if letter == "m" else 0.0005 for letter in speeds]
    result[:, 4] = [0.2 if letter == "t" else 0.0 for letter in speeds]
    result[:, 6] = [float(letter) for letter in gripper] if gripper else 1.0
    return result


def found(speeds: str, gripper: str = "", ticks: list[int] | None = None) -> str:
    mask = idle_frames(actions(speeds, gripper), np.array(ticks or range(len(speeds))), PERIOD_NS, IDLE)
    return "".join("x" if drop else "." for drop in mask)


@pytest.mark.parametrize(
    ("speeds", "gripper", "expected"),
    [
        ("mm..mm", "", "......"),  # two frames are 0.2 s
        ("mm...mm", "", "..xxx.."),
        ("...mtm....", "", "xxx...xxxx"),
        ("m..t..m", "", "......."),  # it turns
        ("m......m", "11100000", "....xxx."),  # the gripper closes at the third frame of the pause
        ("", "", ""),
        ("...", "", "xxx"),
    ],
)
def test_pauses_that_are_longer_than_allowed_are_found(speeds: str, gripper: str, expected: str) -> None:
    assert found(speeds, gripper) == expected


def test_a_gap_ends_a_pause() -> None:
    assert found("....", ticks=[0, 1, 5, 6]) == "...."
    assert found("....", ticks=[0, 1, 2, 9]) == "xxx."


@settings(deadline=None)
@given(st.text("m.", max_size=30), st.integers(1, 6))
def test_every_pause_found_is_long_and_every_long_pause_is_found(speeds: str, frames: int) -> None:
    idle = Idle(0.001, 0.01, (frames - 0.5) * 0.1)
    mask = idle_frames(actions(speeds), np.arange(len(speeds)), PERIOD_NS, idle)
    expected = "".join(run if "m" in run or len(run) < frames else "x" * len(run) for run in _runs(speeds))
    assert "".join("x" if drop else letter for drop, letter in zip(mask, speeds, strict=True)) == expected


def _runs(text: str) -> list[str]:
    runs: list[str] = []
    for letter in text:
        if runs and runs[-1][0] == letter:
            runs[-1] += letter
        else:
            runs.append(letter)
    return runs


def test_actions_faster_than_allowed_are_found_by_their_norms() -> None:
    rows = np.zeros((4, 7))
    rows[1, :3], rows[2, :3], rows[3, 3:6] = 0.2, 0.4, 1.0  # norms 0.35, 0.69 m/s; 1.73 rad/s
    assert outlier_frames(rows, Outliers(0.5, 1.7)).tolist() == [False, False, True, True]
