# SPDX-License-Identifier: Apache-2.0
"""The cameras of a bag against a contract."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from reading_policy import contract_of

from vla_ros.commands.policy.replay import recorded_spec
from vla_ros.contract import PolicyContract
from vla_ros.datasets.errors import BagError
from vla_ros.evaluation.replay.metadata_checks import check_metadata
from vla_ros.robot import Robot, load_robot

DATA = Path(__file__).parents[2] / "data"
BAG = DATA / "bags" / "mcap_zstd_fast"


@pytest.fixture
def robot() -> Robot:
    return load_robot(DATA / "robots" / "fixture.yaml")


def at(contract: PolicyContract, control_hz: float, pixels: int) -> PolicyContract:
    cameras = tuple(dataclasses.replace(camera, height=pixels, width=pixels) for camera in contract.cameras)
    timing = dataclasses.replace(contract.timing, control_hz=control_hz, settle_s=0.005)
    return dataclasses.replace(contract, cameras=cameras, timing=timing)


def test_cameras_that_are_large_and_fast_enough_are_not_mentioned(robot: Robot) -> None:
    assert not check_metadata(BAG, robot, at(contract_of(), 10.0, 8))


def test_cameras_that_are_too_small_or_too_slow_are_named(robot: Robot) -> None:
    found = check_metadata(BAG, robot, at(contract_of(), 50.0, 2000))
    assert [one.name for one in found] == ["control rate", "resolution"] * 2
    assert "camera static" in found[0].detail and "but the policy at 50 Hz" in found[0].detail
    assert "the policy sees 2000 x 2000" in found[3].detail and "camera wrist" in found[3].detail


def test_a_missing_bag_is_refused(robot: Robot, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="none"):
        check_metadata(tmp_path / "none", robot, contract_of())


def test_the_pose_is_read_if_every_bag_has_it(robot: Robot) -> None:
    blind = dataclasses.replace(contract_of(), proprioception=None)
    assert recorded_spec(blind, robot, [BAG]).proprioception == (
        "ee_x", "ee_y", "ee_z", "ee_r0", "ee_r1", "ee_r2", "ee_r3", "ee_r4", "ee_r5",
    )  # fmt: skip
    elsewhere = dataclasses.replace(robot, ee_pose=dataclasses.replace(robot.ee_pose, topic="no/such/topic"))
    assert recorded_spec(blind, elsewhere, [BAG]) == blind.observation_spec
    assert recorded_spec(contract_of(), robot, [BAG]) == contract_of().observation_spec
