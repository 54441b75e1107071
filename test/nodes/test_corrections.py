# SPDX-License-Identifier: Apache-2.0
"""The whole way of a correction: the real policy node and the real recorder over DDS, a hand that takes over, a fit."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from policy_bench import CONTROL_HZ, TIMEOUT_S, FakeRobot, contract, policy_node, write_checkpoint, write_robot

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from recordings import read_bag  # noqa: E402

from vla_ros.policy.checkpoint import load_checkpoint  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.train.config import TrainConfig  # noqa: E402
from vla_ros.train.fit import fit  # noqa: E402

POLICY_MPS, HAND_MPS = 0.05, -0.1


@contextlib.contextmanager
def recorder(bag: Path, robot_file: Path, environment: dict) -> Iterator[None]:
    arguments = ["--ros-args", "-p", f"output:={bag}", "-p", f"robot:={robot_file}"]
    process = subprocess.Popen([sys.executable, "-m", "vla_ros.nodes.recorder.node", *arguments], env=environment)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)


def trigger(robot: FakeRobot, name: str) -> None:
    """Call a service of the recorder until it does what it is told."""
    from std_srvs.srv import Trigger

    client = robot.node.create_client(Trigger, f"recorder/{name}")
    robot.wait_value(lambda: robot.call(client, Trigger.Request()).success, name)


def take_over(robot: FakeRobot, duration_s: float) -> None:
    from geometry_msgs.msg import TwistStamped

    hand = robot.node.create_publisher(TwistStamped, "takeover_twist", 1)
    message = TwistStamped()
    message.twist.linear.x = HAND_MPS
    timer = robot.node.create_timer(0.02, lambda: hand.publish(message))
    robot.wait(lambda: robot.twists[-1].linear_x == HAND_MPS, "the hand's twist")
    until_s = time.monotonic() + duration_s
    robot.wait(lambda: time.monotonic() > until_s, "twists of the hand")
    message.twist.linear.x = 0.0  # hands back; without it the operator would be lost
    robot.wait(lambda: robot.twists[-1].linear_x == 0.0, "a zero twist of the hand")
    timer.cancel()
    hand.publish(TwistStamped())  # a hand-back, not a lost link
    robot.wait_moving(POLICY_MPS)
    robot.destroy_publisher(hand)


def test_what_a_hand_did_beside_a_policy_is_recorded_and_trained_on(ros_environment, tmp_path: Path) -> None:
    twist = {"type": "geometry_msgs/msg/TwistStamped", "stamp": "header"}
    robot_file = write_robot(tmp_path, demonstrated_twist={"topic": "demonstrated_twist", **twist})
    robot, bag = FakeRobot(int(ros_environment["ROS_DOMAIN_ID"])), tmp_path / "bags" / "corrected"
    try:
        with (
            recorder(bag, robot_file, ros_environment),
            policy_node(write_checkpoint(tmp_path), robot_file, ros_environment),
        ):
            robot.ready()
            robot.say(f"move {POLICY_MPS}")
            robot.wait_moving(POLICY_MPS)
            trigger(robot, "start")
            driven = len(robot.twists) + CONTROL_HZ / 2
            robot.wait(lambda: len(robot.twists) >= driven, "twists of the policy")
            take_over(robot, duration_s=1.0)
            trigger(robot, "success")
    finally:
        robot.close()
    spec, timing = contract().observation_spec, contract().timing
    episodes, report = read_bag(bag, load_robot(str(robot_file)), spec, timing)
    learned = np.concatenate([episode.actions for episode in episodes])
    moved = np.isclose(learned[:, 0], HAND_MPS, atol=0.01)
    held = int(moved.sum())  # then the hand lets go, with zero twists
    assert held >= CONTROL_HZ / 2 and moved[:held].all()
    assert (learned[held:, 0] > HAND_MPS).all() and (learned[held:, 0] < 0.01).all()
    assert dict(report.dropped)["moved by the policy"] > 0
    both, _ = read_bag(bag, load_robot(str(robot_file)), spec, timing, policy_frames="imitate")
    speeds = np.concatenate([episode.actions[:, 0] for episode in both])
    for done_mps in (HAND_MPS, POLICY_MPS):
        assert np.isclose(speeds, done_mps, atol=0.005).sum() >= 3
    assert load_checkpoint(fit(recipe(bag.parent, robot_file, tmp_path))).contract.action.low[0] < 0


def recipe(bags: Path, robot_file: Path, folder: Path) -> TrainConfig:
    return TrainConfig.from_dict({
        "name": "corrections",
        "output": str(folder / "runs"),
        "data": {"bags": [str(bags)], "robot": str(robot_file), "workers": 1, "validation_fraction": 0.0},
        "contract": {
            "cameras": [{"name": name, "height": 16, "width": 16} for name in ("static", "wrist")],
            "proprioception": ["ee_x", "gripper_opening"], "control_hz": CONTROL_HZ, "history": 2, "chunk": 3,
            "vocabulary_size": 400,
        },
        "policy": {
            "compact": {"channels": [8, 8, 8, 8], "keypoints": 8, "text_size": 16, "feature_size": 32},
            "lstm": {"hidden_size": 16, "mlp_size": 32},
        },
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 2},
        "trainer": {"max_steps": 3, "batch_windows": 4, "validate_every_steps": 3, "accelerator": "cpu"},
    })  # fmt: skip
