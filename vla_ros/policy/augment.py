# SPDX-License-Identifier: Apache-2.0
"""Random changes to a training batch; each draw holds for all frames of a window, so that motion stays true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vla_ros.contract import PolicyContract


@dataclass(frozen=True)
class AugmentConfig:
    """How much to change; all zero means not at all.

    Attributes:
        shift_px: camera -> up to how many pixels of the network input its images move; 0 where it is not named. Keep it
            small for a camera from which places are read: a shift is an error of the place.
        brightness: offset, in normalised units.
        contrast: relative.
        camera_dropout: camera -> probability that it gives no features for a window; 0 where it is not named. Dropping
            the camera that is easiest to follow makes the others learn; at least one camera is always left.
        proprioception_noise: standard deviation, in standard deviations of the training data.
        proprioception_dropout: probability that a window's proprioception is the training mean.
        token_dropout: probability that a token of the command is hidden.
    """

    shift_px: dict[str, int] = field(default_factory=dict)
    brightness: float = 0.1
    contrast: float = 0.1
    camera_dropout: dict[str, float] = field(default_factory=dict)
    proprioception_noise: float = 0.05
    proprioception_dropout: float = 0.0
    token_dropout: float = 0.0


def shift_pixels(pixels: Tensor, camera: str, config: AugmentConfig) -> Tensor:
    """Return uint8 images (B, W, h, w, 3) of ``camera``, moved."""
    return random_shift(pixels.movedim(-1, -3), config.shift_px.get(camera, 0)).movedim(-3, -1)


def jitter_colours(frames: Tensor, config: AugmentConfig) -> Tensor:
    """Return normalised images (B, W, 3, h, w) with other colours."""
    return jitter_colour(frames, config.brightness, config.contrast)


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
    """Scale and offset normalized images (B, W, C, h, w), by one draw per window within +- the limits."""

    def draw(limit: float) -> Tensor:
        return (2 * torch.rand((images.shape[0], 1, 1, 1, 1), device=images.device) - 1) * limit

    scale, offset = 1 + draw(contrast), draw(brightness)
    return torch.addcmul(offset, images, scale)


def augment_proprioception(values: Tensor, contract: PolicyContract, config: AugmentConfig) -> Tensor:
    """Return proprioception (B, W, P) in physical units, with noise, or the training mean where it is dropped."""
    if contract.proprioception is None:
        return values
    mean, std = values.new_tensor(contract.proprioception.mean), values.new_tensor(contract.proprioception.std)
    noisy = values + config.proprioception_noise * std * torch.randn_like(values)
    dropped = torch.rand((len(values), 1, 1), device=values.device) < config.proprioception_dropout
    return torch.where(dropped, mean, noisy)


def drop_tokens(tokens: Tensor, token_mask: Tensor, dropped_id: int, config: AugmentConfig) -> Tensor:
    """Return tokens (B, L) with some replaced by ``dropped_id``; padding stays padding."""
    hidden = (torch.rand(tokens.shape, device=tokens.device) < config.token_dropout) & token_mask
    return tokens.masked_fill(hidden, dropped_id)


def draw_cameras_to_keep(
    batch: int, cameras: Sequence[str], config: AugmentConfig, device: torch.device
) -> Tensor | None:
    """Return (B, cameras) of 0 and 1 with at least one 1 per window, or None when nothing is ever dropped."""
    probability = [config.camera_dropout.get(name, 0.0) for name in cameras]
    if len(cameras) < 2 or not any(probability):
        return None
    kept = torch.rand((batch, len(cameras)), device=device) >= torch.tensor(probability, device=device)
    kept |= ~kept.any(dim=1, keepdim=True)
    return kept.to(torch.float32)
