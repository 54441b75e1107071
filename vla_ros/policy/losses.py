# SPDX-License-Identifier: Apache-2.0
"""The loss of an action chunk: Huber on the arm, binary cross-entropy on the gripper, padding masked out."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from vla_ros.policy.prediction import ARM_DIMENSIONS, ActionPrediction


@dataclass(frozen=True)
class LossConfig:
    """How terms are measured and added up.

    Attributes:
        huber_delta: of the arm's Huber loss, in normalised units (heads that predict numbers).
        gripper_weight: weight of the gripper's term beside the arm's.
    """

    huber_delta: float = 0.1
    gripper_weight: float = 0.1


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``mask`` is True; zero, with zero gradient, where nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def action_loss(prediction: ActionPrediction, actions: Tensor, mask: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Return every term by name; ``loss`` is what to minimise, the others are for the log or parts of it.

    The arm term is the Huber loss divided by its delta: slope 1 far out, so that ``gripper_weight`` and the gradient
    clipping mean the same for every delta.

    Args:
        prediction: arm (B, W, N, 6) normalised, gripper_logit (B, W, N).
        actions: (B, W, N, 7) normalised, gripper opening in [0, 1] last.
        mask: (B, W, N), True where the action exists.
    """
    arm_target, opening = actions[..., :ARM_DIMENSIONS], actions[..., ARM_DIMENSIONS]
    huber = F.smooth_l1_loss(prediction.arm, arm_target, beta=config.huber_delta, reduction="none").mean(dim=-1)
    entropy = F.binary_cross_entropy_with_logits(prediction.gripper_logit, opening, reduction="none")
    arm_loss, gripper_loss = masked_mean(huber, mask), masked_mean(entropy, mask)
    return {
        "loss": arm_loss + config.gripper_weight * gripper_loss,
        "arm_loss": arm_loss,
        "gripper_loss": gripper_loss,
        **action_errors(prediction, actions, mask),
    }


def action_errors(prediction: ActionPrediction, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what means the same for every head: the arm's mean absolute error and the gripper's accuracy."""
    arm_target, opening = actions[..., :ARM_DIMENSIONS], actions[..., ARM_DIMENSIONS]
    right = (prediction.gripper_logit > 0) == (opening > 0.5)
    return {
        "arm_l1": masked_mean((prediction.arm - arm_target).abs().mean(dim=-1), mask).detach(),
        "gripper_accuracy": masked_mean(right.to(arm_target.dtype), mask).detach(),
    }
