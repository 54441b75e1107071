# SPDX-License-Identifier: Apache-2.0
"""An MLP on the newest frame alone: no memory."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from vla_ros.policy.config import MlpConfig
from vla_ros.policy.heads.head import Head
from vla_ros.policy.prediction import ACTION_DIMENSIONS, ActionPrediction, split_actions


class MlpHead(Head):
    """Each frame's feature to a chunk; for one-step policies, and for backbones that fuse time themselves."""

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: MlpConfig) -> None:
        super().__init__(chunk=chunk, history=1, context_size=feature_size)
        sizes = [feature_size] + [config.mlp_size] * config.layers
        hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*hidden, nn.Linear(sizes[-1], chunk * ACTION_DIMENSIONS))

    def context(self, features: Tensor) -> Tensor:
        return features

    def decode(self, context: Tensor) -> ActionPrediction:
        return split_actions(self.mlp(context).unflatten(-1, (self.chunk, ACTION_DIMENSIONS)))
