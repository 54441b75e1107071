# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained, and how fast."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import TINY_MODELS

from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.backbones.vlm import build_model
from vla_ros.policy.config import LossConfig
from vla_ros.policy.module import VLAModule
from vla_ros.policy.tuning import (
    LoraConfig,
    OptimizerConfig,
    TuningError,
    add_adapters,
    freeze,
    merge_adapters,
    parameter_groups,
)


def test_frozen_parameters_are_those_of_the_patterns_and_are_not_optimized(policy) -> None:
    freeze(policy, ["backbone.cameras.wrist.*", "head.lstm.bias_*"])
    frozen = {name for name, parameter in policy.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name for name, _ in policy.named_parameters() if name.startswith(("backbone.cameras.wrist.", "head.lstm.bias_"))
    }
    optimized = {id(p) for group in parameter_groups(policy, 0.1) for p in group["params"]}
    assert optimized == {id(p) for p in policy.parameters() if p.requires_grad}


def test_a_pattern_that_matches_nothing_is_named(policy) -> None:
    with pytest.raises(TuningError, match=r"'backbone\.vision\.\*', which matches no parameter.*backbone\.cameras"):
        freeze(policy, ["backbone.vision.*"])


def test_the_backbone_learns_at_its_own_rate(policy) -> None:
    module = VLAModule(
        policy,
        max_steps=5,
        optimizer=OptimizerConfig(learning_rate=1e-2, backbone_learning_rate=1e-4, warmup_steps=1),
        loss=LossConfig(),
        augment=AugmentConfig(),
    )
    rates = {}
    for group in module.configure_optimizers()["optimizer"].param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == (1e-4 if name.startswith("policy.backbone.") else 1e-2)


def test_only_adapters_are_trained_and_merging_them_keeps_the_function() -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = build_model(TINY_MODELS["llava"]).eval()
    names = {name for name, _ in model.named_parameters()}
    before = copy.deepcopy(model)
    add_adapters(model, LoraConfig(rank=2, targets=("language_model.layers.0.self_attn.q_proj", "v_proj")))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # starts at zero, so that nothing is changed yet
            torch.nn.init.normal_(parameter)
    tokens = torch.randint(3, 400, (1, 5))
    with torch.no_grad():
        changed = model(input_ids=tokens).last_hidden_state
        merge_adapters(model)
        torch.testing.assert_close(model(input_ids=tokens).last_hidden_state, changed, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(before(input_ids=tokens).last_hidden_state, changed, atol=1e-3)
    assert {name for name, _ in model.named_parameters()} == names


def test_unknown_adapter_targets_and_other_backbones_are_refused(policy) -> None:
    pytest.importorskip("peft")
    with pytest.raises(TuningError, match=r"targets is \['nothing'\]"):
        add_adapters(build_model(TINY_MODELS["llava"]), LoraConfig(targets=("nothing",)))
    with pytest.raises(TuningError, match="'compact'; it must be 'vlm'"):
        VLAModule(
            policy,
            max_steps=5,
            optimizer=OptimizerConfig(lora=LoraConfig()),
            loss=LossConfig(),
            augment=AugmentConfig(),
        )
