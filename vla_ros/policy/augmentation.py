# SPDX-License-Identifier: Apache-2.0
"""Random changes to training windows; each draw holds for all frames of a window, so that motion stays consistent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vla_ros.contract import PolicyContract


@dataclass(frozen=True)
class AugmentConfig:
    """How much to change; a camera that is not listed is not shifted or dropped.

    Attributes:
        shift_px: camera -> maximum shift of its images, in pixels of the network input. Keep it small for a camera that
            locates objects: a shift is a position error.
        brightness: maximum offset, in normalised units.
        contrast: maximum relative change.
        camera_dropout: camera -> probability that its features are dropped in a window, at least one camera remaining.
            Dropping the most informative camera makes the policy learn from the others.
        proprioception_noise: standard deviation, in standard deviations of the training data.
        proprioception_dropout: probability that a window's proprioception is replaced by the training mean.
        token_dropout: probability that a token of the command is hidden.
    """

    shift_px: dict[str, int] = field(default_factory=dict)
    brightness: float = 0.1
    contrast: float = 0.1
    camera_dropout: dict[str, float] = field(default_factory=dict)
    proprioception_noise: float = 0.05
    proprioception_dropout: float = 0.0
    token_dropout: float = 0.0

    def shift_images(self, pixels: Tensor, camera: str) -> Tensor:
        """Return shifted uint8 images (B, W, h, w, 3) of `camera`."""
        return random_shift(pixels.movedim(-1, -3), self.shift_px.get(camera, 0)).movedim(-3, -1)

    def jitter_colours(self, frames: Tensor) -> Tensor:
        """Return normalised images (B, W, 3, h, w) with other brightness and contrast."""
        return jitter_colour(frames, self.brightness, self.contrast)

    def perturb_proprioception(self, values: Tensor, contract: PolicyContract) -> Tensor:
        """Return proprioception (B, W, P), in physical units, with noise or replaced by the training mean."""
        if contract.proprioception is None:
            return values
        mean, std = values.new_tensor(contract.proprioception.mean), values.new_tensor(contract.proprioception.std)
        noisy = values + self.proprioception_noise * std * torch.randn_like(values)
        dropped = torch.rand((len(values), 1, 1), device=values.device) < self.proprioception_dropout
        return torch.where(dropped, mean, noisy)

    def drop_tokens(self, tokens: Tensor, token_mask: Tensor, dropped_id: int) -> Tensor:
        """Return tokens (B, L), some of them replaced by `dropped_id`, but no padding."""
        hidden = (torch.rand(tokens.shape, device=tokens.device) < self.token_dropout) & token_mask
        return tokens.masked_fill(hidden, dropped_id)

    def draw_cameras_to_keep(self, batch: int, cameras: Sequence[str], device: torch.device) -> Tensor | None:
        """Return (B, cameras) of 0 and 1 with at least one 1 per window, or None if nothing is ever dropped."""
        probability = [self.camera_dropout.get(name, 0.0) for name in cameras]
        if len(cameras) < 2 or not any(probability):
            return None
        kept = torch.rand((batch, len(cameras)), device=device) >= torch.tensor(probability, device=device)
        kept |= ~kept.any(dim=1, keepdim=True)
        return kept.to(torch.float32)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Shift images (B, W, C, h, w) by up to `pixels` in x and y, repeating the edges (DrQ-v2). Fastest on uint8."""
    if pixels == 0:
        return images
    height, width = images.shape[-2:]
    device = images.device
    offsets = torch.randint(-pixels, pixels + 1, (len(images), 2), device=device)
    rows = (offsets[:, :1] + torch.arange(height, device=device)).clamp(0, height - 1)
    columns = (offsets[:, 1:] + torch.arange(width, device=device)).clamp(0, width - 1)
    # Window by window with colours last: copying whole rows is several times faster than one gather of pixels.
    shifted = [
        frames.index_select(1, row).index_select(2, column)  # (W, h, w, C)
        for frames, row, column in zip(images.movedim(2, -1), rows, columns)
    ]
    return torch.stack(shifted).movedim(-1, 2)


def jitter_colour(images: Tensor, brightness: float, contrast: float) -> Tensor:
    """Scale and offset normalized images (B, W, C, h, w), with one draw per window within the limits."""

    def draw(limit: float) -> Tensor:
        return (2 * torch.rand((images.shape[0], 1, 1, 1, 1), device=images.device) - 1) * limit

    scale, offset = 1 + draw(contrast), draw(brightness)
    return torch.addcmul(offset, images, scale)
