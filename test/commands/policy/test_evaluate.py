# SPDX-License-Identifier: Apache-2.0
"""`vla evaluate --ros`: the same table and report for a running policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_ros import cli
from vla_ros.commands.ros import ros_evaluation
from vla_ros.sim.tasks import TASKS


@pytest.fixture
def attached(monkeypatch) -> list[dict]:
    """Requests to a running policy; every second rollout succeeds."""
    asked: list[dict] = []

    def attach(namespace, rollouts, *, on_rollout, time_limit_s, ros_arguments):
        asked.append({"namespace": namespace, "rollouts": rollouts, "time_limit_s": time_limit_s})
        done = [(rollout, index % 2 == 0, 2.0) for index, rollout in enumerate(rollouts)]
        for one in done:
            on_rollout(*one)
        return ros_evaluation.RosEvaluation(
            done, {"total": 40, "missed": 1}, {"p50": 5.0, "p95": None, "count": 3}, 1.0
        )

    monkeypatch.setattr(ros_evaluation, "attach", attach)
    return asked


def test_a_running_policy_gets_the_same_scenes_commands_and_report(attached, tmp_path: Path, capsys) -> None:
    arguments = ["--tasks", "open_drawer", "--rollouts", "4", "--namespace", "left", "--max-time", "9"]
    assert cli.main(["evaluate", "--ros", *arguments, "--output", str(tmp_path)]) == 0
    (asked,) = attached
    assert (asked["namespace"], asked["time_limit_s"]) == ("left", 9.0)
    scenes = [(rollout.task, rollout.seed) for rollout in asked["rollouts"]]
    assert scenes == [("open_drawer", 50_000 + i) for i in range(4)]
    assert {rollout.command for rollout in asked["rollouts"]} <= set(TASKS["open_drawer"].held_out)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["total"]["successes"] == 2 and report["ticks"] == {"total": 40, "missed": 1}
    assert "open_drawer" in (tmp_path / "report.html").read_text() and "2/4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["some/checkpoint"], "a checkpoint cannot be combined with --ros"),
        (["--executors", "first_action"], "--executors cannot be combined with --ros"),
        (["--chains", "3"], "--chains cannot be combined with --ros"),
        (["--env", "libero"], "--ros uses the simulator node"),
    ],
)
def test_options_of_the_running_policy_are_refused(attached, capsys, arguments: list[str], message: str) -> None:
    assert cli.main(["evaluate", "--ros", *arguments]) == 2
    assert message in capsys.readouterr().err and not attached


def test_without_ros_a_checkpoint_is_required_and_a_namespace_refused(capsys) -> None:
    assert cli.main(["evaluate"]) == 2
    assert "the checkpoint folder is missing" in capsys.readouterr().err
    assert cli.main(["evaluate", "ckpt", "--namespace", "left"]) == 2
    assert "with --ros" in capsys.readouterr().err
