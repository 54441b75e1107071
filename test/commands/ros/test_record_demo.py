# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""`vla record-demo`: simulator, recorder and demonstrator as processes, and the content of the bag."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from recordings import read_bag

from vla_ros.cli import main
from vla_ros.commands.ros.isolation import DOMAIN_VARIABLE
from vla_ros.commands.ros.record_demo import record
from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.errors import UserError
from vla_ros.observations.messages import twist
from vla_ros.robot import load_robot
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS

SPEC = ObservationSpec(
    (Camera("static", 128, 128), Camera("wrist", 128, 128)), ("ee_x", "ee_y", "ee_z", "gripper_opening")
)
EPISODES = 3
FIRST_SEED = 5


@pytest.fixture(scope="module")
def bag(tmp_path_factory, module_ros_environment):
    folder = tmp_path_factory.mktemp("bags") / "demonstrations"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROS_DOMAIN_ID", DOMAIN_VARIABLE):
            patch.setenv(name, module_ros_environment[name])
        bags = record(folder, ["close_drawer"], EPISODES, speed=10.0, perturbation=0.5, first_seed=FIRST_SEED)
    assert bags == [folder / "close_drawer"]
    return bags[0]


@pytest.fixture(scope="module")
def episodes(bag):
    return read_bag(bag, load_robot("tabletop"), SPEC, Timing(10.0, 4, 8))[0]


def test_every_demonstration_is_an_episode_that_ends_with_success(bag, episodes):
    assert [episode.outcome for episode in episodes] == ["success"] * EPISODES
    assert all(episode.command in TASKS["close_drawer"].phrasings for episode in episodes)
    _, report = read_bag(bag, load_robot("tabletop"), SPEC, Timing(10.0, 4, 8))
    assert set(report.dropped) <= {"before the first twist command", "episode discarded"}


def test_an_episode_starts_moving_and_ends_at_rest(episodes):
    for episode in episodes:
        assert np.abs(episode.actions[0, :6]).max() > 0.05
        assert np.abs(episode.actions[-1, :6]).max() < 0.05


def test_the_label_is_the_experts_action_not_the_executed_one(bag, episodes):
    with open_bag(bag) as recording:
        by_topic = {"/twist_command": {}, "/demonstrated_twist": {}}
        for topic, _, message in recording.messages(list(by_topic)):
            by_topic[topic][(message.header.stamp.sec, message.header.stamp.nanosec)] = twist(message)
    meant, executed = by_topic["/demonstrated_twist"], by_topic["/twist_command"]
    assert set(meant) <= set(executed)
    strayed = [np.linalg.norm((executed[stamp] - meant[stamp])[:3]) for stamp in meant]
    assert np.max(strayed) > 0.05
    labels = np.concatenate([episode.actions[:, :6] for episode in episodes])
    every_meant = np.array(list(meant.values()))
    nearest = [np.abs(every_meant - label).max(axis=1).min() for label in labels]
    assert np.quantile(nearest, 0.9) < 1e-6  # one twist fills one control period


def test_seeds_give_the_same_scenes_as_in_process(bag, episodes):
    """The expert's action in the first state of a seed is the first label of its episode."""
    log = bag.parent.with_name(bag.parent.name + ".logs") / "demonstrator.log"
    seeds = [json.loads(line)["seed"] for line in log.read_text().splitlines() if line.startswith("{")]
    env = TabletopEnv(render=False)
    for seed, episode in zip(seeds, episodes, strict=True):
        env.reset(seed=seed, options={"task": "close_drawer"})
        label = Expert(TASKS["close_drawer"]).act(env.state())
        np.testing.assert_allclose(episode.actions[0, :6], label[:6], atol=0.02)


def test_a_finished_bag_is_kept(bag, capsys):
    before = (bag / "metadata.yaml").stat().st_mtime_ns
    record(bag.parent, ["close_drawer"], EPISODES, first_seed=FIRST_SEED)
    assert (bag / "metadata.yaml").stat().st_mtime_ns == before
    assert "close_drawer: already recorded" in capsys.readouterr().out


def test_evaluation_seeds_are_refused(tmp_path):
    with pytest.raises(UserError, match="10000"):
        record(tmp_path / "bags", ["close_drawer"], 10, first_seed=9_995)


def test_a_namespace_and_remapped_topics_are_recorded_as_such(ros_environment, tmp_path, monkeypatch):
    for name in ("ROS_DOMAIN_ID", DOMAIN_VARIABLE):
        monkeypatch.setenv(name, ros_environment[name])
    arguments = ["--task", "close_drawer", "--episodes", "1", "--output", str(tmp_path / "bags")]
    assert main(["record-demo", *arguments, "--namespace", "left", "--ros-args", "-r", "ee_pose:=tool_pose"]) == 0
    with open_bag(tmp_path / "bags" / "close_drawer") as recording:
        assert {"/left/tool_pose", "/left/twist_command", "/left/episode"} <= set(recording.topics)
        assert all(topic.startswith("/left/") for topic in recording.topics)
