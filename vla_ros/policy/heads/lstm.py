# SPDX-License-Identifier: Apache-2.0
"""An LSTM over the history window, then an MLP that predicts a chunk at every position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.policy.config import LstmConfig
from vla_ros.policy.heads.head import ACTION_DIMENSIONS, ActionPrediction, Head, split_actions


class LstmHead(Head):
    """LSTM from a zero state over at most W features, then an MLP.

    The newest feature also bypasses the LSTM: reacting to the current frame must not depend on the recurrent state.
    """

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: LstmConfig) -> None:
        super().__init__(chunk=chunk, history=history, context_size=feature_size + config.hidden_size)
        self.lstm = nn.LSTM(feature_size, config.hidden_size, num_layers=config.layers, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(feature_size + config.hidden_size, config.mlp_size),
            nn.ReLU(),
            nn.Linear(config.mlp_size, chunk * ACTION_DIMENSIONS),
        )

    def context(self, features: Tensor) -> Tensor:
        return append_states(self.lstm, features)

    def decode(self, context: Tensor) -> ActionPrediction:
        return split_actions(self.mlp(context).unflatten(-1, (self.chunk, ACTION_DIMENSIONS)))


def append_states(lstm: nn.LSTM, features: Tensor) -> Tensor:
    """Return each feature followed by the LSTM's state after it, (B, W, D + hidden)."""
    states, _ = lstm(features)
    return torch.cat([features, states], dim=-1)
