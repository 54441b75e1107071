# SPDX-License-Identifier: Apache-2.0
"""Flow matching over the chunk: noise is carried to actions along a learned velocity (Lipman et al. 2023; pi0)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vla_ros.policy.config import FlowConfig
from vla_ros.policy.heads.head import Head
from vla_ros.policy.heads.lstm import fuse
from vla_ros.policy.losses import LossConfig, action_errors, masked_mean
from vla_ros.policy.prediction import ACTION_DIMENSIONS, ARM_DIMENSIONS, ActionPrediction

SURE = 0.999  # the most certain opening that a flow states; its logit must be finite


class FlowHead(Head):
    """The LSTM's fusion of time, then a velocity field over whole chunks, given that context.

    A chunk x runs from noise (time 0) to actions (time 1) on a straight line, so its velocity is actions - noise; the
    network learns to tell it from x, the time and the context. Sampling follows it in Euler steps. The noise that
    sampling starts from is drawn once and kept with the weights: a policy is then a function, streams as it trains,
    and chunks that follow each other start from the same noise, hence from the same mode.
    """

    noise: Tensor
    frequencies: Tensor

    def __init__(self, *, feature_size: int, chunk: int, history: int, config: FlowConfig) -> None:
        super().__init__(chunk=chunk, history=history, context_size=feature_size + config.hidden_size)
        size = chunk * ACTION_DIMENSIONS
        self.integration_steps = config.integration_steps
        self.lstm = nn.LSTM(feature_size, config.hidden_size, batch_first=True)
        self.input = nn.Linear(size, config.width)
        self.condition = nn.Sequential(
            nn.Linear(feature_size + config.hidden_size + config.width, config.width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(ConditionedBlock(config.width) for _ in range(config.blocks))
        self.output = nn.Linear(config.width, size)
        self.register_buffer("noise", torch.randn(size))
        frequencies = torch.exp(torch.linspace(0, math.log(100.0), config.width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def context(self, features: Tensor) -> Tensor:
        return fuse(self.lstm, features)

    def velocity(self, chunk: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Return the velocity (..., 7 N) of ``chunk`` (..., 7 N) at ``time`` (..., 1) in [0, 1], given (..., C)."""
        phase = time * self.frequencies * math.pi
        condition = self.condition(torch.cat([context, phase.sin(), phase.cos()], dim=-1))
        x = self.input(chunk)
        for block in self.blocks:
            x = block(x, condition)
        return self.output(x)

    def decode(self, context: Tensor) -> ActionPrediction:
        chunk = self.noise.expand(*context.shape[:-1], -1)
        for step in range(self.integration_steps):
            time = context.new_full((*context.shape[:-1], 1), step / self.integration_steps)
            chunk = chunk + self.velocity(chunk, time, context) / self.integration_steps
        values = chunk.unflatten(-1, (self.chunk, ACTION_DIMENSIONS))
        opening = ((values[..., ARM_DIMENSIONS] + 1) / 2).clamp(1 - SURE, SURE)
        return ActionPrediction(values[..., :ARM_DIMENSIONS], opening.logit())

    def _draw(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Noise like ``target`` (B, W, N, 7) and times (B, W, 1, 1); in validation the same ones at every call.

        Else checkpoints would be compared by their luck, and validating would change the training that follows.
        """
        generator = None if self.training else torch.Generator(target.device).manual_seed(0)
        dtype, device = target.dtype, target.device
        noise = torch.randn(target.shape, generator=generator, dtype=dtype, device=device)
        return noise, torch.rand((*target.shape[:2], 1, 1), generator=generator, dtype=dtype, device=device)

    def losses(
        self, features: Tensor, actions: Tensor, mask: Tensor, config: LossConfig, added: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Squared error of the velocity at a random time; how good sampled chunks are is measured in evaluation."""
        context = self.context_with(features, added)
        opening = actions[..., ARM_DIMENSIONS:] * 2 - 1
        target = torch.cat([actions[..., :ARM_DIMENSIONS], opening], dim=-1) * mask[..., None]  # (B, W, N, 7)
        noise, time = self._draw(target)
        between = torch.lerp(noise, target, time)
        predicted = self.velocity(between.flatten(2), time[..., 0], context).view_as(target)
        error = (predicted - (target - noise)).square()
        arm_loss = masked_mean(error[..., :ARM_DIMENSIONS].mean(dim=-1), mask)
        gripper_loss = masked_mean(error[..., ARM_DIMENSIONS], mask)
        terms = {
            "loss": arm_loss + config.gripper_weight * gripper_loss,
            "arm_loss": arm_loss,
            "gripper_loss": gripper_loss,
        }
        return terms if self.training else {**terms, **action_errors(self.decode(context), actions, mask)}


class ConditionedBlock(nn.Module):
    """A residual MLP whose normalised input the condition scales and shifts (FiLM / adaptive layer norm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (..., width)."""
        scale, shift = self.modulate(condition).chunk(2, dim=-1)
        return x + self.mlp(torch.addcmul(shift, self.norm(x), 1 + scale))
