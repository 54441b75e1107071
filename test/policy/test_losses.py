# SPDX-License-Identifier: Apache-2.0
"""The loss, by hand."""

from __future__ import annotations

import pytest
import torch

from vla_ros.policy.config import LossConfig
from vla_ros.policy.heads.head import ActionPrediction, action_loss


def loss(arm: torch.Tensor, logit: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor, delta: float = 1.0):
    return action_loss(ActionPrediction(arm, logit), actions, mask, LossConfig(huber_delta=delta, gripper_weight=0.1))


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    arm = torch.zeros((1, 1, 2, 6), requires_grad=True)
    logit = torch.zeros((1, 1, 2), requires_grad=True)
    actions = torch.zeros((1, 1, 2, 7))
    return arm, logit, actions, torch.tensor([[[True, False]]])


def test_terms_are_huber_and_cross_entropy() -> None:
    arm, logit, actions, mask = example()
    actions[0, 0, 0] = torch.tensor([2.0, 0.5, 0, 0, 0, 0, 1.0])
    terms = loss(arm, logit, actions, mask)
    assert terms["arm_loss"].item() == pytest.approx(((2 - 0.5) + 0.125) / 6)
    assert terms["gripper_loss"].item() == pytest.approx(0.6931, abs=1e-4)
    assert terms["loss"].item() == pytest.approx(terms["arm_loss"].item() + 0.1 * terms["gripper_loss"].item())
    assert terms["arm_l1"].item() == pytest.approx(2.5 / 6)


def test_slope_far_out_does_not_depend_on_delta() -> None:
    arm, logit, actions, mask = example()
    actions[0, 0, 0, :6] = 5.0
    for delta in (1.0, 0.1):
        (gradient,) = torch.autograd.grad(loss(arm, logit, actions, mask, delta)["arm_loss"], arm)
        assert gradient[0, 0, 0, 0].item() == pytest.approx(-1 / 6)


def test_masked_actions_do_not_count() -> None:
    arm, logit, actions, mask = example()
    before = loss(arm, logit, actions, mask)
    actions[0, 0, 1] = 1e6
    after = loss(arm, logit, actions, mask)
    for name, value in before.items():
        assert after[name].item() == value.item(), name


def test_a_batch_without_any_action_is_finite_and_has_no_gradient() -> None:
    arm, logit, actions, mask = example()
    terms = loss(arm, logit, actions, torch.zeros_like(mask))
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert arm.grad is not None and not arm.grad.any()


def test_gripper_accuracy_counts_the_right_side() -> None:
    arm, _, actions, _ = example()
    actions[..., 6] = torch.tensor([1.0, 0.0])
    terms = loss(arm, torch.tensor([[[3.0, 3.0]]]), actions, torch.ones((1, 1, 2), dtype=torch.bool))
    assert terms["gripper_accuracy"].item() == 0.5
