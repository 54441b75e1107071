# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""A recording takes the robot's place: what bag.launch.py starts, with a player of our own for `ros2 bag play`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("mujoco", reason="the bag is recorded on the simulated arm")

import bag_player
from geometry_msgs.msg import TwistStamped
from trajectory_msgs.msg import MultiDOFJointTrajectory

from vla_ros import bringup
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.recording import match_topic
from vla_ros.nodes.clients import wait_active
from vla_ros.robot import load_robot

ROBOT = load_robot("tabletop")


@pytest.fixture
def bag(make_graph, tmp_path):
    """One demonstration, recorded with its commands."""
    graph, folder = make_graph(), tmp_path / "bag"
    recording = bringup.recording(str(folder), ["pick_up_red"], 1, first_seed=0, perturbation=0.0)
    graph.start(bringup.recording_simulator(4.0), *recording)
    graph.wait(lambda: graph.group.ended("demonstrator"), "a demonstration")
    graph.group.stop("demonstrator", "recorder", "simulator")
    return folder


def test_a_policy_plans_on_a_bag_and_the_guard_previews_its_twists_in_a_namespace(
    bag, make_graph, ros_environment, tmp_path
):
    graph = make_graph()
    plans = graph.listen(MultiDOFJointTrajectory, "/left/plan")
    previews = graph.listen(TwistStamped, "/left/guard/preview")
    commands = [graph.listen(TwistStamped, topic) for topic in ("/twist_command", "/left/twist_command")]
    processes = bringup.policy(dry_run=True, arm_on_start=True, use_sim_time=True)
    graph.start(*(dataclasses.replace(process, namespace="left") for process in processes))
    wait = [sys.executable, "-m", wait_active.__name__, "/left/guard", "/left/policy"]
    assert subprocess.run(wait, env=ros_environment, timeout=60).returncode == 0

    with open_bag(bag) as recording:
        matches = {topic: match_topic(topic, recording.topics) for topic in bringup.played_topics(ROBOT)}
    found = {topic: name for topic, name in matches.items() if name is not None}
    qos = tmp_path / "qos.yaml"
    qos.write_text(yaml.safe_dump(bringup.bag_play_qos(ROBOT, found)))
    command = bringup.bag_play_command(
        str(bag), found, bringup.Names(("guard", "policy"), "left"), str(qos), clock_hz=200.0, loop=False
    )
    player = [sys.executable, bag_player.__file__, *command[1:]]
    assert subprocess.run(player, env=ros_environment, timeout=60).returncode == 0

    assert plans and any(abs(twist.twist.linear.x) > 0.001 for twist in previews)
    assert not any(commands)
