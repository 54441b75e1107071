# SPDX-License-Identifier: Apache-2.0
"""The LSTM head of RoboVLMs (arXiv:2412.14058), for running and fine-tuning its checkpoints."""

from __future__ import annotations

from torch import Tensor, nn

from vla_ros.policy.config import RobovlmsConfig
from vla_ros.policy.heads.head import ARM_SIZE, ActionPrediction, Head
from vla_ros.policy.heads.mlp import relu_mlp


class RobovlmsHead(Head):
    """LSTM from a zero state over at most W features, then an MLP for the arm (in [-1, 1]) and one for the gripper."""

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: RobovlmsConfig) -> None:
        super().__init__(chunk=chunk, history=history)
        self.rnn = nn.LSTM(feature_size, config.hidden_size, num_layers=config.layers, batch_first=True)
        sizes = [config.hidden_size, *config.mlp_sizes]
        self.arm = relu_mlp(sizes, chunk * ARM_SIZE)
        self.gripper = relu_mlp(sizes, chunk)

    def context(self, features: Tensor) -> Tensor:
        states: Tensor = self.rnn(features)[0]
        return states

    def decode(self, context: Tensor) -> ActionPrediction:
        arm = self.arm(context).tanh().unflatten(-1, (self.chunk, ARM_SIZE))
        return ActionPrediction(arm, self.gripper(context))
