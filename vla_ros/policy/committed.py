# SPDX-License-Identifier: Apache-2.0
"""Committed actions: while a policy thinks, the robot goes on. What it will do meanwhile is told to the policy.

As in training-time real-time chunking (arXiv:2512.05964): in training, the first D actions of a chunk, D drawn anew
for every window, are given to the policy, and only the others are learned. On the robot they are those that will have
been carried out by the time the chunk is there, so that it goes on from them. In the paper these actions are tokens of
a flow network at time 1; here they are one vector that is added to what any head decodes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.policy.prediction import ACTION_DIMENSIONS

HIDDEN = 128


class CommittedActions(nn.Module):
    """The first D of up to ``max_delay_steps`` actions of a chunk -> what to add to a head's context; for none, zero.

    Args:
        max_delay_steps: the largest D.
        context_size: C of the head.
    """

    def __init__(self, *, max_delay_steps: int, context_size: int) -> None:
        super().__init__()
        self.max_delay_steps = max_delay_steps
        self.mlp = nn.Sequential(
            nn.Linear(max_delay_steps * (ACTION_DIMENSIONS + 1), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, context_size)
        )

    def silence(self) -> None:
        """Add zero whatever is committed, until that is trained."""
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, actions: Tensor, delay_steps: Tensor) -> Tensor:
        """Return (..., C).

        Args:
            actions: (..., N, 7) normalised, gripper opening in [0, 1] last; only the first D of the N are looked at.
            delay_steps: (...) long, D of each, 0 up to ``max_delay_steps``.
        """
        slots = torch.arange(self.max_delay_steps, device=actions.device)
        told = slots < delay_steps[..., None]  # (..., max_delay_steps)
        missing = self.max_delay_steps - actions.shape[-2]
        padded = nn.functional.pad(actions[..., : self.max_delay_steps, :], (0, 0, 0, max(0, missing)))
        seen = torch.cat([padded * told[..., None], told[..., None].to(actions.dtype)], dim=-1)
        return self.mlp(seen.flatten(-2)) * (delay_steps > 0)[..., None]


def draw_delays(windows: int, max_delay_steps: int, device: torch.device, *, training: bool) -> Tensor:
    """Return how many actions are committed in each of ``windows``: drawn evenly in training, else in turn 0, 1, ..."""
    if training:
        return torch.randint(max_delay_steps + 1, (windows,), device=device)
    return torch.arange(windows, device=device) % (max_delay_steps + 1)
