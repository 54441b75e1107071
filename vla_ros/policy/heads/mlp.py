# SPDX-License-Identifier: Apache-2.0
"""An MLP on the newest frame alone, without memory."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from vla_ros.policy.config import MlpConfig
from vla_ros.policy.heads.head import ACTION_SIZE, ActionPrediction, Head, split_actions


class MlpHead(Head):
    """Each frame's feature to a chunk: for one-step policies, and for backbones that fuse time themselves."""

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: MlpConfig) -> None:
        super().__init__(chunk=chunk, history=1)
        self.mlp = relu_mlp([feature_size] + [config.mlp_size] * config.layers, chunk * ACTION_SIZE)

    def context(self, features: Tensor) -> Tensor:
        return features

    def decode(self, context: Tensor) -> ActionPrediction:
        return split_actions(self.mlp(context).unflatten(-1, (self.chunk, ACTION_SIZE)))


def relu_mlp(sizes: list[int], outputs: int) -> nn.Sequential:
    """Return linear layers of `sizes`, each followed by a ReLU, then a linear layer to `outputs`."""
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))
