# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained and how fast: freezing by pattern, low-rank adapters, parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from vla_ros.errors import UserError


class TuningError(UserError):
    """A recipe's pattern that fits no parameter, or an adapter that can't be put in."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in the vision-language model (arXiv:2106.09685), whose own weights are then frozen.

    Attributes:
        rank: of the change of a weight matrix.
        alpha: the change is scaled by alpha / rank.
        dropout: of the adapters' input, in training.
        targets: ends of the names of the linear layers that get adapters.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"optimizer.lora.rank is {self.rank}; allowed: 1 or more")
        if not self.targets:
            raise ValueError("optimizer.lora.targets is empty; name the ends of linear layers' names, such as q_proj")


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters whose names fit a pattern (``backbone.model.vision_tower.*``).

    Raises:
        TuningError: a pattern fits nothing.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        fitting = [name for name in parameters if fnmatchcase(name, pattern)]
        if not fitting:
            parts = sorted({".".join(name.split(".")[:2]) for name in parameters})
            raise TuningError(
                f"optimizer.freeze has {pattern!r}, which fits no parameter; their names begin with {', '.join(parts)}"
            )
        for name in fitting:
            parameters[name].requires_grad_(False)


def add_adapters(model: nn.Module, config: LoraConfig) -> None:
    """Put low-rank adapters into ``model`` in place and freeze all the rest of it.

    Raises:
        TuningError: peft is not installed, or no layer's name ends with one of the targets.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise TuningError("optimizer.lora needs peft: pip install 'vla_ros[vlm]', or remove optimizer.lora") from None
    adapters = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    try:
        peft.inject_adapter_in_model(adapters, model)
    except ValueError as error:
        raise TuningError(f"optimizer.lora.targets is {list(config.targets)}: {error}") from None


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters of ``add_adapters`` to the weights and take them out: the model is as it was, but trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())


def parameter_groups(
    module: nn.Module, weight_decay: float, backbone_learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices and convolutions decay; biases, norms, embeddings and scalars do not.

    Args:
        backbone_learning_rate: of parameters with ``backbone.`` in their name, in two more groups; None: as the others.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    rates = [None] if backbone_learning_rate is None else [None, backbone_learning_rate]
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay} | ({} if rate is None else {"lr": rate})
        for rate in rates
        for decay in (weight_decay, 0.0)
    ]
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings
            in_backbone = backbone_learning_rate is not None and "backbone." in name
            groups[2 * in_backbone + (not decays)]["params"].append(parameter)
    return groups
