# SPDX-License-Identifier: Apache-2.0
"""`vla replay` on recorded bags: figures, exit status, report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_ros import cli
from vla_ros.commands.policy import replay
from vla_ros.contract import ContractError
from vla_ros.datasets.sources import Demonstrations
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.replay.diagnosis import Diagnosis
from vla_ros.evaluation.replay.mismatches import Finding
from vla_ros.evaluation.replay.open_loop import ReplayedEpisode, demonstrated_chunks, open_loop_errors
from vla_ros.evaluation.replay.open_loop import replay as replay_episode
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.policy.inference import PolicyRunner
from vla_ros.train.initial_policy import new_policy

NAMES = ("ee_x", "gripper_opening")


def perfect(episode, offset: float = 0.0) -> ReplayedEpisode:
    chunks, _ = demonstrated_chunks(episode.actions, 3)
    chunks = chunks.copy()
    chunks[..., 2] += offset
    return ReplayedEpisode(episode, chunks, np.full(len(episode), 5.0))


def test_errors_are_per_axis_in_physical_units(episodes) -> None:
    replayed = [perfect(episode, 0.03) for episode in episodes]
    for one in replayed:
        one.chunks[0, 0, 6] = 1 - one.chunks[0, 0, 6]
    figures = open_loop_errors(replayed)
    assert figures["axes"]["vz"]["error"] == pytest.approx(0.03)
    assert figures["axes"]["vx"]["error"] == 0
    assert figures["axes"]["vx"]["error_of_never_moving"] == pytest.approx(0.1, abs=0.01)
    assert figures["gripper_accuracy"] == pytest.approx(5 / 6)
    assert figures["gripper"]["open, predicted closed"] == len(episodes)
    assert figures["inference_ms"]["p50"] == 5.0


def test_errors_by_step_compare_with_later_actions(episodes) -> None:
    assert all(row["linear"] == 0 for row in open_loop_errors([perfect(episode) for episode in episodes])["horizon"])
    late = [dataclasses.replace(one, chunks=np.roll(one.chunks, 1, axis=1)) for one in map(perfect, episodes)]
    assert all(row["linear"] > 0 for row in open_loop_errors(late)["horizon"])


def test_a_mostly_open_gripper_counts_as_open(episodes) -> None:
    """As in training."""
    actions = episodes[0].actions.copy()
    actions[:, 6] = [0.875, 0, 0.875, 0, 0.875, 0]
    episode = dataclasses.replace(episodes[0], actions=actions)
    assert open_loop_errors([perfect(episode)])["gripper_accuracy"] == 1


def test_predictions_come_from_the_runner_frame_by_frame(config, episodes) -> None:
    runner = PolicyRunner(new_policy(config, episodes))
    first = replay_episode(runner, episodes[0], NAMES)
    assert first.chunks.shape == (6, 3, 7)
    again = replay_episode(runner, episodes[0], NAMES)
    np.testing.assert_array_equal(again.chunks, first.chunks)  # nothing is left of the last episode


def test_proprioception_is_selected_by_name(config, episodes) -> None:
    runner = PolicyRunner(new_policy(config, episodes))
    expected = replay_episode(runner, episodes[0], NAMES)
    state = np.flip(episodes[0].proprioception, axis=1)
    turned = dataclasses.replace(episodes[0], proprioception=np.ascontiguousarray(np.pad(state, ((0, 0), (1, 0)))))
    again = replay_episode(runner, turned, ("ee_y", *reversed(NAMES)))
    np.testing.assert_array_equal(again.chunks, expected.chunks)


@pytest.mark.parametrize("count", [1, 3, 6, 99])
def test_chosen_episodes_are_spread_over_the_tasks(episodes, count: int) -> None:
    chosen = replay.spread(episodes, count)
    assert len(chosen) == min(count, 6)
    if count >= 3:
        assert {episode.task for episode in chosen} == {episode.task for episode in episodes}


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    return replay.run(parser.parse_args(arguments))


@pytest.fixture
def without_bags(config, episodes, monkeypatch) -> list[Finding]:
    """The command on episodes in memory; the diagnosis finds what is in the list."""
    findings: list[Finding] = []
    spec = config.contract
    runner = PolicyRunner(new_policy(config, episodes))
    monkeypatch.setattr(replay, "load_policy_for_inference", lambda *_: runner)
    monkeypatch.setattr(replay, "find_bags", lambda _: [Path("bags/mine")])
    monkeypatch.setattr(replay, "recorded_spec", lambda *_: runner.contract.observation_spec)
    monkeypatch.setattr(replay, "load_source", lambda *_, **__: Demonstrations(episodes))
    monkeypatch.setattr(replay, "check_metadata", lambda *_: [])
    monkeypatch.setattr(replay, "diagnose", lambda *_: Diagnosis(tuple(findings), 0.3, 0.3))
    assert spec is not None
    return findings


def test_exit_status_and_report_show_the_findings(without_bags, tmp_path: Path, capsys) -> None:
    files = ["--json", str(tmp_path / "a" / "r.json"), "--html", str(tmp_path / "r.html")]
    assert _run(["ckpt", "bags/mine"]) == 0
    assert "no mismatch found" in capsys.readouterr().out
    without_bags.append(Finding("colour order", "static: BGR for RGB", 0.9, 0.3))
    assert _run(["ckpt", "bags/mine", *files]) == 1
    assert "mismatch, colour order: static: BGR for RGB" in capsys.readouterr().out
    report = json.loads((tmp_path / "a" / "r.json").read_text())
    assert report["diagnosis"]["findings"][0]["name"] == "colour order"
    html = (tmp_path / "r.html").read_text()
    assert "static: BGR for RGB" in html and html.count("data:image/png") == 1 + 6
    assert "http" not in html.replace("Content-Security-Policy", "").replace("http-equiv", "")


def test_no_episodes_are_refused(without_bags) -> None:
    with pytest.raises(EvaluationError, match="--episodes must be at least 1; got 0"):
        _run(["ckpt", "bags/mine", "--episodes", "0"])


def test_bags_are_decoded_into_a_store_and_read_from_it_the_next_time(config, episodes, tmp_path: Path) -> None:
    """The policy is untrained, so the exit status is 1."""
    data = Path(__file__).parents[2] / "data"
    bag = shutil.copytree(data / "bags" / "mcap_zstd_fast", tmp_path / "bag")
    save_checkpoint(tmp_path / "checkpoint", new_policy(config, episodes))
    command = ["replay", str(tmp_path / "checkpoint"), str(bag), "--robot", str(data / "robots" / "fixture.yaml")]
    figures = []
    for _ in range(2):
        assert cli.main([*command, "--store", str(tmp_path / "store"), "--json", str(tmp_path / "figures.json")]) == 1
        figures.append(json.loads((tmp_path / "figures.json").read_text()))
        del figures[-1]["inference_ms"]
    (entry,) = (tmp_path / "store").iterdir()
    assert figures[0] == figures[1]
    assert figures[0]["frames"] == json.loads((entry / "manifest.json").read_text())["frames"]
    assert not (tmp_path / ".vla_store").exists()


def test_bags_of_another_robot_than_the_checkpoint_s_are_refused_unless_told_otherwise(
    config, episodes, without_bags, monkeypatch, capsys
) -> None:
    named = dataclasses.replace(config, data=dataclasses.replace(config.data, bags=("bags",)))
    monkeypatch.setattr(replay, "load_policy_for_inference", lambda *_: PolicyRunner(new_policy(named, episodes)))
    with pytest.raises(ContractError, match=r"of robot 'tabletop', but robot is 'franka_servo'.*or pass --any-robot"):
        _run(["ckpt", "bags/mine", "--robot", "franka_servo"])
    assert _run(["ckpt", "bags/mine", "--robot", "franka_servo", "--any-robot"]) == 0
    assert "used anyway (--any-robot)" in capsys.readouterr().out
