# SPDX-License-Identifier: Apache-2.0
"""Which rollouts `vla demo` and `vla loop` run, and their statistics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vla_ros.cli import main
from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.record_demo import FIRST_EVALUATION_SEED
from vla_ros.commands.ros.rollout_video import RolloutVideo
from vla_ros.commands.ros.ros_evaluation import ScheduledRollout
from vla_ros.errors import UserError
from vla_ros.imaging import images
from vla_ros.sim.tasks import TASKS, TRAINED_TASKS


def test_rollouts_use_scenes_and_phrasings_of_no_demonstration():
    rollouts = ros_evaluation.schedule(["all"], 3, "held-out")
    assert [rollout.task for rollout in rollouts[::3]] == list(TRAINED_TASKS)
    for rollout in rollouts:
        assert rollout.command in TASKS[rollout.task].held_out
        assert rollout.command not in TASKS[rollout.task].phrasings
        assert rollout.seed >= FIRST_EVALUATION_SEED
    assert len({(rollout.task, rollout.seed) for rollout in rollouts}) == len(rollouts)


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="unknown task 'juggle'; must be all, or any of pick_up_red"):
        ros_evaluation.schedule(["juggle"], 1, "train")


def test_results_count_successes_and_their_mean_time():
    rollouts = [(ScheduledRollout("open_drawer", seed, "open it"), seed != 2, 2.0 + seed) for seed in range(3)]
    rollouts.append((ScheduledRollout("pick_up_red", 0, "lift it"), False, 15.0))
    result = ros_evaluation.RosEvaluation(rollouts, {"total": 100, "missed": 1}, {"p50": 5.0, "p95": 9.0}, 61.23)
    assert result.to_dict() == {
        "tasks": {
            "open_drawer": {"successes": 2, "rollouts": 3, "mean_time_s": 2.5},
            "pick_up_red": {"successes": 0, "rollouts": 1, "mean_time_s": None},
        },
        "success_rate": 0.5,
        "ticks": {"total": 100, "missed": 1},
        "inference_ms": {"p50": 5.0, "p95": 9.0},
        "wall_s": 61.2,
    }


def test_the_video_and_the_contact_sheet_show_both_cameras(tmp_path):
    video = RolloutVideo(tmp_path)
    frames = [
        {name: images.encode_jpeg(np.full((32, 32, 3), level, np.uint8)) for name in ("static", "wrist")}
        for level in (10, 100, 200)
    ]
    video.add("open_drawer", "open the drawer", True, 3.2, frames)
    video.add("pick_up_red", "lift the red block", False, 15.0, frames)
    video.close()
    sheet = cv2.imread(str(video.sheet))
    assert sheet is not None and sheet.shape[1] == 6 * 128 and sheet.shape[0] > 2 * 128
    capture = cv2.VideoCapture(str(video.video))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) >= 6
    capture.release()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--rollouts", "0"], "--rollouts must be at least 1; got 0"),
        (["demo", "--view"], "DISPLAY is not set"),
        (["demo", "--attach", "--checkpoint", "mine"], "omit either --checkpoint or --attach"),
        (["loop", "--task", "juggle"], "--task must be one of pick_up_red"),
        (["record-demo", "--task", "juggle", "--output", "bags"], "unknown task 'juggle'"),
        (["record-demo", "--episodes", "0", "--output", "bags"], "--episodes must be at least 1; got 0"),
        (["record-demo", "--speed", "0", "--output", "bags"], "--speed must be between 0.1 and 100; got 0"),
        (
            ["record-demo", "--perturbation", "nan", "--output", "bags"],
            "--perturbation must be between 0 and 2; got nan",
        ),
        (["record-demo", "--first-seed", "-1", "--output", "bags"], "--first-seed must be at least 0; got -1"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "loop":
        arguments = [*arguments, "--checkpoint", str(tmp_path)]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Client:
    """A guard that reports these states in turn, then the last one forever."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    def policy_state(self) -> dict[str, str]:
        return {"state": "active"}

    def guard_state(self) -> dict[str, str]:
        return {"state": self.states.pop(0) if len(self.states) > 1 else self.states[0]}


def test_a_policy_that_stays_disarmed_is_an_error_with_the_way_out(monkeypatch):
    monkeypatch.setattr(ros_evaluation, "DISARMED_AFTER_S", 0.1)
    with pytest.raises(UserError, match=r'ros2 service call /arm1/guard/arm std_srvs/srv/SetBool "\{data: true\}"'):
        ros_evaluation.wait_for_policy(Client("disarmed"), "arm1", lambda: None)


def test_a_policy_may_be_disarmed_until_its_first_tick():
    client = Client("inactive", "disarmed", "waiting")
    ros_evaluation.wait_for_policy(client, "", lambda: None)
    assert client.states == ["waiting"]


def test_a_run_removes_the_results_of_an_earlier_one(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise UserError("the policy is gone")

    monkeypatch.setattr(ros_evaluation, "run", fail)
    (tmp_path / "results.json").write_text("{}")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert not (tmp_path / "results.json").exists()
