# SPDX-License-Identifier: Apache-2.0
"""The shape of the network, as it is written to ``config.json`` of a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from vla_ros import schema
from vla_ros.errors import UserError


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact backbone (``policy/backbones/compact.py``).

    Attributes:
        channels: output channels of the four convolutions of a camera's encoder (multiples of 8).
        keypoints: spatial-softmax keypoints per camera.
        text_size: size E of the text feature.
        feature_size: size D of a frame's feature.
        dropout: probability of dropping a hidden unit of the fusion MLP in training.
    """

    channels: tuple[int, int, int, int] = (32, 32, 48, 48)
    keypoints: int = 48
    text_size: int = 64
    feature_size: int = 384
    dropout: float = 0.1


@dataclass(frozen=True)
class LstmConfig:
    """Sizes of the LSTM head (``policy/heads/lstm.py``)."""

    hidden_size: int = 256
    layers: int = 1
    mlp_size: int = 384


@dataclass(frozen=True)
class PolicyConfig:
    """Which backbone and head, and their sizes."""

    backbone: str = "compact"
    head: str = "lstm"
    compact: CompactConfig = field(default_factory=CompactConfig)
    lstm: LstmConfig = field(default_factory=LstmConfig)

    def to_dict(self) -> dict:
        """Return plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict, where: str, error: type[UserError]) -> PolicyConfig:
        """Inverse of ``to_dict``; raises ``error`` that names the missing, unknown or mistyped key of ``where``."""
        return schema.parse(cls, values, where, error, defaults=False)
