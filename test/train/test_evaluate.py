# SPDX-License-Identifier: Apache-2.0
"""Counting rollouts."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from vla_ros.contract import Camera
from vla_ros.errors import UserError
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.sim.tasks import TASKS, TRAINED_TASKS
from vla_ros.train import evaluate
from vla_ros.train.build import new_policy
from vla_ros.train.config import ConfigError
from vla_ros.train.rollouts import Outcome, RolloutSettings, request_rollouts, run_rollouts, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_equals_published_values(successes, trials, low, high) -> None:
    """81 of 263: Newcombe 1998, table I, method 3."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-4)


def test_tasks_are_chosen_by_name_kind_and_set() -> None:
    assert evaluate.select_tasks(["trained"]) == list(TRAINED_TASKS)
    assert evaluate.select_tasks(["open_drawer", "pick_up", "pick_up_red"]) == [
        "pick_up_red", "pick_up_green", "pick_up_blue", "open_drawer",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"'pickup'; allowed: .*pick_up"):
        evaluate.select_tasks(["pickup"])


def test_requests_go_through_the_phrasings_on_new_scenes() -> None:
    requests = request_rollouts(["pick_up_red"], 4, 100)
    task = TASKS["pick_up_red"]
    assert [request.seed for request in requests] == [100, 101, 102, 103]
    assert {request.command for request in requests} == set(task.held_out)
    assert {r.command for r in request_rollouts(["pick_up_red"], 99, 0, phrasings="train")} == set(task.phrasings)


def test_a_swapped_colour_keeps_the_scene_and_asks_for_another_block() -> None:
    for request in request_rollouts(["pick_up_red"], 4, 0, swap_colour=True):
        assert request.task == "pick_up_red"
        assert request.judged in ("pick_up_green", "pick_up_blue")
        assert request.command in TASKS[request.judged].held_out


def test_an_override_is_said_and_the_task_still_counts() -> None:
    (request,) = request_rollouts(["pick_up_red"], 1, 0, command="open the drawer")
    assert (request.command, request.judged) == ("open the drawer", "pick_up_red")


def test_the_report_counts_by_task_and_writes_json(config, episodes, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(evaluate, "load_checkpoint", lambda _: new_policy(config, episodes))
    outcomes = [Outcome(True, 2.0, (1.0, 3.0), 20, 1), Outcome(False, 12.0, (2.0,), 120, 0)] * 2
    monkeypatch.setattr(evaluate, "run_rollouts", lambda *_: outcomes)
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    report_file = tmp_path / "out" / "report.json"
    arguments = ["ckpt", "--tasks", "open_drawer", "close_drawer", "--rollouts", "2", "--json", str(report_file)]
    assert evaluate.run(parser.parse_args(arguments)) == 0
    report = json.loads(report_file.read_text())
    assert report["tasks"]["open_drawer"]["successes"] == 1 and report["tasks"]["open_drawer"]["rollouts"] == 2
    assert report["success_rate"] == 0.5 and report["tasks"]["close_drawer"]["mean_time_s"] == 2.0
    assert report["ticks"] == {"total": 280, "missed": 2} and report["inference_ms"]["p50"] == 2.0
    assert "open_drawer" in capsys.readouterr().out


def test_rollouts_run_on_the_simulated_arm_and_are_reproducible(config, episodes, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", new_policy(config, episodes))
    settings = RolloutSettings(
        str(tmp_path / "checkpoint"), "tabletop", max_time_s=0.5, delay_ticks=1, blank=("wrist",)
    )
    first, again = run_rollouts(settings, request_rollouts(["open_drawer"], 1, 7) * 2, workers=1)
    assert first.ticks == 5 and not first.success
    assert (first.success, first.time_s, first.ticks) == (again.success, again.time_s, again.ticks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--robot", "tabeltop"], "tabeltop"),
        (["--rollouts", "0"], "--rollouts is 0; allowed: 1 or more"),
        (["--max-time", "nan"], "--max-time is nan"),
        (["--seed", "-1"], "--seed is -1"),
        (["--workers", "0"], "--workers is 0"),
        (["--blank", "static"], r"blacks out 'static'; the checkpoint sees wrist only"),
    ],
)
def test_what_would_stop_every_rollout_is_refused_before_the_first(
    config, episodes, monkeypatch, arguments: list[str], message: str
) -> None:
    contract = dataclasses.replace(config.contract, cameras=(Camera("wrist", 16, 16),))
    wrist = dataclasses.replace(config, contract=contract)
    monkeypatch.setattr(evaluate, "load_checkpoint", lambda _: new_policy(wrist, episodes))
    monkeypatch.setattr(evaluate, "run_rollouts", lambda *_: pytest.fail("it ran"))
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    with pytest.raises(UserError, match=message):
        evaluate.run(parser.parse_args(["ckpt", *arguments]))


def test_a_checkpoint_of_another_robot_s_cameras_is_refused(config, episodes, monkeypatch) -> None:
    contract = dataclasses.replace(config.contract, cameras=(Camera("head", 16, 16),))
    other = dataclasses.replace(config, contract=contract)
    monkeypatch.setattr(evaluate, "load_checkpoint", lambda _: new_policy(other, episodes))
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    with pytest.raises(ConfigError, match="sees the camera 'head'; the simulated arm has static, wrist"):
        evaluate.run(parser.parse_args(["ckpt"]))


def test_a_worker_that_cannot_start_says_why(config, episodes, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", new_policy(config, episodes))
    settings = RolloutSettings(str(tmp_path / "checkpoint"), "no_such_robot", max_time_s=0.5, delay_ticks=1)
    with pytest.raises(UserError, match="no_such_robot"):
        run_rollouts(settings, request_rollouts(["open_drawer"], 1, 7), workers=2)


def test_swapping_the_colour_of_a_drawer_is_refused(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    with pytest.raises(ConfigError, match="--tasks pick_up"):
        evaluate.run(parser.parse_args(["ckpt", "--tasks", "open_drawer", "--swap-colour"]))
