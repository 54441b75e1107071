# SPDX-License-Identifier: Apache-2.0
"""The window of the last frames, of one shape from the first frame on, so that a step can be compiled or captured."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class History(NamedTuple):
    """Up to W frames of B streams, as training pads them: oldest first, what is not there yet is zero, at the end."""

    frames: Tensor  # (B, W, ...)
    seen: Tensor  # (B,) long, how many are there

    @property
    def valid(self) -> Tensor:
        """(B, W), True on the frames that are there."""
        return torch.arange(self.frames.shape[1], device=self.frames.device) < self.seen[:, None]


def slide(history: History | None, newest: Tensor, length: int) -> History:
    """Return ``history`` (None: an empty one of ``length`` frames) with ``newest`` (B, ...) as its last frame.

    Where it is full, the oldest frame is dropped. Nothing here depends on a value: the same operations run at every
    step, whatever has been seen.
    """
    if history is None:
        frames = newest.new_zeros(len(newest), length, *newest.shape[1:])
        history = History(frames, torch.zeros(len(newest), dtype=torch.long, device=newest.device))
    place = torch.arange(length, device=newest.device)
    full = (history.seen == length).long()  # (B,)
    source = (place + full[:, None]).clamp(max=length - 1)  # (B, W)
    ones = [1] * (newest.ndim - 1)
    kept = history.frames.gather(1, source.view(*source.shape, *ones).expand(history.frames.shape))
    last = history.seen - full  # where the newest frame goes
    placed = torch.where((place == last[:, None]).view(*source.shape, *ones), newest[:, None], kept)
    # What is not there must be zero, not merely unseen: attention gives it the weight 0, and 0 times NaN is NaN.
    there = (place <= last[:, None]).view(*source.shape, *ones)
    return History(torch.where(there, placed, 0), last + 1)


def at_end(values: Tensor, valid: Tensor) -> Tensor:
    """Return the last valid row (B, ...) of ``values`` (B, W, ...); ``valid`` (B, W) has its True first."""
    return values[torch.arange(len(values), device=values.device), valid.sum(dim=1) - 1]
