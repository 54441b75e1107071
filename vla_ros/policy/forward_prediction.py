# SPDX-License-Identifier: Apache-2.0
"""Forward prediction: what will the cameras see a few steps from now? A second task that the features learn from.

As GR-1 (arXiv:2312.13139) and RoboVLMs intend: learned query tokens, one per patch of the future picture, are decoded
to pixels. The network exists in training only; a checkpoint for the robot does not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.policy.losses import ForwardPredictionConfig, masked_mean


class ForwardPrediction(nn.Module):
    """The frame now and the policy's feature of it -> the frame ``steps_ahead`` later, for every camera.

    A query is a learned token of its place plus the patch that is there now. All queries and the feature see each
    other; each is decoded to what changes in its patch: what stays need not be drawn. The first prediction, with its
    last layer at zero, is the last frame repeated.

    Args:
        camera_sizes: camera name -> (height, width), multiples of ``config.patch_px``.
        feature_size: D.

    Raises:
        ValueError: a camera's size is no multiple of the patches.
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
            config.width, config.attention_heads, 4 * config.width,
            dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
        )  # fmt: skip
        self.blocks = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.change = nn.ModuleDict({name: nn.Linear(config.width, 3 * patch**2) for name in camera_sizes})
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Mapping[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """Return the future images (F, 3, h, w) by camera, for ``images`` of the same shape and ``features`` (F, D)."""
        patches = {
            name: F.pixel_unshuffle(images[name], self.patch_px).flatten(2).mT  # (F, patches, 3 patch_px^2)
            for name in self.camera_sizes
        }
        queries = [self.embed[name](value) + self.queries[name] for name, value in patches.items()]
        tokens = self.blocks(torch.cat([self.feature(features)[:, None], *queries], dim=1))[:, 1:]
        by_camera = tokens.split([query.shape[1] for query in queries], dim=1)
        return {
            name: self._picture(patches[name] + self.change[name](part), name)
            for name, part in zip(self.camera_sizes, by_camera, strict=True)
        }

    def _picture(self, patches: Tensor, name: str) -> Tensor:
        """Return (F, 3, h, w) for ``patches`` (F, patches, 3 patch_px^2)."""
        height, width = self.camera_sizes[name]
        grid = patches.mT.unflatten(2, (height // self.patch_px, width // self.patch_px))
        return F.pixel_shuffle(grid, self.patch_px)


def forward_losses(
    predicted: Mapping[str, Tensor], now: Mapping[str, Tensor], future: Mapping[str, Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """Return ``forward_loss``, the mean over cameras, and by camera the squared error, also as a part of repeating's.

    Args:
        predicted, now, future: camera name -> (F, 3, h, w), normalised.
        mask: (F,), True where the future exists.
    """
    terms: dict[str, Tensor] = {}
    for name, picture in predicted.items():
        error = masked_mean((picture - future[name]).square().mean(dim=(1, 2, 3)), mask)
        repeated = masked_mean((now[name] - future[name]).square().mean(dim=(1, 2, 3)), mask)
        terms[f"forward_{name}_loss"] = error
        terms[f"forward_{name}_of_repeating"] = (error / repeated.clamp(min=1e-9)).detach()
    total = torch.stack([terms[f"forward_{name}_loss"] for name in predicted]).mean()
    return {"forward_loss": total, **terms}
