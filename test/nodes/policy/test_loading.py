# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

from vla_ros.contract import ActionSpace, Camera, ContractError, Language, PolicyContract, Provenance, Timing
from vla_ros.errors import RobotError, UserError
from vla_ros.nodes.policy import loading
from vla_ros.robot import load_robot


@pytest.fixture
def robot():
    return load_robot("tabletop")


@pytest.fixture
def contract() -> PolicyContract:
    return PolicyContract(
        cameras=(Camera("static", 16, 16), Camera("wrist", 16, 16)),
        proprioception=None,
        language=Language("{command}", "none", 8),
        timing=Timing(10.0, 2, 8),
        action=ActionSpace((-1.0,) * 6, (1.0,) * 6),
        provenance=Provenance("none", "0", "none", "none", "0"),
    )


def test_a_contract_that_fits_the_robot_is_loaded(robot, contract, tmp_path):
    contract.save(tmp_path / "contract.json")
    assert loading.load_contract(str(tmp_path), robot) == contract


@pytest.mark.parametrize("names", [("static", "head"), ("static",), ("static", "wrist", "head")])
def test_another_set_of_cameras_is_refused_naming_both(robot, contract, names):
    other = dataclasses.replace(contract, cameras=tuple(Camera(name, 16, 16) for name in names))
    with pytest.raises(
        ContractError, match=f"cameras are {', '.join(sorted(names))}, those of robot 'tabletop' are static, wrist"
    ):
        loading.check(other, robot)


def test_actions_in_the_tool_frame_are_refused(robot, contract):
    other = dataclasses.replace(contract, action=ActionSpace((-1.0,) * 6, (1.0,) * 6, frame="tool"))
    with pytest.raises(ContractError, match=r"actions are in the tool frame.*base_link"):
        loading.check(other, robot)


def test_a_robot_without_the_tool_s_pose_is_refused_even_if_the_policy_does_not_look_at_it(robot, contract):
    with pytest.raises(RobotError, match="has no stream 'ee_pose'"):
        loading.check(contract, dataclasses.replace(robot, ee_pose=None))


def test_no_checkpoint_and_a_missing_one_are_refused(robot, tmp_path):
    with pytest.raises(ContractError, match="parameter checkpoint is empty"):
        loading.load_contract("", robot)
    with pytest.raises(ContractError, match="no such folder"):
        loading.load_contract(str(tmp_path / "nowhere"), robot)
    with pytest.raises(ContractError, match=r"contract\.json is missing"):
        loading.load_contract(str(tmp_path), robot)


def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="parameter device is 'warp'"):
        loading.load_runner(str(tmp_path), "warp")


def test_a_saved_policy_is_loaded_and_acts(contract, tmp_path):
    import numpy as np
    import torch

    from vla_ros.observations.observation import Observation
    from vla_ros.policy.checkpoint import save_checkpoint
    from vla_ros.policy.config import CompactConfig, LstmConfig, PolicyConfig
    from vla_ros.policy.policy import Policy
    from vla_ros.policy.tokenizer import CommandTokenizer

    torch.manual_seed(0)
    tokenizer = CommandTokenizer.train(["pick up the red block"], 300)
    full = dataclasses.replace(
        contract,
        language=Language("{command}", tokenizer.identity, 16),
        provenance=Provenance("compact", "0", "lstm", "none", "0"),
    )
    sizes = CompactConfig(channels=(8, 8, 8, 8), keypoints=8, text_size=16, feature_size=32, dropout=0.1)
    config = PolicyConfig(compact=sizes, lstm=LstmConfig(hidden_size=24, layers=1, mlp_size=32))
    save_checkpoint(tmp_path / "checkpoint", Policy(full, config, tokenizer))
    runner = loading.load_runner(str(tmp_path / "checkpoint"), "auto")
    runner.warm_up()
    runner.reset("pick up the red block")
    pictures = {name: np.zeros((16, 16, 3), np.uint8) for name in ("static", "wrist")}
    chunk = runner.step(Observation(0, pictures, {}, None, "pick up the red block"))
    assert chunk.shape == (8, 7) and np.isfinite(chunk).all()
