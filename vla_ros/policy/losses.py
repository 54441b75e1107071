# SPDX-License-Identifier: Apache-2.0
"""The loss of an action chunk: Huber on the arm, binary cross-entropy on the gripper, padding masked out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vla_ros.policy.heads.lstm import ActionPrediction


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``mask`` is True; zero, with zero gradient, where nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def action_loss(
    prediction: ActionPrediction, actions: Tensor, mask: Tensor, *, huber_delta: float, gripper_weight: float
) -> dict[str, Tensor]:
    """Return every term by name; ``loss`` is what to minimise, the others are for the log or parts of it.

    The arm term is the Huber loss divided by its delta: slope 1 far out, so that ``gripper_weight`` and the gradient
    clipping mean the same for every delta.

    Args:
        prediction: arm (B, W, N, 6) normalised, gripper_logit (B, W, N).
        actions: (B, W, N, 7) normalised, gripper opening in [0, 1] last.
        mask: (B, W, N), True where the action exists.
    """
    arm_target, opening = actions[..., :6], actions[..., 6]
    huber = F.smooth_l1_loss(prediction.arm, arm_target, beta=huber_delta, reduction="none").mean(dim=-1)
    entropy = F.binary_cross_entropy_with_logits(prediction.gripper_logit, opening, reduction="none")
    arm_loss, gripper_loss = masked_mean(huber, mask), masked_mean(entropy, mask)
    right = (prediction.gripper_logit > 0) == (opening > 0.5)
    return {
        "loss": arm_loss + gripper_weight * gripper_loss,
        "arm_loss": arm_loss,
        "gripper_loss": gripper_loss,
        "arm_l1": masked_mean((prediction.arm - arm_target).abs().mean(dim=-1), mask).detach(),
        "gripper_accuracy": masked_mean(right.to(huber.dtype), mask).detach(),
    }
