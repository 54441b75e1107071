# SPDX-License-Identifier: Apache-2.0
"""What every head predicts, whatever it is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ARM_DIMENSIONS = 6
ACTION_DIMENSIONS = ARM_DIMENSIONS + 1


class ActionPrediction(NamedTuple):
    """A chunk of N actions at each of W positions; the first action of a chunk belongs to that position's frame."""

    arm: Tensor  # (B, W, N, 6), normalised
    gripper_logit: Tensor  # (B, W, N), positive = open


class Readout(NamedTuple):
    """What a backbone has read out of B windows: K features each, in the order of time.

    ``frames`` (B, K) says of which frame of the window a feature is; None where it is one of every frame, in order.
    """

    features: Tensor  # (B, K, D)
    valid: Tensor  # (B, K), True on features; they come first
    frames: Tensor | None = None  # (B, K)

    def pick(self, values: Tensor) -> Tensor:
        """Return the rows (B, K, ...) of ``values`` (B, W, ...) that belong to the features."""
        if self.frames is None:
            return values
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.frames]


def split_actions(values: Tensor) -> ActionPrediction:
    """Return the prediction in ``values`` (..., N, 7): six arm axes, then the gripper's logit."""
    return ActionPrediction(arm=values[..., :ARM_DIMENSIONS], gripper_logit=values[..., ARM_DIMENSIONS])
