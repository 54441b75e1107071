# SPDX-License-Identifier: Apache-2.0
"""The gripper's labels against its measured opening."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.datasets.agreement.gripper import compare_gripper
from vla_ros.datasets.agreement.tracks import Track


def names(labels: list[float], openings: list[float], each: int = 20) -> list[str]:
    """What is found at 10 Hz, if each value lasts `each` frames."""
    label, opening = np.repeat(labels, each), np.repeat(openings, each)
    track = Track(np.concatenate([np.zeros((len(label), 6)), label[:, None]], axis=1), None, None, opening)
    found = compare_gripper([track], 0.1)
    assert found is not None
    return [one.name for one in found.contradictions]


@pytest.mark.parametrize(
    ("labels", "openings", "found"),
    [
        ([1, 1, 1], [1.0, 0.28, 1.0], ["gripper never labelled"]),  # a thick object
        ([0, 0, 0], [0.0, 0.9, 0.9], ["gripper never labelled"]),
        ([1, 0, 1], [0.5, 0.5, 0.5], ["gripper never moves"]),
        ([1, 0, 1], [0.0, 1.0, 0.0], ["gripper polarity"]),
        ([1, 0, 1], [1.0, 0.3, 1.0], []),
        ([0, 0, 0], [1.0, 0.1, 0.1], []),  # closes as it was told before the recording
        ([1, 1, 1], [1.0, 0.9, 1.0], []),
        ([1, 1, 1], [0.0, 1.0, 1.0], []),
        ([0, 0, 0], [0.3, 0.3, 0.3], []),
    ],
)  # fmt: skip
def test_labels_and_openings_that_contradict_each_other_are_named(
    labels: list[float], openings: list[float], found: list[str]
) -> None:
    assert names(labels, openings) == found


def test_fingers_that_had_no_time_to_move_say_nothing() -> None:
    assert names([1, 0], [1.0, 1.0], each=8) == []


def test_an_episode_in_which_the_label_moves_is_enough() -> None:
    """Others may begin with the gripper closed and never open it."""
    made = [np.ones(40), np.repeat([1.0, 0.0], 20)]
    tracks = [Track(np.tile(one[:, None], (1, 7)), None, None, one) for one in made]
    found = compare_gripper(tracks, 0.1)
    assert found is not None and not found.contradictions and found.labelled == (0.0, 1.0)
    assert compare_gripper([Track(np.zeros((5, 7)), None, None, None)], 0.1) is None
