# SPDX-License-Identifier: Apache-2.0
"""The policy that a training starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_models import TINY_MODELS
from tiny_vlm import save_model

from vla_ros.policy.backbones import vlm
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.policy.config import PolicyConfig, VlmConfig
from vla_ros.train import initial_policy
from vla_ros.train.config import ConfigError
from vla_ros.train.demonstrations import recorded_robots
from vla_ros.train.initial_policy import new_policy, observation_spec, tuned_policy

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)


def with_model(config, model: VlmConfig, height: int = 32, width: int = 32):
    cameras = tuple(
        dataclasses.replace(camera, height=height, width=width, mean=MEAN, std=STD)
        for camera in config.contract.cameras
    )
    contract = dataclasses.replace(config.contract, cameras=cameras)
    return dataclasses.replace(config, contract=contract, policy=PolicyConfig(backbone="vlm", vlm=model))


def test_a_pretrained_model_is_not_also_built_with_random_weights(
    config, episodes, monkeypatch, tmp_path: Path
) -> None:
    saved = save_model(tmp_path / "model", "paligemma")
    monkeypatch.setattr(vlm, "build_model", lambda _: pytest.fail("built once more, with random weights"))
    policy = new_policy(with_model(config, VlmConfig(pretrained=str(tmp_path / "model"))), episodes)
    weights = {name.removeprefix("model."): value for name, value in saved.state_dict().items()}
    assert all(torch.equal(value, weights[name]) for name, value in policy.backbone.model.state_dict().items())
    assert policy.config.vlm.model["model_type"] == "paligemma"


def test_the_observation_spec_needs_no_weights_and_a_tuned_policy_is_built_once(
    config, episodes, monkeypatch, tmp_path: Path
) -> None:
    start = new_policy(config, episodes)
    save_checkpoint(tmp_path / "start", start)
    tuned = dataclasses.replace(config, init_from=str(tmp_path / "start"), contract=None, policy=None)
    loads = []
    load = initial_policy.load_checkpoint
    monkeypatch.setattr(initial_policy, "load_checkpoint", lambda folder: loads.append(folder) or load(folder))
    assert observation_spec(tuned) == (start.contract.observation_spec, start.contract.timing)
    assert not loads
    monkeypatch.setattr(initial_policy, "Policy", lambda *_: pytest.fail("built once more, with random weights"))
    policy = tuned_policy(tuned, episodes[:3])
    assert len(loads) == 1 and policy.training
    assert policy.contract.provenance.data_digest != start.contract.provenance.data_digest


@pytest.mark.parametrize(
    ("start", "data", "robots"),
    [
        ("tabletop", {}, ("tabletop",)),
        ("tabletop", {"robot": "franka_servo", "bags": ("bags",)}, ("franka_servo",)),
        (None, {"robot": "franka_servo", "bags": ("bags",)}, ("franka_servo",)),
        (None, {}, ()),
    ],
)
def test_a_tuned_policy_is_of_the_robot_it_was_tuned_on_or_else_of_the_one_before(
    config, episodes, tmp_path: Path, start, data, robots
) -> None:
    bags = ("bags",) if start else ()
    first = dataclasses.replace(config, data=dataclasses.replace(config.data, robot=start or "tabletop", bags=bags))
    save_checkpoint(tmp_path / "start", new_policy(first, episodes))
    tuned = dataclasses.replace(
        config,
        init_from=str(tmp_path / "start"),
        contract=None,
        policy=None,
        data=dataclasses.replace(config.data, **data),
    )
    assert tuned_policy(tuned, episodes).contract.provenance.robots == robots


@pytest.mark.parametrize("keep", [True, False])
def test_rehearsed_bags_are_of_the_recipe_s_robot(config, keep: bool) -> None:
    kept = dataclasses.replace(config.keep, bags=("old",) if keep else ())
    tuned = dataclasses.replace(config, init_from="start", contract=None, policy=None, keep=kept)
    assert recorded_robots(tuned) == (("tabletop",) if keep else ())


def test_the_prompt_template_is_the_backbone_s_unless_the_recipe_sets_one(config, episodes) -> None:
    kosmos = with_model(config, VlmConfig(model=TINY_MODELS["kosmos-2"]))
    language = new_policy(kosmos, episodes).contract.language
    assert language.prompt("Open  the drawer") == "<grounding>An image of a robot open the drawer"
    chosen = dataclasses.replace(kosmos.contract, prompt_template="do: {command}")
    language = new_policy(dataclasses.replace(kosmos, contract=chosen), episodes).contract.language
    assert language.prompt("open the drawer") == "do: open the drawer"
    assert new_policy(config, episodes).contract.language.prompt_template == "{command}"


def test_an_image_size_that_the_model_rejects_is_a_config_error(config, episodes) -> None:
    wrong = with_model(config, VlmConfig(model=TINY_MODELS["llava"]), height=48)
    with pytest.raises(ConfigError, match=r"vlm backbone cannot be built.*static is 48x32.*contract\.cameras"):
        new_policy(wrong, episodes)
