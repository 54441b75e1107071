# SPDX-License-Identifier: Apache-2.0
"""The shape of the network, as it is written to ``config.json`` of a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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
class VlmConfig:
    """A vision-language model of transformers as backbone (``policy/backbones/vlm.py``).

    Attributes:
        pretrained: in a recipe, a folder or hub id with the weights to start from; None in a checkpoint, which has its
            own weights.
        model: the model's own configuration, as transformers writes it, with its ``model_type``; empty in a recipe that
            names ``pretrained``. Without ``pretrained`` the weights start at random.
        history_mode: how the W frames of the history are seen. "policy_head": each alone, the head fuses time (its
            history of 1 frame is the one-step policy). "interleaved": all in one sequence, a feature after each.
            "video": all in one sequence, one feature at its end.
        around_image: the tokens before and after the tokens of each image, or none; with ``pretrained`` they are those
            that the model was trained with.
        layout: where the images stand in the sequence of a frame. "own": where the model was trained to see them.
            "robovlms": right after the command's first token, as in RoboVLMs, whose checkpoints need it.

    Raises:
        ValueError: both ``pretrained`` and ``model`` are given, another number of tokens around an image, or a layout
            that the history mode does not have.
    """

    pretrained: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    history_mode: Literal["policy_head", "interleaved", "video"] = "policy_head"
    around_image: tuple[int, ...] = ()
    layout: Literal["own", "robovlms"] = "own"

    def __post_init__(self) -> None:
        if self.pretrained is not None and self.model:
            raise ValueError(
                "vlm.pretrained and vlm.model are both set; the weights of vlm.pretrained come with their own "
                "configuration: remove vlm.model, or remove vlm.pretrained to start from random weights"
            )
        if len(self.around_image) not in (0, 2):
            raise ValueError(f"vlm.around_image is {self.around_image}; allowed: none, or the token before and after")
        if self.layout == "robovlms" and self.history_mode != "policy_head":
            raise ValueError(
                f"vlm.layout is 'robovlms', but vlm.history_mode is {self.history_mode!r}; allowed: 'policy_head'"
            )


@dataclass(frozen=True)
class MlpConfig:
    """Sizes of the MLP head (``policy/heads/mlp.py``); raises ValueError for one that is not positive."""

    mlp_size: int = 384
    layers: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "mlp", "mlp_size", "layers")


@dataclass(frozen=True)
class LstmConfig:
    """Sizes of the LSTM head (``policy/heads/lstm.py``); raises ValueError for one that is not positive."""

    hidden_size: int = 256
    layers: int = 1
    mlp_size: int = 384

    def __post_init__(self) -> None:
        _require_positive(self, "lstm", "hidden_size", "layers", "mlp_size")


@dataclass(frozen=True)
class RobovlmsConfig:
    """Sizes of RoboVLMs' LSTM head (``policy/heads/robovlms.py``); its defaults are those of the published weights.

    Attributes:
        hidden_size, layers: of the LSTM.
        mlp_sizes: of the hidden layers of the arm's MLP, and of the gripper's.

    Raises:
        ValueError: a size is not possible.
    """

    hidden_size: int = 1024
    layers: int = 4
    mlp_sizes: tuple[int, ...] = (1024, 512, 256)

    def __post_init__(self) -> None:
        _require_positive(self, "robovlms", "hidden_size", "layers")
        if any(size < 1 for size in self.mlp_sizes):
            raise ValueError(f"robovlms.mlp_sizes is {self.mlp_sizes}; allowed: 1 or more each")


@dataclass(frozen=True)
class GptConfig:
    """Sizes of the causal transformer head (``policy/heads/gpt.py``); raises ValueError for one that can't be."""

    width: int = 256
    layers: int = 4
    attention_heads: int = 8

    def __post_init__(self) -> None:
        _require_positive(self, "gpt", "width", "layers", "attention_heads")
        if self.width % self.attention_heads:
            raise ValueError(
                f"gpt.width is {self.width}; allowed: multiples of attention_heads = {self.attention_heads}"
            )


@dataclass(frozen=True)
class DiscreteConfig:
    """Sizes of the discrete head (``policy/heads/discrete.py``).

    Attributes:
        bins: of each number of an action, even, so that one half of the gripper's is "open".
        hidden_size: of the LSTM.
        mlp_size: of the layer between the LSTM and the tokens.
        token_size: size of the feature that each token is classified from.

    Raises:
        ValueError: a size is not possible.
    """

    bins: int = 256
    hidden_size: int = 256
    mlp_size: int = 384
    token_size: int = 32

    def __post_init__(self) -> None:
        _require_positive(self, "discrete", "bins", "hidden_size", "mlp_size", "token_size")
        if self.bins % 2:
            raise ValueError(f"discrete.bins is {self.bins}; allowed: even numbers")


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the flow-matching head (``policy/heads/flow.py``).

    Attributes:
        hidden_size: of the LSTM.
        width: of the velocity network, even.
        blocks: of the velocity network.
        integration_steps: Euler steps from noise to actions; each is a pass of the velocity network.

    Raises:
        ValueError: a size is not possible.
    """

    hidden_size: int = 256
    width: int = 256
    blocks: int = 3
    integration_steps: int = 8

    def __post_init__(self) -> None:
        _require_positive(self, "flow", "hidden_size", "width", "blocks", "integration_steps")
        if self.width % 2:
            raise ValueError(f"flow.width is {self.width}; allowed: even numbers")


@dataclass(frozen=True)
class PolicyConfig:
    """Which backbone and head, and their sizes; the other sections are not used and not written.

    Attributes:
        max_delay_steps: how many actions may be committed already when a chunk is predicted, and are told to the
            policy; 0, which is not written, for a policy that can't be told.

    Raises:
        ValueError: ``max_delay_steps`` is negative.
    """

    backbone: str = "compact"
    head: str = "lstm"
    max_delay_steps: int = 0
    compact: CompactConfig = field(default_factory=CompactConfig)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    lstm: LstmConfig = field(default_factory=LstmConfig)
    robovlms: RobovlmsConfig = field(default_factory=RobovlmsConfig)
    gpt: GptConfig = field(default_factory=GptConfig)
    discrete: DiscreteConfig = field(default_factory=DiscreteConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self) -> None:
        if self.max_delay_steps < 0:
            raise ValueError(f"policy.max_delay_steps is {self.max_delay_steps}; allowed: 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON: the two names, the sections that they stand for, and what is switched on."""
        values = asdict(self)
        switched_on = ["max_delay_steps"] if self.max_delay_steps else []
        return {key: values[key] for key in ("backbone", "head", *switched_on, self.backbone, self.head)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str, error: type[UserError]) -> PolicyConfig:
        """Inverse of ``to_dict``; raises ``error`` that names the missing, unknown or wrong key of ``where``."""
        if isinstance(values, dict):
            values = without_removed_key(values, "delay_mode", where, error)
            used = ["backbone", "head", values.get("backbone"), values.get("head")]
            unused = {name: section for name, section in asdict(cls()).items() if name not in used}
            for name in unused.keys() & values.keys() - {"max_delay_steps"}:
                raise error(f"{where} has the key {name!r}, but its backbone and head are {used[2]!r} and {used[3]!r}")
            values = {**unused, **values}
        try:
            return schema.parse(cls, values, where, error, defaults=False)
        except ValueError as wrong:  # a size that is not possible
            raise error(f"{where}: {wrong}") from None


# Keys of version 0.1 that are gone -> the value that changes nothing, and what to do about any other.
_REMOVED_KEYS = {
    "delay_mode": (
        "prefix",
        "policies that shift their state did worse than without and are no longer supported; remove the key and train "
        "with max_delay_steps alone, or run the checkpoint with vla_ros 0.1",
    ),
    "language_weight": (0, "the language loss is no longer supported; remove the key"),
}


def without_removed_key(values: dict[str, Any], key: str, where: str, error: type[UserError]) -> dict[str, Any]:
    """Return ``values`` without ``key``, one of version 0.1; raises ``error`` if its value asks for what is gone."""
    harmless, way_out = _REMOVED_KEYS[key]
    if values.get(key, harmless) != harmless:
        raise error(f"{where}: {key} is {values[key]!r}; {way_out}")
    return {name: value for name, value in values.items() if name != key}


def _require_positive(config: object, section: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{section}.{name} is {getattr(config, name)}; allowed: 1 or more")
