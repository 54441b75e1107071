# SPDX-License-Identifier: Apache-2.0
"""Forward prediction: what the cameras will see a few steps later, as an auxiliary task for the features.

As in GR-1 (arXiv:2312.13139) and RoboVLMs, learned query tokens, one per patch of the future image, are decoded to
pixels. The network exists only in training; deployed checkpoints do not contain it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.policy.config import ForwardPredictionConfig
from vla_ros.policy.heads.head import masked_mean


class ForwardPrediction(nn.Module):
    """The current frame and the policy's feature of it -> the frame `steps_ahead` later, for every camera.

    A query is a learned token per position plus the current patch at that position. Queries and feature attend to each
    other; each query is decoded to the change in its patch. The last layer starts at zero, so the first prediction
    repeats the current frame.

    Args:
        camera_sizes: camera name -> (height, width), multiples of `config.patch_px`.
        feature_size: D.

    Raises:
        ValueError: a camera's size is not a multiple of the patch size.
    """

    def __init__(
        self, *, camera_sizes: Mapping[str, tuple[int, int]], feature_size: int, config: ForwardPredictionConfig
    ) -> None:
        super().__init__()
        self.camera_sizes = dict(camera_sizes)
        self.patch_px = patch = config.patch_px
        config.check_image_sizes(camera_sizes)
        counts = {name: height * width // patch**2 for name, (height, width) in camera_sizes.items()}
        self.queries = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(count, config.width)) for name, count in counts.items()}
        )
        self.embed = nn.ModuleDict({name: nn.Linear(3 * patch**2, config.width) for name in camera_sizes})
        self.feature = nn.Linear(feature_size, config.width)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.attention_heads,
            4 * config.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.change = nn.ModuleDict({name: nn.Linear(config.width, 3 * patch**2) for name in camera_sizes})
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Mapping[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """Return the future images (F, 3, h, w) by camera, for `images` of the same shape and `features` (F, D)."""
        patches = {
            name: F.pixel_unshuffle(images[name], self.patch_px).flatten(2).mT  # (F, patches, 3 patch_px^2)
            for name in self.camera_sizes
        }
        queries = [self.embed[name](value) + self.queries[name] for name, value in patches.items()]
        tokens = self.blocks(torch.cat([self.feature(features)[:, None], *queries], dim=1))[:, 1:]
        by_camera = tokens.split([query.shape[1] for query in queries], dim=1)
        return {
            name: self._image(patches[name] + self.change[name](change), name)
            for name, change in zip(self.camera_sizes, by_camera, strict=True)
        }

    def _image(self, patches: Tensor, name: str) -> Tensor:
        """Return (F, 3, h, w) for `patches` (F, patches, 3 patch_px^2)."""
        height, width = self.camera_sizes[name]
        grid = torch.unflatten(patches.mT, 2, (height // self.patch_px, width // self.patch_px))
        return F.pixel_shuffle(grid, self.patch_px)


def forward_losses(
    predicted: Mapping[str, Tensor], now: Mapping[str, Tensor], future: Mapping[str, Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """Return `forward_loss`, the mean over cameras, and per camera the squared error, also relative to repeating `now`.

    Args:
        predicted, now, future: camera name -> (F, 3, h, w), normalised.
        mask: (F,), True where the future exists.
    """
    terms: dict[str, Tensor] = {}
    for name, image in predicted.items():
        error = masked_mean((image - future[name]).square().mean(dim=(1, 2, 3)), mask)
        repeated = masked_mean((now[name] - future[name]).square().mean(dim=(1, 2, 3)), mask)
        terms[f"forward_{name}_loss"] = error
        terms[f"forward_{name}_of_repeating"] = (error / repeated.clamp(min=1e-9)).detach()
    total = torch.stack([terms[f"forward_{name}_loss"] for name in predicted]).mean()
    return {"forward_loss": total, **terms}
