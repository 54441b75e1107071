# SPDX-License-Identifier: Apache-2.0
"""Forward prediction starts at the last frame, learns what moves, and leaves the deployed policy as it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.config import ForwardPredictionConfig, LossConfig
from vla_ros.policy.forward_prediction import ForwardPrediction, forward_losses
from vla_ros.policy.module import VLAModule
from vla_ros.policy.tuning import OptimizerConfig

SIZES = {"static": (16, 24), "wrist": (8, 8)}
SMALL = ForwardPredictionConfig(weight=0.5, steps_ahead=1, patch_px=8, width=32, layers=1, attention_heads=2)


def make_network() -> ForwardPrediction:
    torch.manual_seed(0)
    return ForwardPrediction(camera_sizes=SIZES, feature_size=6, config=SMALL)


def pictures(count: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(count, 3, *size) for name, size in SIZES.items()}


def test_the_first_prediction_is_the_last_frame_repeated() -> None:
    images = pictures(2)
    for name, picture in make_network()(images, torch.randn(2, 6)).items():
        torch.testing.assert_close(picture, images[name])


def test_a_predicted_change_stays_in_its_patch() -> None:
    network = make_network()
    images = pictures(1)
    where = torch.zeros(6, 3 * 64)
    where[4] = 1.0  # of 2 x 3 patches: second row, second column
    network.change["static"].forward = lambda tokens: where.expand(len(tokens), -1, -1)
    drawn = network(images, torch.randn(1, 6))["static"] - images["static"]
    expected = torch.zeros(1, 3, 16, 24)
    expected[..., 8:, 8:16] = 1.0
    torch.testing.assert_close(drawn, expected)


def test_the_feature_tells_where_a_block_will_be() -> None:
    """A white patch moves to the place that the feature names: half the error of repeating needs the feature."""
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)

    def draw(count: int):
        goal = torch.randint(6, (count,))
        now = {name: torch.zeros(count, 3, *size) for name, size in SIZES.items()}
        patches = torch.zeros(count, 6, 1)
        patches[torch.arange(count), goal] = 1.0
        blocks = patches.view(count, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
        later = {**now, "static": blocks.expand(-1, 3, -1, -1)}
        return now, later, torch.nn.functional.one_hot(goal, 6).float(), torch.ones(count, dtype=torch.bool)

    for _ in range(100):
        now, later, features, mask = draw(16)
        optimizer.zero_grad()
        forward_losses(network(now, features), now, later, mask)["forward_loss"].backward()
        optimizer.step()
    now, later, features, mask = draw(32)
    informed = forward_losses(network(now, features), now, later, mask)["forward_static_of_repeating"]
    misled = forward_losses(network(now, features.roll(1, dims=1)), now, later, mask)["forward_static_of_repeating"]
    assert informed < 0.3 < misled


def test_frames_without_a_future_do_not_count() -> None:
    now, later, predicted = pictures(3), pictures(3), pictures(3)
    mask = torch.tensor([True, False, True])
    before = forward_losses(predicted, now, later, mask)
    later["static"][1] = 1e6
    after = forward_losses(predicted, now, later, mask)
    assert all(torch.equal(before[name], after[name]) for name in before)
    nothing = forward_losses(predicted, now, later, torch.zeros(3, dtype=torch.bool))
    assert all(torch.isfinite(value) for value in nothing.values()) and nothing["forward_loss"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_px": 5}, r"patch_px is 5, but the camera static is 16x24"),
        ({"steps_ahead": 0}, "steps_ahead is 0"),
        ({"width": 30, "attention_heads": 4}, "width is 30; it must be a multiple of attention_heads = 4"),
    ],
)
def test_invalid_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForwardPrediction(camera_sizes=SIZES, feature_size=6, config=dataclasses.replace(SMALL, **change))


@pytest.fixture
def module(policy) -> VLAModule:
    made = VLAModule(
        policy,
        max_steps=5,
        optimizer=OptimizerConfig(),
        loss=LossConfig(forward_prediction=SMALL),
        augment=AugmentConfig(shift_px={"static": 3}, brightness=0.3, contrast=0.3),
    )
    made.log = lambda *_, **__: None
    return made


def with_future(batch):
    later = {name: pixels.clone() for name, pixels in batch["images"].items()}
    return {**batch, "future_images": later, "future_valid": batch["valid"].clone()}


def test_every_term_is_logged_and_the_backbone_learns_from_it(module, batch) -> None:
    logged: dict = {}
    module.log_dict = lambda terms, **_: logged.update(terms)
    for output in module.forward_prediction.change.values():
        torch.nn.init.normal_(output.weight)  # at zero, the first step would reach the last layer only
    batch = with_future(batch)
    batch["action_valid"][:] = False  # then the gradient is forward prediction's alone
    loss = module.training_step(batch, 0)
    loss.backward()
    assert torch.isclose(loss, 0.5 * logged["train/forward_loss"])
    assert {"train/forward_static_loss", "train/forward_wrist_of_repeating", "train/arm_loss"} <= logged.keys()
    assert module.policy.backbone.cameras["wrist"].stem.weight.grad.abs().sum() > 0


def test_now_and_later_are_augmented_alike(module, batch) -> None:
    now, later = module._network_images(with_future(batch), training=True)
    for name in now:
        torch.testing.assert_close(now[name], later[name])


def test_the_deployed_policy_does_not_contain_it(module) -> None:
    assert not any("forward" in name for name in module.policy.state_dict())
    optimized = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert {id(parameter) for parameter in module.parameters()} == optimized
