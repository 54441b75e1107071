# SPDX-License-Identifier: Apache-2.0
"""How the policy learns."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from vla_ros.contract import ContractError
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.config import LossConfig
from vla_ros.policy.module import RetainConfig, VLAModule
from vla_ros.policy.tuning import OptimizerConfig, parameter_groups

NO_AUGMENT = AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0)


def make_module(policy, **changes) -> VLAModule:
    arguments = {
        "max_steps": 60,
        "optimizer": OptimizerConfig(learning_rate=5e-3, warmup_steps=5, weight_decay=0.0),
        "loss": LossConfig(),
        "augment": NO_AUGMENT,
        **changes,
    }
    module = VLAModule(policy, **arguments)
    module.log = module.log_dict = lambda *_, **__: None  # there is no trainer
    return module


def train(module: VLAModule, batch, steps: int) -> list[float]:
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def without_dropout(policy):
    policy.backbone.fuse[2].p = 0.0
    return policy


def test_one_batch_can_be_overfitted(policy, batch) -> None:
    losses = train(make_module(without_dropout(policy), max_steps=120), batch, 120)
    assert losses[-1] < losses[0] / 10


def test_masked_positions_do_not_influence_the_gradient(policy, batch) -> None:
    module = make_module(without_dropout(policy))

    def gradient() -> torch.Tensor:
        policy.zero_grad()
        module.training_step(batch, 0).backward()
        return policy.head.mlp[0].weight.grad.clone()

    before = gradient()
    batch["actions"][1, :, 2:] = 0.9
    batch["actions"][2, 1:] = -0.9
    batch["images"]["static"][2, 1:] = 255
    torch.testing.assert_close(gradient(), before)


def test_a_batch_without_any_action_is_finite(policy, batch) -> None:
    batch["action_valid"][:] = False
    loss = make_module(policy).training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_validation_is_not_augmented(policy, batch, monkeypatch) -> None:
    module = make_module(policy.eval(), augment=AugmentConfig(token_dropout=1.0, camera_dropout={"static": 1.0}))
    losses = {module.model_step(batch, "val").item() for _ in range(3)}
    assert len(losses) == 1
    assert module.model_step(batch, "train").item() not in losses


def test_a_window_moves_as_one_and_windows_differ() -> None:
    frame = torch.randint(0, 256, (1, 1, 16, 16, 3), dtype=torch.uint8)
    pixels = frame.expand(8, 3, 16, 16, 3)
    config = AugmentConfig(shift_px={"static": 3})
    assert torch.equal(config.shift_images(pixels, "wrist"), pixels)
    moved = config.shift_images(pixels, "static")
    assert moved.dtype == torch.uint8 and moved.shape == (8, 3, 16, 16, 3)
    assert torch.equal(moved[:, 0], moved[:, 1]) and torch.equal(moved[:, 0], moved[:, 2])
    assert len({tuple(window.flatten().tolist()) for window in moved}) > 3


def test_colours_change_per_window() -> None:
    changed = AugmentConfig(brightness=0.2, contrast=0.2).jitter_colours(torch.ones((4, 2, 3, 8, 8)))
    values = changed.flatten(1)
    assert (values == values[:, :1]).all() and len(values[:, 0].unique()) == 4
    assert ((values - 1).abs() <= 0.4).all()


def test_camera_dropout_keeps_a_camera_and_has_the_configured_rates() -> None:
    cameras = ("static", "wrist")
    config = AugmentConfig(camera_dropout={"wrist": 0.25})
    keep = config.draw_cameras_to_keep(1000, cameras, torch.device("cpu"))
    assert keep is not None
    assert keep[:, 0].min() == 1
    assert abs(keep[:, 1].mean() - 0.75) < 0.06
    both = AugmentConfig(camera_dropout={"static": 0.5, "wrist": 0.5})
    keep = both.draw_cameras_to_keep(1000, cameras, torch.device("cpu"))
    assert keep is not None
    assert keep.sum(dim=1).min() == 1 and keep.mean(dim=0).max() < 0.85


def test_token_dropout_never_touches_padding() -> None:
    tokens, mask = torch.arange(8).reshape(2, 4), torch.tensor([[True] * 4, [True, False, False, False]])
    dropped = AugmentConfig(token_dropout=1.0).drop_tokens(tokens, mask, 99)
    assert dropped.tolist() == [[99] * 4, [99, 5, 6, 7]]


def test_dropped_proprioception_is_the_training_mean(contract) -> None:
    config = AugmentConfig(proprioception_noise=0.0, proprioception_dropout=1.0)
    dropped = config.perturb_proprioception(torch.rand(2, 3, 2), contract)
    torch.testing.assert_close(dropped, torch.tensor([0.4, 0.5]).expand(2, 3, 2))


def test_only_matrices_decay(policy) -> None:
    decayed, kept = parameter_groups(policy, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    kept_ids = {id(parameter) for parameter in kept["params"]}
    names = {name for name, parameter in policy.named_parameters() if id(parameter) in kept_ids}
    assert "backbone.text.embedding.weight" in names
    assert all("bias" in name or "sharpness" in name or "embedding" in name for name in names)
    assert len(decayed["params"]) + len(kept["params"]) == len(list(policy.parameters()))


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    config = OptimizerConfig(warmup_steps=10, min_lr_scale=0.02)
    scales = [config.learning_rate_scale(step, 100) for step in range(101)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[10] == max(scales) == 1.0
    assert scales[55] == pytest.approx(0.51)
    assert scales[100] == pytest.approx(0.02)


def test_a_schedule_by_epoch_changes_between_epochs_only() -> None:
    config = OptimizerConfig(warmup_steps=5, min_lr_scale=0.02, schedule_interval="epoch")
    by_step = dataclasses.replace(config, schedule_interval="step")
    scales = [config.learning_rate_scale(step, 100, steps_per_epoch=20) for step in range(101)]
    assert scales[:5] == [by_step.learning_rate_scale(step, 100) for step in range(5)]
    assert set(scales[5:20]) == {1.0}
    for start in range(20, 100, 20):
        assert set(scales[start : start + 20]) == {by_step.learning_rate_scale(start, 100)}
    assert scales[100] == pytest.approx(0.02)


def test_betas_reach_adamw(policy) -> None:
    def betas(config: OptimizerConfig) -> tuple[float, float]:
        return make_module(policy, optimizer=config).configure_optimizers()["optimizer"].defaults["betas"]

    assert betas(OptimizerConfig()) == (0.9, 0.95)
    assert betas(OptimizerConfig(betas=(0.8, 0.99))) == (0.8, 0.99)


def test_a_constant_learning_rate_stays_after_the_warm_up() -> None:
    config = OptimizerConfig(warmup_steps=10, schedule="constant")
    scales = [config.learning_rate_scale(step, 100) for step in range(101)]
    assert scales[4] == pytest.approx(0.5) and set(scales[9:]) == {1.0}


def test_self_distillation_retains_the_policy_on_old_commands(policy, batch) -> None:
    """Trained to something new under one command, the policy forgets the other one, unless it is held."""
    tokens, mask = policy.tokenize(["open the drawer"] * 3)
    batch = {**batch, "tokens": tokens, "token_mask": mask}
    old_command = ("pick up the red block",)
    start = copy.deepcopy(without_dropout(policy))

    def drift(weight: float) -> float:
        tuned = copy.deepcopy(start)
        retain = RetainConfig(weight=weight, commands=old_command, fraction=1.0)
        train(make_module(tuned, retain=retain, teacher=copy.deepcopy(start)), batch, 60)
        text = policy.tokenize(old_command * 3)
        outputs = []
        for network in (start, tuned):
            images = {name: (pixels.float() / 255 - 0.5).movedim(-1, -3) for name, pixels in batch["images"].items()}
            with torch.no_grad():
                prediction = network.eval()(images, batch["proprioception"], network.encode_text(*text), batch["valid"])
            outputs.append(prediction.arm)
        return (outputs[0] - outputs[1]).abs().mean().item()

    assert drift(weight=3.0) < 0.5 * drift(weight=0.0)


def test_the_teacher_is_not_a_submodule(policy) -> None:
    module = make_module(policy, teacher=copy.deepcopy(policy), retain=RetainConfig(1.0, ("a",)))
    assert all(name.startswith("policy.") for name in module.state_dict())
    assert not any(parameter.requires_grad for parameter in module._teacher[0].parameters())


def test_self_distillation_without_commands_is_refused() -> None:
    with pytest.raises(ValueError, match="commands is empty"):
        RetainConfig(weight=1.0)
    with pytest.raises(ValueError, match="fraction is 0"):
        dataclasses.replace(RetainConfig(), fraction=0.0)


def test_a_shift_of_an_unknown_camera_is_refused(policy) -> None:
    with pytest.raises(ContractError, match=r"'hand'.*static"):
        make_module(policy, augment=AugmentConfig(shift_px={"hand": 2}))
    with pytest.raises(ContractError, match=r"camera_dropout.*'hand'"):
        make_module(policy, augment=AugmentConfig(camera_dropout={"hand": 0.2}))
