# SPDX-License-Identifier: Apache-2.0
"""A small backbone that learns from scratch on a CPU: one language-conditioned conv encoder per camera.

Spatial softmax turns feature maps into image coordinates, which reaching needs (Levine et al. 2016, "End-to-end
training of deep visuomotor policies"); FiLM lets the command decide which object those keypoints follow (Perez et al.
2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.policy.backbones.backbone import PROPRIOCEPTION_LIMIT, Backbone
from vla_ros.policy.config import CompactConfig
from vla_ros.policy.heads.head import Readout
from vla_ros.policy.tokenizer import CommandTokenizer


class CompactBackbone(Backbone):
    """Encodes each frame by itself: its images, proprioception and the command.

    Args:
        camera_sizes: camera name -> (height, width) of its network input.
        proprioception_size: P, 0 for none.
        tokenizer: its vocabulary size is that of the embedding table.
    """

    fuses_time = False
    pools_text = True

    def __init__(
        self,
        *,
        camera_sizes: Mapping[str, tuple[int, int]],
        proprioception_size: int,
        tokenizer: CommandTokenizer,
        config: CompactConfig,
    ) -> None:
        super().__init__()
        self.feature_size = config.feature_size
        self.text = TextEncoder(tokenizer.vocabulary_size, config.text_size)
        encoders = {name: CameraEncoder(size, config) for name, size in camera_sizes.items()}
        self.cameras = nn.ModuleDict(encoders)
        fused_size = sum(encoder.output_size for encoder in encoders.values()) + config.text_size
        self.proprioception = None
        if proprioception_size:
            self.proprioception = nn.Sequential(nn.Linear(proprioception_size, 64), nn.ReLU())
            fused_size += 64
        self.fuse = nn.Sequential(
            nn.Linear(fused_size, config.feature_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feature_size, config.feature_size),
            nn.ReLU(),
        )

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        text: Tensor = self.text(tokens, token_mask)
        return text

    def encode(
        self, images: Mapping[str, Tensor], proprioception: Tensor, text: Tensor, camera_keep: Tensor | None = None
    ) -> Tensor:
        parts = []
        for index, (name, encoder) in enumerate(self.cameras.items()):
            features = encoder(images[name], text)  # (F, output_size)
            if camera_keep is not None:
                features = features * camera_keep[:, index, None]
            parts.append(features)
        if self.proprioception is not None:
            bounded = proprioception.clamp(-PROPRIOCEPTION_LIMIT, PROPRIOCEPTION_LIMIT)
            parts.append(self.proprioception(bounded))
        fused: Tensor = self.fuse(torch.cat([*parts, text], dim=-1))
        return fused

    def read(self, frames: Tensor, valid: Tensor, text: Tensor) -> Readout:
        return Readout(frames, valid)


class TextEncoder(nn.Module):
    """Tokens to one feature: the last state of a GRU (word order) plus the mean embedding (which words occur)."""

    def __init__(self, vocabulary_size: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, size)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.gru = nn.GRU(size, size, batch_first=True)
        self.bag = nn.Linear(size, size)

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Return (B, size). `token_mask` (B, L) is True on tokens; they come first, padding is on the right."""
        embedded = self.embedding(tokens)  # (B, L, size)
        states, _ = self.gru(embedded)  # causal: padding on the right cannot reach the states before it
        count = token_mask.sum(dim=1).clamp(min=1)  # an empty command reads its first padding token
        last = states[torch.arange(len(tokens), device=tokens.device), count - 1]
        mean = (embedded * token_mask[..., None]).sum(dim=1) / count[:, None]
        feature: Tensor = last + self.bag(mean)
        return feature


class CameraEncoder(nn.Module):
    """One camera's images to keypoints and a coarse feature map, conditioned on the text at every convolution."""

    coordinates: Tensor
    map_coordinates: Tensor

    def __init__(self, image_size: tuple[int, int], config: CompactConfig) -> None:
        super().__init__()
        height, width = image_size
        first, *others = config.channels
        inputs = config.channels[:-1]
        self.channels: Sequence[int] = config.channels
        self.stem = nn.Conv2d(3, first, kernel_size=7, stride=4, padding=3)
        # CoordConv (Liu et al. 2018) without copying the coordinates per image: a convolution is linear in its input
        self.stem_coordinates = nn.Conv2d(2, first, kernel_size=7, stride=4, padding=3, bias=False)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in zip(inputs, others, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels, affine=False) for channels in config.channels)
        self.film = nn.Linear(config.text_size, 2 * sum(config.channels))  # its bias is the norms' affine part
        self.heatmaps = nn.Conv2d(config.channels[-1], config.keypoints, kernel_size=1)
        self.log_sharpness = nn.Parameter(torch.zeros(config.keypoints))
        self.coarse = nn.Conv2d(config.channels[-1], 16, kernel_size=3, stride=2, padding=1)
        self.output_size = 3 * config.keypoints + 16 * math.ceil(height / 8) * math.ceil(width / 8)
        self.register_buffer("coordinates", coordinate_grid(height, width), persistent=False)
        grid = coordinate_grid(math.ceil(height / 4), math.ceil(width / 4))
        self.register_buffer("map_coordinates", grid.flatten(2)[0].T.contiguous(), persistent=False)

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """Return (F, output_size) for `images` (F, 3, h, w) and `text` (F, E)."""
        scales, shifts = self.film(text)[:, :, None, None].chunk(2, dim=1)
        scales = scales.split(list(self.channels), dim=1)
        shifts = shifts.split(list(self.channels), dim=1)
        x = self.stem(images.contiguous(memory_format=torch.channels_last)) + self.stem_coordinates(self.coordinates)
        x = F.relu(torch.addcmul(shifts[0], self.norms[0](x), 1 + scales[0]))
        for index, convolution in enumerate(self.convolutions, start=1):
            x = self.norms[index](convolution(x))
            x = F.relu(torch.addcmul(shifts[index], x, 1 + scales[index]))
        return torch.cat([self._keypoints(x), F.relu(self.coarse(x)).flatten(1)], dim=1)

    def _keypoints(self, x: Tensor) -> Tensor:
        """Return x, y in [-1, 1] and the expected value of each heat map, (F, 3 * keypoints)."""
        heat = self.heatmaps(x).flatten(2)  # (F, K, map pixels)
        where = (heat * self.log_sharpness.exp()[:, None]).softmax(dim=-1)
        values = (where * heat).sum(dim=-1)
        return torch.cat([(where @ self.map_coordinates).flatten(1), values], dim=1)


def coordinate_grid(height: int, width: int) -> Tensor:
    """Return (1, 2, height, width): x to the right and y down, both from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([x, y])[None]
