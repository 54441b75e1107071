# SPDX-License-Identifier: Apache-2.0
"""Committed actions: what the robot will execute while the policy computes, as an input of the policy.

As in training-time real-time chunking (arXiv:2512.05964), the policy receives the first D actions of a chunk in
training, with D drawn for every window, and learns only the others. On the robot they are the actions that will have
been executed when the chunk arrives, so that it continues from them. In the paper they are tokens of a flow network at
time 1; here they become one bias on the context that any head decodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.policy.heads.head import ACTION_SIZE

HIDDEN = 128


class CommittedActions(nn.Module):
    """The first D of at most `max_delay_steps` actions of a chunk -> a bias on the head's context; zero for D = 0.

    Args:
        max_delay_steps: the largest D.
        context_size: C of the head.
    """

    def __init__(self, *, max_delay_steps: int, context_size: int) -> None:
        super().__init__()
        self.max_delay_steps = max_delay_steps
        self.mlp = nn.Sequential(
            nn.Linear(max_delay_steps * (ACTION_SIZE + 1), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, context_size)
        )

    def zero_output(self) -> None:
        """Zero the last layer: until it is trained, committed actions change nothing."""
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, actions: Tensor, delay_steps: Tensor) -> Tensor:
        """Return the bias (..., C).

        Args:
            actions: (..., N, 7) normalised, gripper opening in [0, 1] last; only the first D of the N are used.
            delay_steps: (...) long, D of each, at most `max_delay_steps`.
        """
        slots = torch.arange(self.max_delay_steps, device=actions.device)
        used = slots < delay_steps[..., None]  # (..., max_delay_steps)
        missing = self.max_delay_steps - actions.shape[-2]
        padded = nn.functional.pad(actions[..., : self.max_delay_steps, :], (0, 0, 0, max(0, missing)))
        inputs = torch.cat([padded * used[..., None], used[..., None].to(actions.dtype)], dim=-1)
        bias: Tensor = self.mlp(inputs.flatten(-2)) * (delay_steps > 0)[..., None]
        return bias


def draw_delays(windows: int, max_delay_steps: int, device: torch.device, *, training: bool) -> Tensor:
    """Return a delay in steps for each of `windows`: uniform in training, else 0, 1, ... in turn."""
    if training:
        return torch.randint(max_delay_steps + 1, (windows,), device=device)
    return torch.arange(windows, device=device) % (max_delay_steps + 1)
