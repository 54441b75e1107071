# SPDX-License-Identifier: Apache-2.0
"""A vision-language model that learns to act goes on saying what it is told to do."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from vla_ros.contract import Camera
from vla_ros.policy.augment import AugmentConfig
from vla_ros.policy.backbones.tiny import IMAGE_PX, TINY_MODELS, VOCABULARY
from vla_ros.policy.config import MlpConfig, PolicyConfig, VlmConfig
from vla_ros.policy.language import LanguageError, language_loss
from vla_ros.policy.losses import LossConfig
from vla_ros.policy.module import OptimizerConfig, VLAModule
from vla_ros.policy.policy import Policy

STILL = AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0, token_dropout=1.0)


@pytest.fixture
def make(contract, tokenizer):
    """Makes a tiny policy of a family of vision-language models."""

    def policy(family: str, **model) -> Policy:
        cameras = tuple(Camera(name, IMAGE_PX, IMAGE_PX) for name in contract.camera_names)
        provenance = dataclasses.replace(contract.provenance, backbone="vlm", head="mlp")
        config = PolicyConfig(
            backbone="vlm", head="mlp", vlm=VlmConfig(model={**TINY_MODELS[family], **model}), mlp=MlpConfig(16, 1)
        )
        return Policy(dataclasses.replace(contract, cameras=cameras, provenance=provenance), config, tokenizer)

    return policy


@pytest.fixture
def windows(batch):
    """The batch with pictures of the tiny models' size."""
    images = {name: x.repeat_interleave(2, -2).repeat_interleave(2, -3) for name, x in batch["images"].items()}
    return {**batch, "images": images}


def module_of(policy: Policy, weight: float) -> tuple[VLAModule, dict]:
    module = VLAModule(
        policy, max_steps=1, optimizer=OptimizerConfig(), loss=LossConfig(language_weight=weight), augment=STILL
    )
    logged: dict = {}
    module.log, module.log_dict = (lambda *_, **__: None), (lambda values, **_: logged.update(values))
    return module, logged


@pytest.mark.parametrize("mode", ["policy_head", "video"])
def test_the_commands_are_learned_beside_the_actions_and_the_term_has_a_name(make, windows, mode: str) -> None:
    policy = make("gemma3")
    policy.config = dataclasses.replace(policy.config, vlm=dataclasses.replace(policy.config.vlm, history_mode=mode))
    policy = Policy(policy.contract, policy.config, policy.tokenizer)
    module, logged = module_of(policy, 0.5)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    said = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = module.training_step(windows, 0)
        loss.backward()
        optimizer.step()
        said.append(float(logged["train/language_loss"]))
        actions = float(logged["train/arm_loss"] + 0.1 * logged["train/gripper_loss"])
        assert loss.item() == pytest.approx(actions + 0.5 * said[-1], rel=1e-5)
    assert said[0] == pytest.approx(math.log(VOCABULARY), rel=0.2)  # it knows nothing at first
    assert said[-1] < 0.3 * said[0]  # though augmentation hides every token from the actions
    for command, known in (("open the drawer", True), ("stack the mugs", False)):
        tokens, token_mask = policy.tokenize([command] * 3)
        module.validation_step({**windows, "tokens": tokens, "token_mask": token_mask}, 0)
        assert (float(logged["val/language_loss"]) < 0.4 * said[0]) == known


def test_it_is_off_unless_asked_for(make, windows, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.policy.module.language_loss", lambda *_: pytest.fail("it was computed"))
    module, logged = module_of(make("llava"), 0.0)  # which has no head for it
    module.training_step(windows, 0)
    assert not any("language" in name for name in logged) and LossConfig().language_weight == 0


@torch.no_grad()
def test_it_is_of_the_words_that_are_there_after_the_newest_frame(make, windows) -> None:
    policy = make("paligemma").eval()
    images = {name: torch.randn(3, 3, 3, IMAGE_PX, IMAGE_PX) for name in policy.contract.camera_names}
    state, valid = windows["proprioception"], windows["valid"]
    tokens, mask = policy.tokenize(["open the drawer", "open", "pick up the red block"])

    def loss(rows, images=images, padding: int = 0) -> torch.Tensor:
        padded = (
            torch.nn.functional.pad(tokens[rows], (0, padding), value=17),
            torch.nn.functional.pad(mask[rows], (0, padding)),
        )
        return language_loss(policy, {k: v[rows] for k, v in images.items()}, state[rows], valid[rows], *padded)

    every = slice(None)
    together = loss(every)
    torch.testing.assert_close(loss(every, padding=3), together)
    counts = mask.sum(dim=1)
    parts = sum(counts[row] * loss([row]) for row in range(3)) / counts.sum()
    torch.testing.assert_close(parts, together)  # each word counts alike
    for position, matters in ((2, True), (0, False)):
        other = {name: frames.clone() for name, frames in images.items()}
        other["static"][0, position] = torch.randn(3, IMAGE_PX, IMAGE_PX)
        assert torch.allclose(loss([0], other), loss([0]), atol=1e-6) != matters


def test_a_policy_without_a_language_head_is_refused(make, policy) -> None:
    for silent in (make("llava"), make("florence2")):
        with pytest.raises(LanguageError, match=r"has no language head here.*tie_word_embeddings"):
            module_of(silent, 0.1)
    with pytest.raises(LanguageError, match=r"backbone 'compact' has no language head; allowed: 'vlm'"):
        module_of(policy, 0.1)
    module_of(make("llava", tie_word_embeddings=True), 0.1)
