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

    Raises:
        ValueError: a size is not possible.
    """

    channels: tuple[int, int, int, int] = (32, 32, 48, 48)
    keypoints: int = 48
    text_size: int = 64
    feature_size: int = 384
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if any(count < 8 or count % 8 for count in self.channels):
            raise ValueError(f"compact.channels is {self.channels}; allowed: multiples of 8")
        _require_positive(self, "compact", "keypoints", "text_size", "feature_size")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"compact.dropout is {self.dropout}; allowed: 0 up to, without, 1")

    def check_image_size(self, height: int, width: int) -> None:
        """Raise ValueError if the backbone can't take images of height x width."""
        if height % 8 or width % 8:
            raise ValueError(f"a camera image is {height}x{width} (height x width); allowed: multiples of 8")


@dataclass(frozen=True)
class LstmConfig:
    """Sizes of the LSTM head (``policy/heads/lstm.py``); raises ValueError for one that is not positive."""

    hidden_size: int = 256
    layers: int = 1
    mlp_size: int = 384

    def __post_init__(self) -> None:
        _require_positive(self, "lstm", "hidden_size", "layers", "mlp_size")


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
        """Inverse of ``to_dict``; raises ``error`` that names the missing, unknown or wrong key of ``where``."""
        try:
            return schema.parse(cls, values, where, error, defaults=False)
        except ValueError as wrong:  # a size that is not possible
            raise error(f"{where}: {wrong}") from None


def _require_positive(config: object, section: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{section}.{name} is {getattr(config, name)}; allowed: 1 or more")
