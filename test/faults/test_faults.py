# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Every fault that we can think of, and how soon the arm stands still. docs/safety.md shows the table."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from faults import FAULTS, OBSERVATION, Fault, measure
from node_faults import NODE_FAULTS
from policy_bench import FakeRobot, policy_node, write_checkpoint, write_robot
from system_faults import SYSTEM_FAULTS

SCENARIOS = {**NODE_FAULTS, **SYSTEM_FAULTS}


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[FakeRobot, tuple[int, int]]]:
    """The robot, and the process ids of policy and guard."""
    folder = tmp_path_factory.mktemp("faults")
    robot = FakeRobot(int(os.environ["ROS_DOMAIN_ID"]))
    try:
        files = write_checkpoint(folder), write_robot(folder, observation=OBSERVATION)
        with policy_node(*files, dict(os.environ)) as process:
            robot.wait_state("waiting", "no_command")
            yield robot, (process.pid, process.guard.pid)
    finally:
        robot.close()


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_the_arm_stops_in_time_and_moves_again_only_on_a_new_plan(
    running: tuple[FakeRobot, tuple[int, int]], fault: Fault
):
    robot, pids = running
    measured = measure(robot, fault, pids)
    assert measured.held, measured


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_ends_a_node_or_confuses_it_the_arm_stands_still_in_time(name, ros_environment, tmp_path):
    for measured in SCENARIOS[name](tmp_path, ros_environment):
        assert measured.held, measured
