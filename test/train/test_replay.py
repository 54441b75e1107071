# SPDX-License-Identifier: Apache-2.0
"""Open-loop comparison with demonstrations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vla_ros.policy.runner import PolicyRunner
from vla_ros.train.build import new_policy
from vla_ros.train.replay import compare, predict


def test_errors_are_per_axis_in_physical_units(episodes) -> None:
    predictions = [episode.actions.copy() for episode in episodes]
    for prediction in predictions:
        prediction[:, 2] += 0.03
        prediction[0, 6] = 1 - prediction[0, 6]
    figures = compare(episodes, predictions)
    assert figures["axes"]["vz"]["error"] == pytest.approx(0.03)
    assert figures["axes"]["vx"]["error"] == 0
    assert figures["axes"]["vx"]["error_of_never_moving"] == pytest.approx(0.1, abs=0.01)
    assert figures["gripper_accuracy"] == pytest.approx(5 / 6)


def test_a_gripper_told_to_open_most_of_the_way_is_open(episodes) -> None:
    """As training takes it."""
    actions = episodes[0].actions.copy()
    actions[:, 6] = [0.875, 0, 0.875, 0, 0.875, 0]
    episode = dataclasses.replace(episodes[0], actions=actions)
    assert compare([episode], [actions])["gripper_accuracy"] == 1


def test_predictions_come_from_the_runner_frame_by_frame(config, episodes) -> None:
    runner = PolicyRunner(new_policy(config, episodes))
    first = predict(runner, episodes[0])
    assert first.shape == (6, 7)
    np.testing.assert_array_equal(predict(runner, episodes[0]), first)  # nothing is left of the last episode
