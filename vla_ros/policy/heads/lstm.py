# SPDX-License-Identifier: Apache-2.0
"""An LSTM over the history window, then an MLP that predicts a chunk at every position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.policy.config import LstmConfig
from vla_ros.policy.heads.head import ACTION_SIZE, ActionPrediction, Head, split_actions


class RecurrentHead(Head):
    """A head whose context is an LSTM over at most W features, from a zero state, next to the features themselves.

    The newest feature thus bypasses the LSTM: reacting to the current frame must not depend on the recurrent state.
    """

    def __init__(self, *, feature_size: int, chunk: int, history: int, hidden_size: int, layers: int = 1) -> None:
        super().__init__(chunk=chunk, history=history)
        self.context_size = feature_size + hidden_size
        self.lstm = nn.LSTM(feature_size, hidden_size, num_layers=layers, batch_first=True)

    def context(self, features: Tensor) -> Tensor:
        states, _ = self.lstm(features)
        return torch.cat([features, states], dim=-1)


class LstmHead(RecurrentHead):
    """An MLP on the context of the LSTM."""

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: LstmConfig) -> None:
        hidden_size, layers = config.hidden_size, config.layers
        super().__init__(
            feature_size=feature_size, chunk=chunk, history=history, hidden_size=hidden_size, layers=layers
        )
        self.mlp = nn.Sequential(
            nn.Linear(self.context_size, config.mlp_size), nn.ReLU(), nn.Linear(config.mlp_size, chunk * ACTION_SIZE)
        )

    def decode(self, context: Tensor) -> ActionPrediction:
        return split_actions(self.mlp(context).unflatten(-1, (self.chunk, ACTION_SIZE)))
