# SPDX-License-Identifier: Apache-2.0
"""Windows as a policy sees them that plans from where it will be (``policy/shifted_state.py``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vla_ros.contract import PolicyContract
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.windows import Indices
from vla_ros.policy.committed import draw_delays
from vla_ros.policy.shifted_state import rolled_forward


class StateShift:
    """Draws delays, and rolls states forward by the actions that the demonstrations have for them.

    Args:
        episodes: their frames, one episode after the other, are the rows.
        max_delay_steps: the longest delay in control ticks.
    """

    def __init__(self, episodes: Sequence[Episode], contract: PolicyContract, max_delay_steps: int) -> None:
        assert contract.proprioception is not None  # as the policy demands
        self._names = contract.proprioception.names
        self._period_s = contract.timing.period_ns / 1e9
        self._longest = max_delay_steps
        self._actions = np.concatenate([episode.done for episode in episodes])

    def draw(self, windows: int, *, training: bool) -> Indices:
        """Return how many actions are committed in each window, for all its frames alike: (B, 1)."""
        return draw_delays(windows, self._longest, torch.device("cpu"), training=training)[:, None].numpy()

    def states(self, measured: Tensor, rows: Indices, left: Indices, delays: Indices) -> Tensor:
        """Return the states (B, W, P) after ``delays`` (B, 1) ticks, those ``measured`` at the frames ``rows`` (B, W).

        ``left`` (B, W): how many frames of the episode come after each; nothing is known of what follows on the last.
        """
        ahead = np.arange(self._longest)
        done = ahead < np.minimum(delays, left + 1)[..., None]  # (B, W, D)
        actions = self._actions[rows[..., None] + np.minimum(ahead, left[..., None])] * done[..., None]
        return torch.from_numpy(rolled_forward(measured.numpy(), self._names, actions, self._period_s))
