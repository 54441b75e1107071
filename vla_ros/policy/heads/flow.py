# SPDX-License-Identifier: Apache-2.0
"""Flow matching over the chunk: noise moves to actions along a learned velocity field (Lipman et al. 2023; pi0)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vla_ros.policy.config import FlowConfig, LossConfig
from vla_ros.policy.heads.head import ACTION_SIZE, ARM_SIZE, ActionPrediction, action_errors, weighted_loss
from vla_ros.policy.heads.lstm import RecurrentHead

MAX_OPENING_PROBABILITY = 0.999  # keeps the logit finite


class FlowHead(RecurrentHead):
    """An LSTM over time, then a velocity field over whole chunks, conditioned on that context.

    A chunk x moves from noise (time 0) to actions (time 1) on a straight line, so its velocity is actions - noise; the
    network learns to predict it from x, the time and the context. Sampling follows it in Euler steps. The initial noise
    is drawn once and saved with the weights: the policy is then deterministic, and consecutive chunks start from the
    same noise and thus tend to follow the same mode.
    """

    noise: Tensor
    frequencies: Tensor

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: FlowConfig) -> None:
        super().__init__(feature_size=feature_size, chunk=chunk, history=history, hidden_size=config.hidden_size)
        size = chunk * ACTION_SIZE
        self.integration_steps = config.integration_steps
        self.input = nn.Linear(size, config.width)
        self.condition = nn.Sequential(nn.Linear(self.context_size + config.width, config.width), nn.SiLU())
        self.blocks = nn.ModuleList(ConditionedBlock(config.width) for _ in range(config.blocks))
        self.output = nn.Linear(config.width, size)
        self.register_buffer("noise", torch.randn(size))
        frequencies = torch.exp(torch.linspace(0, math.log(100.0), config.width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def velocity(self, chunk: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Return the velocity (..., 7 N) of `chunk` (..., 7 N) at `time` (..., 1) in [0, 1], given (..., C)."""
        phase = time * self.frequencies * math.pi
        condition = self.condition(torch.cat([context, phase.sin(), phase.cos()], dim=-1))
        x: Tensor = self.input(chunk)
        for block in self.blocks:
            x = block(x, condition)
        x = self.output(x)
        return x

    def decode(self, context: Tensor) -> ActionPrediction:
        chunk = self.noise.expand(*context.shape[:-1], -1)
        for step in range(self.integration_steps):
            time = context.new_full((*context.shape[:-1], 1), step / self.integration_steps)
            chunk = chunk + self.velocity(chunk, time, context) / self.integration_steps
        values = torch.unflatten(chunk, -1, (self.chunk, ACTION_SIZE))
        opening = ((values[..., ARM_SIZE] + 1) / 2).clamp(1 - MAX_OPENING_PROBABILITY, MAX_OPENING_PROBABILITY)
        return ActionPrediction(values[..., :ARM_SIZE], opening.logit())

    def _draw(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Draw noise like `target` (B, W, N, 7) and times (B, W, 1, 1); in validation, the same for every window.

        Fresh draws would make validation losses incomparable, and draws by batch make them depend on its size.
        """
        dtype, device = target.dtype, target.device
        windows, frames = target.shape[:2]
        if self.training:
            noise = torch.randn(target.shape, dtype=dtype, device=device)
            return noise, torch.rand((windows, frames, 1, 1), dtype=dtype, device=device)
        generator = torch.Generator(device).manual_seed(0)
        noise = torch.randn((self.history, *target.shape[2:]), generator=generator, dtype=dtype, device=device)
        time = (torch.arange(self.history, dtype=dtype, device=device) + 0.5) / self.history
        return noise[:frames].expand_as(target), time[:frames, None, None].expand(windows, frames, 1, 1)

    def losses(self, features: Tensor, actions: Tensor, mask: Tensor, config: LossConfig) -> dict[str, Tensor]:
        """Return the velocity's squared error at a random time and, in validation, the errors of sampled chunks."""
        context = self.context(features)
        opening = actions[..., ARM_SIZE:] * 2 - 1
        target = torch.cat([actions[..., :ARM_SIZE], opening], dim=-1) * mask[..., None]  # (B, W, N, 7)
        noise, time = self._draw(target)
        between = torch.lerp(noise, target, time)
        predicted = self.velocity(between.flatten(2), time[..., 0], context).view_as(target)
        error = (predicted - (target - noise)).square()
        terms = weighted_loss(error[..., :ARM_SIZE].mean(dim=-1), error[..., ARM_SIZE], mask, config)
        return terms if self.training else {**terms, **action_errors(self.decode(context), actions, mask)}


class ConditionedBlock(nn.Module):
    """A residual MLP whose normalised input is scaled and shifted by the condition (FiLM / adaptive layer norm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (..., width)."""
        scale, shift = self.modulate(condition).chunk(2, dim=-1)
        x = x + self.mlp(torch.addcmul(shift, self.norm(x), 1 + scale))
        return x
