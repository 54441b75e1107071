# SPDX-License-Identifier: Apache-2.0
"""An LSTM over the history window, and an MLP that predicts a chunk at every position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vla_ros.policy.config import LstmConfig

ARM_DIMENSIONS = 6


class ActionPrediction(NamedTuple):
    """A chunk of N actions at each of W positions; the first action of a chunk belongs to that position's frame."""

    arm: Tensor  # (B, W, N, 6), normalised
    gripper_logit: Tensor  # (B, W, N), positive = open


class LstmHead(nn.Module):
    """LSTM from a zero state over at most W features, then an MLP.

    The newest frame's feature also goes straight to the MLP: reacting to what is seen now must not depend on what
    the recurrent state lets through.
    """

    def __init__(self, *, feature_size: int, chunk: int, config: LstmConfig) -> None:
        super().__init__()
        self.chunk = chunk
        self.lstm = nn.LSTM(feature_size, config.hidden_size, num_layers=config.layers, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(feature_size + config.hidden_size, config.mlp_size),
            nn.ReLU(),
            nn.Linear(config.mlp_size, chunk * (ARM_DIMENSIONS + 1)),
        )

    def forward(self, features: Tensor, valid: Tensor) -> ActionPrediction:
        """Predict at every position.

        Args:
            features: (B, W, D), oldest first.
            valid: (B, W), True on frames; they come first, padding is on the right, so it cannot reach a valid
                position through the recurrence. Predictions at padding are zero.
        """
        batch, window, _ = features.shape
        states, _ = self.lstm(features)
        out = self.mlp(torch.cat([features, states], dim=-1)) * valid[..., None]
        out = out.view(batch, window, self.chunk, ARM_DIMENSIONS + 1)
        return ActionPrediction(arm=out[..., :ARM_DIMENSIONS], gripper_logit=out[..., ARM_DIMENSIONS])
