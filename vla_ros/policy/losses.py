# SPDX-License-Identifier: Apache-2.0
"""The loss of an action chunk: Huber on the arm, binary cross-entropy on the gripper, padding masked out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from vla_ros.policy.prediction import ARM_DIMENSIONS, ActionPrediction


@dataclass(frozen=True)
class ForwardPredictionConfig:
    """Predicting the cameras' future pictures as a second task (``policy/forward_prediction.py``).

    Attributes:
        weight: of the mean squared error, in normalised pixels, in the loss.
        steps_ahead: how many control periods later the predicted frame is.
        patch_px: edge of a patch; divides the height and width of every camera.
        width, layers, attention_heads: of the network that decodes the patches.

    Raises:
        ValueError: a value is not possible.
    """

    weight: float = 0.1
    steps_ahead: int = 4
    patch_px: int = 16
    width: int = 192
    layers: int = 2
    attention_heads: int = 4

    def __post_init__(self) -> None:
        for name in ("steps_ahead", "patch_px", "width", "layers", "attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"loss.forward_prediction.{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.width % self.attention_heads:
            raise ValueError(
                f"loss.forward_prediction.width is {self.width}; "
                f"allowed: multiples of attention_heads = {self.attention_heads}"
            )

    def check_image_sizes(self, camera_sizes: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError if the patches do not tile the images (height, width) of a camera."""
        for name, (height, width) in camera_sizes.items():
            if height % self.patch_px or width % self.patch_px:
                raise ValueError(
                    f"loss.forward_prediction.patch_px is {self.patch_px}, but the camera {name} is {height}x{width}; "
                    "allowed: a number that divides the height and width of every camera"
                )


@dataclass(frozen=True)
class LossConfig:
    """How terms are measured and added up.

    Attributes:
        huber_delta: of the arm's Huber loss, in normalised units (heads that predict numbers).
        gripper_weight: weight of the gripper's term beside the arm's.
        forward_prediction: of future pictures, or None for not at all.
    """

    huber_delta: float = 0.1
    gripper_weight: float = 0.1
    forward_prediction: ForwardPredictionConfig | None = None


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``mask`` is True; zero, with zero gradient, where nothing is.

    Where several processes train together, the mean of their results is the mean over the batches of all.
    """
    return (values * mask).sum() / _count(mask)


def _count(mask: Tensor) -> Tensor:
    """Return how often ``mask`` is True, 1 at least; with several processes their average, 1 at least of them all."""
    count = mask.sum()
    if not (distributed.is_available() and distributed.is_initialized()):
        return count.clamp(min=1)
    total = count.to(torch.float32)
    distributed.all_reduce(total)
    return total.clamp(min=1) / distributed.get_world_size()


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
