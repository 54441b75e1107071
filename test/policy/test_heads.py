# SPDX-License-Identifier: Apache-2.0
"""Properties of every head: streaming equals the window, no position sees the future, padding has no effect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros import actions
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.config import (
    DiscreteConfig,
    FlowConfig,
    GptConfig,
    LossConfig,
    LstmConfig,
    MlpConfig,
    RobovlmsConfig,
)
from vla_ros.policy.heads import HEADS
from vla_ros.policy.heads.flow import FlowHead
from vla_ros.policy.policy import Policy

SIZES = {
    "mlp": MlpConfig(mlp_size=32, layers=2),
    "lstm": LstmConfig(hidden_size=24, layers=2, mlp_size=32),
    "robovlms": RobovlmsConfig(hidden_size=24, layers=2, mlp_sizes=(32, 32)),
    "gpt": GptConfig(width=32, layers=2, attention_heads=4),
    "discrete": DiscreteConfig(bins=256, hidden_size=24, mlp_size=32, token_size=16),
    "flow": FlowConfig(hidden_size=24, width=32, blocks=2, integration_steps=4),
}
FEATURES, CHUNK, HISTORY = 12, 3, 4


def make_head(name: str, seed: int = 0):
    torch.manual_seed(seed)
    return HEADS[name](feature_size=FEATURES, chunk=CHUNK, history=HISTORY, config=SIZES[name]).eval()


@pytest.fixture(params=SIZES)
def head(request):
    return make_head(request.param)


def test_all_heads_are_tested() -> None:
    assert SIZES.keys() == HEADS.keys()


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(SIZES)), frames=st.integers(1, 3 * HISTORY), seed=st.integers(0, 5))
@torch.no_grad()
def test_streaming_is_the_window_of_the_last_frames(name: str, frames: int, seed: int) -> None:
    head = make_head(name, seed)
    features = torch.randn(2, frames, FEATURES)
    state = None
    for t in range(frames):
        streamed, state = head.step(features[:, t], state)
        window = features[:, max(0, t + 1 - HISTORY) : t + 1]
        padded = torch.cat([window, torch.full((2, HISTORY - window.shape[1], FEATURES), 7.0)], dim=1)
        valid = torch.arange(HISTORY) < window.shape[1]
        whole = head(padded, valid.expand(2, -1))
        torch.testing.assert_close(streamed.arm, whole.arm[:, window.shape[1] - 1], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(
            streamed.gripper_logit, whole.gripper_logit[:, window.shape[1] - 1], atol=2e-5, rtol=1e-5
        )


@torch.no_grad()
def test_a_step_is_pure_so_that_one_head_serves_two_robots(head) -> None:
    first, second = torch.randn(6, 1, FEATURES), torch.randn(6, 1, FEATURES)

    def alone(features):
        state, chunks = None, []
        for feature in features:
            prediction, state = head.step(feature, state)
            chunks.append(prediction.arm)
        return torch.stack(chunks)

    states, mixed = [None, None], ([], [])
    for pair in zip(first, second, strict=True):
        for robot in (0, 1):
            prediction, states[robot] = head.step(pair[robot], states[robot])
            mixed[robot].append(prediction.arm)
    assert torch.equal(torch.stack(mixed[0]), alone(first))
    assert torch.equal(torch.stack(mixed[1]), alone(second))


@torch.no_grad()
def test_a_position_does_not_see_the_future(head) -> None:
    features = torch.randn(1, HISTORY, FEATURES)
    valid = torch.ones(1, HISTORY, dtype=torch.bool)
    before = head(features, valid)
    features[:, 2] += 1
    after = head(features, valid)
    torch.testing.assert_close(after.arm[:, :2], before.arm[:, :2])
    assert not torch.allclose(after.gripper_logit[:, 2], before.gripper_logit[:, 2])


@pytest.mark.parametrize("name", sorted(SIZES.keys() - {"mlp"}))
@torch.no_grad()
def test_the_past_matters(name: str) -> None:
    head = make_head(name)
    features, valid = torch.randn(1, HISTORY, FEATURES), torch.ones(1, HISTORY, dtype=torch.bool)
    before = head(features, valid).gripper_logit[:, -1]
    features[:, 0] += 3
    assert not torch.allclose(head(features, valid).gripper_logit[:, -1], before)


def batch(windows: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    features = torch.randn(windows, HISTORY, FEATURES)
    targets = torch.rand(windows, HISTORY, CHUNK, 7) * 2 - 1
    targets[..., 6] = (targets[..., 6] > 0).float()
    return features, targets, torch.ones(windows, HISTORY, CHUNK, dtype=torch.bool)


def test_masked_actions_do_not_change_loss_or_gradient(head) -> None:
    features, targets, mask = batch(2)
    mask[:, 1:, 1:] = False

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(3)  # the flow draws noise
        head.zero_grad()
        head.losses(features, targets, mask, LossConfig())["loss"].backward()
        return [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]

    before = gradients()
    targets[:, 1:, 1:] = 0.7
    for one, other in zip(gradients(), before, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_any_action_is_finite_and_has_no_gradient(head) -> None:
    features, targets, mask = batch(2)
    terms = head.losses(features, targets, torch.zeros_like(mask), LossConfig())
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert not any(parameter.grad.any() for parameter in head.parameters() if parameter.grad is not None)


def test_eight_windows_can_be_overfitted(head) -> None:
    features, targets, mask = batch(8)
    if isinstance(head, FlowHead):
        targets = targets[:, :, :1].expand(-1, -1, CHUNK, -1)  # simple enough for so few steps
    if head.history == 1:
        targets = targets[:, -1:].expand(-1, HISTORY, -1, -1)  # nothing but the newest frame is seen
    before = head.losses(features, targets, mask, LossConfig())
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    head.train()
    for _ in range(120):
        optimizer.zero_grad()
        head.losses(features, targets, mask, LossConfig())["loss"].backward()
        optimizer.step()
    after = head.eval().losses(features, targets, mask, LossConfig())
    assert after["arm_l1"] < 0.5 * before["arm_l1"]
    assert after["gripper_accuracy"] > 0.9


def test_terms_have_the_same_names_whatever_the_head(head) -> None:
    features, targets, mask = batch(2)
    names = {"loss", "arm_loss", "gripper_loss", "arm_l1", "gripper_accuracy"}
    assert head.losses(features, targets, mask, LossConfig()).keys() == names


def test_bins_match_actions_discretize() -> None:
    head = make_head("discrete")
    values = torch.linspace(-1.2, 1.2, 7 * 200, dtype=torch.float64).reshape(-1, 7)
    values[:, 6] = (values[:, 6] + 1) / 2
    stretched = np.concatenate([values[:, :6].numpy(), values[:, 6:].numpy() * 2 - 1], axis=1)
    np.testing.assert_array_equal(head.discretize(values).numpy(), actions.discretize(stretched))


def test_a_discrete_prediction_is_the_centre_of_the_most_likely_bin() -> None:
    head = make_head("discrete")
    logits = torch.zeros(1, 1, CHUNK, 7, 256)
    logits[..., 40] = 5.0
    prediction = head._most_likely(logits)
    np.testing.assert_allclose(prediction.arm.numpy(), (40 + 0.5) / 256 * 2 - 1, atol=1e-6)
    assert (prediction.gripper_logit < 0).all()  # bin 40 of 256 is closed


def test_a_straight_flow_ends_at_the_actions() -> None:
    """With the true velocity, any number of Euler steps is exact: the path is a line."""
    head = make_head("flow")
    goal = torch.rand(2, 1, CHUNK * 7) * 1.6 - 0.8
    head.velocity = lambda chunk, time, context: goal - head.noise
    prediction = head.decode(torch.zeros(2, 1, FEATURES))
    torch.testing.assert_close(prediction.arm, goal.unflatten(-1, (CHUNK, 7))[..., :6])
    opening = (goal.unflatten(-1, (CHUNK, 7))[..., 6] + 1) / 2
    torch.testing.assert_close(prediction.gripper_logit.sigmoid(), opening, atol=1e-5, rtol=1e-4)


def test_flow_validation_uses_the_same_draws_and_leaves_the_training_random_state_alone() -> None:
    head = make_head("flow")
    features, targets, mask = batch(2)

    def loss() -> float:
        return head.losses(features, targets, mask, LossConfig())["loss"].item()

    state = torch.get_rng_state()
    assert loss() == loss()
    assert torch.equal(torch.get_rng_state(), state)
    head.train()
    assert loss() != loss()


@pytest.mark.parametrize("name", sorted(SIZES))
def test_checkpoints_of_every_head_round_trip_exactly(name: str, policy, contract, tokenizer, tmp_path) -> None:
    provenance = dataclasses.replace(contract.provenance, head=name)
    config = dataclasses.replace(policy.config, head=name, **{name: SIZES[name]})
    made = Policy(dataclasses.replace(contract, provenance=provenance), config, tokenizer).eval()
    save_checkpoint(tmp_path / "made", made)
    loaded = load_checkpoint(tmp_path / "made")
    feature = torch.randn(1, made.backbone.feature_size)
    with torch.no_grad():
        assert torch.equal(loaded.head.step(feature, None)[0].arm, made.head.step(feature, None)[0].arm)
