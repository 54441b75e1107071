# SPDX-License-Identifier: Apache-2.0
"""A causal transformer over the history window (RoboVLMs' GPT decoder, arXiv:2412.14058)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.policy.config import GptConfig
from vla_ros.policy.heads.head import ACTION_SIZE, ActionPrediction, Head, split_actions


class GptHead(Head):
    """Pre-norm transformer blocks (GPT-2's) over the features, then a linear layer to the chunk.

    Positions are counted from the oldest frame of the window, in training and on the robot.
    """

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: GptConfig) -> None:
        super().__init__(chunk=chunk, history=history)
        self.input = nn.Linear(feature_size, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(history, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.attention_heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, chunk * ACTION_SIZE)

    def context(self, features: Tensor) -> Tensor:
        x: Tensor = self.input(features) + self.positions[: features.shape[1]]  # (B, W, width)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x

    def decode(self, context: Tensor) -> ActionPrediction:
        return split_actions(self.output(context).unflatten(-1, (self.chunk, ACTION_SIZE)))


class Block(nn.Module):
    """Causal self-attention, then an MLP, each on a residual branch."""

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, W, width)."""
        heads = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.attention_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, W, width / heads)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_output(attended.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.mlp_norm(x))
        return x
