# SPDX-License-Identifier: Apache-2.0
"""What every backbone provides: images, proprioception and a command -> features that a head reads.

Shapes: B windows, W frames per window, F frames, P proprioceptive values, L tokens, D feature size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vla_ros.policy.heads.head import Readout

PROPRIOCEPTION_LIMIT = 5.0  # standard deviations; no demonstration was further out


class Backbone(nn.Module):
    """Encodes frames one by one, then reads features from a window of them.

    Attributes:
        feature_size: D.
        fuses_time: whether `read` looks at the whole window, at every step; otherwise the head fuses time.
        pools_text: whether text features have the same size however long the command is.
    """

    feature_size: int
    fuses_time: bool
    pools_text: bool

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> Any:
        """Return the text features of `tokens` (B, L), called once per command; `text[rows]` selects.

        Padding, where `token_mask` (B, L) is False, must not change them.
        """
        raise NotImplementedError

    def encode(
        self, images: Mapping[str, Tensor], proprioception: Tensor, text: Any, camera_keep: Tensor | None = None
    ) -> Tensor:
        """Return the encoding (F, ...) of F frames; on the robot only the newest frame is encoded.

        Args:
            images: camera name -> (F, 3, h, w), normalised.
            proprioception: (F, P), standardised.
            text: of the frames' commands, from `encode_text`.
            camera_keep: (F, cameras) of 0 and 1; 0 blanks that camera (camera dropout).
        """
        raise NotImplementedError

    def read(self, frames: Tensor, valid: Tensor, text: Any) -> Readout:
        """Return the features of windows of encoded `frames` (B, W, ...); `valid` (B, W) is True on frames."""
        raise NotImplementedError
