# SPDX-License-Identifier: Apache-2.0
"""Open-loop comparison with demonstrations."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ros import cli
from vla_ros.policy.checkpoint import save_checkpoint
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


def test_bags_are_decoded_into_a_store_and_read_from_it_the_next_time(config, episodes, tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data"
    bag = shutil.copytree(data / "bags" / "mcap_zstd_fast", tmp_path / "bag")
    save_checkpoint(tmp_path / "checkpoint", new_policy(config, episodes))
    command = ["replay", str(tmp_path / "checkpoint"), str(bag), "--robot", str(data / "robots" / "fixture.yaml")]
    figures = []
    for _ in range(2):
        assert cli.main([*command, "--store", str(tmp_path / "store"), "--json", str(tmp_path / "figures.json")]) == 0
        figures.append(json.loads((tmp_path / "figures.json").read_text()))
    (entry,) = (tmp_path / "store").iterdir()
    assert figures[0] == figures[1]
    assert figures[0]["frames"] == json.loads((entry / "manifest.json").read_text())["frames"]
    assert not (tmp_path / ".vla_store").exists()
