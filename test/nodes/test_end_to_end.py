# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The whole way, short: record three episodes, train twenty steps, and the policy moves the simulated arm over DDS."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import PoseStamped, TwistStamped

from vla_ros import resources
from vla_ros.cli import main
from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.record_demo import record
from vla_ros.observations import messages

EPISODES = 3
STEPS = 20


@pytest.fixture(scope="module")
def checkpoint(domain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    record(folder / "bags", ["pick_up_red"], EPISODES, speed=10.0)
    overrides = {"trainer.max_steps": STEPS, "trainer.threads": 1, "data.workers": 1, "data.validation_fraction": 0}
    # Twenty steps that count: the recipe's warm-up and averaging are made for thousands.
    overrides |= {"optimizer.warmup_steps": 1, "trainer.ema_decay": 0.5}
    command = ["fit", str(resources.path("config/train/tabletop.json")), "--bags", str(folder / "bags")]
    for key, value in overrides.items():
        command += ["--set", f"{key}={value}"]
    assert main([*command, "--output", str(folder), "--name", "tiny"]) == 0
    return folder / "tiny" / "checkpoint"


def test_a_recorded_and_trained_policy_moves_the_simulated_arm(checkpoint, make_module_graph, tmp_path, monkeypatch):
    graph = make_module_graph()
    poses, twists = graph.listen(PoseStamped, "ee_pose"), graph.listen(TwistStamped, "twist_command")
    # Twists have a depth of 1, and this process writes the video as well as listening: it may hear every other one.
    monkeypatch.setattr(ros_evaluation, "TIME_LIMIT_S", 6.0)
    arguments = ["--checkpoint", str(checkpoint), "--tasks", "pick_up_red", "--rollouts", "1"]
    assert main(["demo", *arguments, "--output", str(tmp_path)]) == 0

    assert len(twists) > 15 and all(twist.header.frame_id == "base_link" for twist in twists)
    path = np.array([messages.pose(pose)[:3] for pose in poses[-180:]])
    assert np.linalg.norm(path.max(axis=0) - path.min(axis=0)) > 0.005
    assert np.abs(messages.twist(twists[-1])).max() == 0.0  # it ends standing still
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"tasks", "success_rate", "ticks", "inference_ms", "wall_s"}
    assert results["tasks"]["pick_up_red"]["rollouts"] == 1
    assert results["ticks"]["total"] > 15 and results["inference_ms"]["p50"] > 0
    assert (tmp_path / "demo.mp4").stat().st_size > 1000
    assert (tmp_path / "contact_sheet.png").stat().st_size > 1000


def test_an_invalid_checkpoint_is_an_error(domain, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = ["--checkpoint", str(tmp_path / "empty"), "--rollouts", "1", "--output", str(tmp_path / "out")]
    assert main(["demo", *arguments]) == 2
    assert "contract.json" in capsys.readouterr().err
