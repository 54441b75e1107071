# SPDX-License-Identifier: Apache-2.0
"""Actions as tokens: each of the seven numbers of an action is one of 256 bins (RT-1, RT-2, OpenVLA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.policy.config import DiscreteConfig
from vla_ros.policy.heads.head import Head
from vla_ros.policy.heads.lstm import fuse
from vla_ros.policy.losses import LossConfig, action_errors, masked_mean
from vla_ros.policy.prediction import ACTION_DIMENSIONS, ARM_DIMENSIONS, ActionPrediction


class DiscreteHead(Head):
    """The LSTM's fusion of time, then a distribution over the bins of every number of the chunk, all in one pass.

    One pass instead of one token after the other (OpenVLA-OFT, arXiv:2502.19645): 7 N tokens cost as much as one.
    Bins divide [-1, 1] evenly, as ``actions.discretize``; the gripper's opening in [0, 1] is stretched to that.
    """

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: DiscreteConfig) -> None:
        super().__init__(chunk=chunk, history=history, context_size=feature_size + config.hidden_size)
        self.bins = config.bins
        self.lstm = nn.LSTM(feature_size, config.hidden_size, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(feature_size + config.hidden_size, config.mlp_size),
            nn.ReLU(),
            nn.Linear(config.mlp_size, chunk * ACTION_DIMENSIONS * config.token_size),
            nn.ReLU(),
        )
        self.classify = nn.Linear(config.token_size, config.bins)

    def context(self, features: Tensor) -> Tensor:
        return fuse(self.lstm, features)

    def logits(self, context: Tensor) -> Tensor:
        """Return (B, W, N, 7, bins)."""
        return self.classify(self.mlp(context).unflatten(-1, (self.chunk, ACTION_DIMENSIONS, -1)))

    def decode(self, context: Tensor) -> ActionPrediction:
        return self._most_likely(self.logits(context))

    def _most_likely(self, logits: Tensor) -> ActionPrediction:
        """Return the centres of the arm's likeliest bins, and how much likelier "open" is than "closed"."""
        arm = (logits[..., :ARM_DIMENSIONS, :].argmax(dim=-1) + 0.5) / self.bins * 2 - 1
        closed, opened = logits[..., ARM_DIMENSIONS, :].chunk(2, dim=-1)
        return ActionPrediction(arm.to(logits.dtype), opened.logsumexp(dim=-1) - closed.logsumexp(dim=-1))

    def losses(
        self, features: Tensor, actions: Tensor, mask: Tensor, config: LossConfig, added: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the bins, the arm's averaged over its six axes."""
        logits = self.logits(self.context_with(features, added))
        entropy = F.cross_entropy(logits.movedim(-1, 1), self.discretize(actions), reduction="none")  # (B, W, N, 7)
        arm_loss = masked_mean(entropy[..., :ARM_DIMENSIONS].mean(dim=-1), mask)
        gripper_loss = masked_mean(entropy[..., ARM_DIMENSIONS], mask)
        return {
            "loss": arm_loss + config.gripper_weight * gripper_loss,
            "arm_loss": arm_loss,
            "gripper_loss": gripper_loss,
            **action_errors(self._most_likely(logits), actions, mask),
        }

    def discretize(self, actions: Tensor) -> Tensor:
        """Return the bins (..., 7) of normalised ``actions`` (..., 7), 0 ... bins - 1."""
        opening = actions[..., ARM_DIMENSIONS:] * 2 - 1
        stretched = torch.cat([actions[..., :ARM_DIMENSIONS], opening], dim=-1).clamp(-1, 1)
        return ((stretched + 1) / 2 * self.bins).long().clamp(max=self.bins - 1)
