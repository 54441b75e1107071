# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Trained on CALVIN at its own 30 Hz, a policy runs at 30 Hz, with a guard at a rate that is no multiple of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy", reason="needs rclpy")

from policy_bench import FakeRobot, policy_node, write_robot
from tiny_datasets import write_calvin
from tiny_training import make_recipe
from trajectory_msgs.msg import MultiDOFJointTrajectory

from vla_ros.grid import Grid
from vla_ros.nodes.common.qos import COMMAND_QOS
from vla_ros.nodes.policy import node as policy
from vla_ros.observations import messages
from vla_ros.train.config import TrainConfig
from vla_ros.train.fit import fit

CONTROL_HZ = 30.0
RUN_S = 2.0
PATIENCE_S = 40.0
UNCHECKED = ("arm_not_following", "pose_frozen", "pose_jump")  # the bench moves its arm at another rate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("calvin")
    relative, euler = np.tile([0.2, 0, 0, 0, 0, 0, 1], (120, 1)), np.zeros((120, 3))
    segments = [(30 * index, 30 * index + 29, "push the block", "push") for index in range(4)]
    split = write_calvin(folder / "training", segments, relative, euler)
    recipe = make_recipe(folder)
    recipe["contract"] |= {"control_hz": CONTROL_HZ, "chunk": 8}
    recipe["data"] = {"workers": 1, "validation_fraction": 0, "sources": [{"format": "calvin", "path": str(split)}]}
    return fit(TrainConfig.from_dict(recipe))


@pytest.fixture
def robot(ros_environment) -> Iterator[FakeRobot]:
    robot = FakeRobot(int(ros_environment["ROS_DOMAIN_ID"]))
    yield robot
    robot.close()


@pytest.mark.parametrize("command_hz", [100.0, 50.0])
def test_a_policy_at_30_hz_misses_no_tick(robot, checkpoint, ros_environment, tmp_path, command_hz) -> None:
    stamps_ns: list[int] = []
    robot.node.create_subscription(
        MultiDOFJointTrajectory, "plan", lambda message: stamps_ns.append(messages.stamp_ns(message)), COMMAND_QOS
    )
    robot_file = write_robot(tmp_path, command_hz=command_hz, unchecked=list(UNCHECKED))
    with policy_node(checkpoint, robot_file, ros_environment, script=Path(policy.__file__)):
        robot.wait_state("waiting", "no_command")
        robot.say("push the block")
        robot.wait(lambda: len(robot.twists) > 20, "motion")
        deadline_s = time.monotonic() + PATIENCE_S
        # A machine that is busy may make a run miss ticks; a grid that is wrong makes every run miss some.
        while True:
            missed, first = int(robot.states[-1]["ticks missed"]), len(stamps_ns)
            time.sleep(RUN_S)
            stamps = stamps_ns[first:]
            if int(robot.states[-1]["ticks missed"]) == missed and len(stamps) >= RUN_S * CONTROL_HZ - 3:
                break
            assert time.monotonic() < deadline_s, f"every run of {RUN_S:g} s missed ticks"
    grid = Grid(CONTROL_HZ)
    assert stamps == [grid.start_ns(grid.tick_at(stamp_ns)) for stamp_ns in stamps]
