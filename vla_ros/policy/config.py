# SPDX-License-Identifier: Apache-2.0
"""Configuration of the network, as written to a checkpoint's `config.json`, and of the losses it is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from vla_ros import schema
from vla_ros.errors import UserError


class _Sizes:
    """Sizes of one section of the configuration; every integer must be at least 1."""

    _section: ClassVar[str]

    def __init_subclass__(cls, section: str) -> None:
        cls._section = section

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{self._section}.{name} is {value}; it must be at least 1")

    def _require_multiple(self, name: str, divisor: str) -> None:
        value, allowed = getattr(self, name), getattr(self, divisor)
        if value % allowed:
            raise ValueError(f"{self._section}.{name} is {value}; it must be a multiple of {divisor} = {allowed}")


@dataclass(frozen=True)
class CompactConfig(_Sizes, section="compact"):
    """Sizes of the compact backbone (`policy/backbones/compact.py`).

    Attributes:
        channels: output channels of the four convolutions of a camera's encoder (multiples of 8).
        keypoints: spatial-softmax keypoints per camera.
        text_size: size E of the text feature.
        feature_size: size D of a frame's feature.
        dropout: dropout probability in the fusion MLP.
    """

    channels: tuple[int, int, int, int] = (32, 32, 48, 48)
    keypoints: int = 48
    text_size: int = 64
    feature_size: int = 384
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if any(count < 8 or count % 8 for count in self.channels):
            raise ValueError(f"compact.channels is {self.channels}; each must be a multiple of 8")
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"compact.dropout is {self.dropout}; it must be in [0, 1)")


@dataclass(frozen=True)
class VlmConfig:
    """A vision-language model of transformers as backbone (`policy/backbones/vlm.py`).

    Attributes:
        pretrained: in a recipe, the folder or hub id of the weights to start from; None in a checkpoint, which contains
            the weights.
        model: the model's own configuration, as transformers writes it, with its `model_type`; empty in a recipe with
            `pretrained`. Without `pretrained` the weights are initialised randomly.
        history_mode: how the W frames of the history enter the model. "policy_head": one at a time, the head fuses time
            (a history of 1 frame is the one-step policy). "interleaved": all in one sequence, a feature after each.
            "video": all in one sequence, one feature at its end.
        around_image: the tokens before and after each image's tokens, or none; `pretrained` sets those that the model
            was trained with.
        layout: where images stand in a frame's sequence. "own": where the model was trained to see them. "robovlms":
            right after the command's first token, as checkpoints of RoboVLMs need.
    """

    pretrained: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    history_mode: Literal["policy_head", "interleaved", "video"] = "policy_head"
    around_image: tuple[int, ...] = ()
    layout: Literal["own", "robovlms"] = "own"

    def __post_init__(self) -> None:
        if self.pretrained is not None and self.model:
            raise ValueError(
                "vlm.pretrained and vlm.model are both set, but pretrained weights bring their own configuration: "
                "remove vlm.model, or remove vlm.pretrained to start from random weights"
            )
        if len(self.around_image) not in (0, 2):
            raise ValueError(
                f"vlm.around_image is {self.around_image}; it must be empty or the token before and the one after"
            )
        if self.layout == "robovlms" and self.history_mode != "policy_head":
            raise ValueError(
                f"vlm.layout is 'robovlms', but vlm.history_mode is {self.history_mode!r}; it must be 'policy_head'"
            )


@dataclass(frozen=True)
class MlpConfig(_Sizes, section="mlp"):
    """Sizes of the MLP head (`policy/heads/mlp.py`)."""

    mlp_size: int = 384
    layers: int = 2


@dataclass(frozen=True)
class LstmConfig(_Sizes, section="lstm"):
    """Sizes of the LSTM head (`policy/heads/lstm.py`)."""

    hidden_size: int = 256
    layers: int = 1
    mlp_size: int = 384


@dataclass(frozen=True)
class RobovlmsConfig(_Sizes, section="robovlms"):
    """Sizes of RoboVLMs' LSTM head (`policy/heads/robovlms.py`); the defaults are those of the published weights.

    Attributes:
        mlp_sizes: hidden layers of the arm's and of the gripper's MLP.
    """

    hidden_size: int = 1024
    layers: int = 4
    mlp_sizes: tuple[int, ...] = (1024, 512, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(size < 1 for size in self.mlp_sizes):
            raise ValueError(f"robovlms.mlp_sizes is {self.mlp_sizes}; each must be at least 1")


@dataclass(frozen=True)
class GptConfig(_Sizes, section="gpt"):
    """Sizes of the causal transformer head (`policy/heads/gpt.py`)."""

    width: int = 256
    layers: int = 4
    attention_heads: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_multiple("width", "attention_heads")


@dataclass(frozen=True)
class DiscreteConfig(_Sizes, section="discrete"):
    """Sizes of the discrete head (`policy/heads/discrete.py`).

    Attributes:
        bins: per number of an action; even, so that half of the gripper's mean "open".
        mlp_size: of the layer between LSTM and tokens.
        token_size: size of the feature that each token is classified from.
    """

    bins: int = 256
    hidden_size: int = 256
    mlp_size: int = 384
    token_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins % 2:
            raise ValueError(f"discrete.bins is {self.bins}; it must be even")


@dataclass(frozen=True)
class FlowConfig(_Sizes, section="flow"):
    """Sizes of the flow-matching head (`policy/heads/flow.py`).

    Attributes:
        width, blocks: of the velocity network; the width is even.
        integration_steps: Euler steps from noise to actions, each a pass of the velocity network.
    """

    hidden_size: int = 256
    width: int = 256
    blocks: int = 3
    integration_steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"flow.width is {self.width}; it must be even")


@dataclass(frozen=True)
class PolicyConfig:
    """The backbone and head by name, and their sizes; sections of others are ignored and not written."""

    backbone: str = "compact"
    head: str = "lstm"
    compact: CompactConfig = field(default_factory=CompactConfig)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    lstm: LstmConfig = field(default_factory=LstmConfig)
    robovlms: RobovlmsConfig = field(default_factory=RobovlmsConfig)
    gpt: GptConfig = field(default_factory=GptConfig)
    discrete: DiscreteConfig = field(default_factory=DiscreteConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON: backbone, head, and their sections."""
        values = asdict(self)
        return {key: values[key] for key in ("backbone", "head", self.backbone, self.head)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str, error: type[UserError]) -> PolicyConfig:
        """Invert `to_dict`; raises `error` naming the missing, unknown or invalid key of `where`."""
        if isinstance(values, dict):
            values = without_removed_keys(values, "policy", where, error)
            used = ["backbone", "head", values.get("backbone"), values.get("head")]
            unused = {name: section for name, section in asdict(cls()).items() if name not in used}
            for name in unused.keys() & values.keys():
                raise error(f"{where} has the key {name!r}, but its backbone and head are {used[2]!r} and {used[3]!r}")
            values = {**unused, **values}
        try:
            return schema.parse(cls, values, where, error, defaults=False)
        except ValueError as invalid:
            raise error(f"{where}: {invalid}") from None


@dataclass(frozen=True)
class ForwardPredictionConfig(_Sizes, section="loss.forward_prediction"):
    """Prediction of the cameras' future images as an auxiliary task (`policy/forward_prediction.py`).

    Attributes:
        weight: of the mean squared error, in normalised pixels, in the loss.
        steps_ahead: control periods between the current and the predicted frame.
        patch_px: edge of a patch; divides the height and width of every camera.
        width, layers, attention_heads: of the transformer that decodes the patches.
    """

    weight: float = 0.1
    steps_ahead: int = 4
    patch_px: int = 16
    width: int = 192
    layers: int = 2
    attention_heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_multiple("width", "attention_heads")

    def check_image_sizes(self, camera_sizes: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError if the patches do not tile the images (height, width) of a camera."""
        for name, (height, width) in camera_sizes.items():
            if height % self.patch_px or width % self.patch_px:
                raise ValueError(
                    f"loss.forward_prediction.patch_px is {self.patch_px}, but the camera {name} is {height}x{width}; "
                    "it must divide the height and width of every camera"
                )


@dataclass(frozen=True)
class LossConfig:
    """Loss terms and their weights.

    Attributes:
        huber_delta: of the arm's Huber loss, in normalised units (heads that regress).
        gripper_weight: weight of the gripper's term relative to the arm's.
        forward_prediction: None to train without.
    """

    huber_delta: float = 0.1
    gripper_weight: float = 0.1
    forward_prediction: ForwardPredictionConfig | None = None


_NO_DELAYS = (
    "training with delays is no longer supported: executor path_following does as well with any checkpoint. Remove the "
    "key from a recipe; train such a checkpoint again without it (config/train/tabletop.json, or init_from another "
    "checkpoint), or run it with vla_ros 0.1"
)
# Keys of version 0.1 that are gone, by section -> the value that meant "off", and the way out for any other.
_REMOVED_KEYS: dict[str, dict[str, tuple[Any, str]]] = {
    "policy": {"max_delay_steps": (0, _NO_DELAYS), "delay_mode": ("prefix", _NO_DELAYS)},
    "loss": {"language_weight": (0, "the language loss is no longer supported; remove the key")},
}


def without_removed_keys(values: dict[str, Any], section: str, where: str, error: type[UserError]) -> dict[str, Any]:
    """Return `values` without the section's keys of version 0.1; raises `error` if one asks for what is gone."""
    removed = _REMOVED_KEYS[section]
    for key, (off, way_out) in removed.items():
        if values.get(key, off) != off:
            raise error(f"{where}: {key} is {values[key]!r}; {way_out}")
    return {name: value for name, value in values.items() if name not in removed}
