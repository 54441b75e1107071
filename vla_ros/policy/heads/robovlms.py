# SPDX-License-Identifier: Apache-2.0
"""The LSTM head of RoboVLMs (arXiv:2412.14058), so that its checkpoints can be run and tuned."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from vla_ros.policy.config import RobovlmsConfig
from vla_ros.policy.heads.head import Head
from vla_ros.policy.prediction import ARM_DIMENSIONS, ActionPrediction


class RobovlmsHead(Head):
    """LSTM from a zero state over at most W features, then an MLP of the arm (in [-1, 1]) and one of the gripper."""

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: RobovlmsConfig) -> None:
        super().__init__(chunk=chunk, history=history, context_size=config.hidden_size)
        self.rnn = nn.LSTM(feature_size, config.hidden_size, num_layers=config.layers, batch_first=True)
        sizes = (config.hidden_size, *config.mlp_sizes)
        self.arm = _mlp(sizes, chunk * ARM_DIMENSIONS)
        self.gripper = _mlp(sizes, chunk)

    def context(self, features: Tensor) -> Tensor:
        return self.rnn(features)[0]

    def decode(self, context: Tensor) -> ActionPrediction:
        arm = self.arm(context).tanh().unflatten(-1, (self.chunk, ARM_DIMENSIONS))
        return ActionPrediction(arm, self.gripper(context))


def _mlp(sizes: tuple[int, ...], outputs: int) -> nn.Sequential:
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))
