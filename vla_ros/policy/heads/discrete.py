# SPDX-License-Identifier: Apache-2.0
"""Actions as tokens: each of the seven numbers of an action falls into one of 256 bins (RT-1, RT-2, OpenVLA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.policy.config import DiscreteConfig, LossConfig
from vla_ros.policy.heads.head import ACTION_SIZE, ARM_SIZE, ActionPrediction, action_errors, weighted_loss
from vla_ros.policy.heads.lstm import RecurrentHead


class DiscreteHead(RecurrentHead):
    """An LSTM over time, then a distribution over bins for every number of the chunk.

    All 7 N tokens are predicted in one pass, not one after the other (OpenVLA-OFT, arXiv:2502.19645). Bins divide
    [-1, 1] evenly, as in `actions.discretize`; the gripper's opening in [0, 1] is stretched to that range.
    """

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: DiscreteConfig) -> None:
        super().__init__(feature_size=feature_size, chunk=chunk, history=history, hidden_size=config.hidden_size)
        self.bins = config.bins
        self.mlp = nn.Sequential(
            nn.Linear(self.context_size, config.mlp_size),
            nn.ReLU(),
            nn.Linear(config.mlp_size, chunk * ACTION_SIZE * config.token_size),
            nn.ReLU(),
        )
        self.classify = nn.Linear(config.token_size, config.bins)

    def logits(self, context: Tensor) -> Tensor:
        """Return (B, W, N, 7, bins)."""
        logits: Tensor = self.classify(self.mlp(context).unflatten(-1, (self.chunk, ACTION_SIZE, -1)))
        return logits

    def decode(self, context: Tensor) -> ActionPrediction:
        return self._most_likely(self.logits(context))

    def _most_likely(self, logits: Tensor) -> ActionPrediction:
        """Return the centres of the arm's most likely bins and the log odds of "open" against "closed"."""
        arm = (logits[..., :ARM_SIZE, :].argmax(dim=-1) + 0.5) / self.bins * 2 - 1
        closed, opened = logits[..., ARM_SIZE, :].chunk(2, dim=-1)
        return ActionPrediction(arm.to(logits.dtype), opened.logsumexp(dim=-1) - closed.logsumexp(dim=-1))

    def losses(self, features: Tensor, actions: Tensor, mask: Tensor, config: LossConfig) -> dict[str, Tensor]:
        """Return the cross-entropy of the bins, averaged over the arm's six axes."""
        logits = self.logits(self.context(features))
        entropy = F.cross_entropy(logits.movedim(-1, 1), self.discretize(actions), reduction="none")  # (B, W, N, 7)
        arm, gripper = entropy[..., :ARM_SIZE].mean(dim=-1), entropy[..., ARM_SIZE]
        errors = action_errors(self._most_likely(logits), actions, mask)
        return weighted_loss(arm, gripper, mask, config) | errors

    def discretize(self, actions: Tensor) -> Tensor:
        """Return the bins (..., 7), 0 ... bins - 1, of normalised `actions` (..., 7)."""
        opening = actions[..., ARM_SIZE:] * 2 - 1
        stretched = torch.cat([actions[..., :ARM_SIZE], opening], dim=-1).clamp(-1, 1)
        return ((stretched + 1) / 2 * self.bins).long().clamp(max=self.bins - 1)
