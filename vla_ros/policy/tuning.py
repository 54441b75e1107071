# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained, and how fast: freezing, low-rank adapters, optimizer groups, learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from vla_ros.errors import UserError


class TuningError(UserError):
    """A pattern that matches no parameter, or adapters that cannot be added."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv:2106.09685) in the vision-language model, whose own weights are then frozen.

    Attributes:
        rank: of the change of a weight matrix.
        alpha: the change is scaled by alpha / rank.
        dropout: of the adapters' input, in training.
        targets: name suffixes of the linear layers that get adapters.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"optimizer.lora.rank is {self.rank}; it must be at least 1")
        if not self.targets:
            raise ValueError("optimizer.lora.targets is empty; list name suffixes of linear layers, such as q_proj")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a schedule.

    Attributes:
        betas: decay of AdamW's moving averages of the gradient and of its square.
        schedule: after the warm-up, a "cosine" down to `learning_rate * min_lr_scale`, or "constant".
        schedule_interval: the schedule's progress counts every "step", or whole epochs only ("epoch": one pass over the
            training windows); the warm-up counts steps.
        backbone_learning_rate: for the backbone's parameters; None: `learning_rate`.
        freeze: name patterns of parameters that are not trained (`backbone.model.vision_tower.*`).
        lora: adapters in the vision-language model; None trains its own weights.
    """

    learning_rate: float = 8e-4
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    schedule_interval: Literal["step", "epoch"] = "step"
    min_lr_scale: float = 0.01
    backbone_learning_rate: float | None = None
    freeze: tuple[str, ...] = ()
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas is {list(self.betas)}; each must be in [0, 1)")

    def learning_rate_scale(self, step: int, max_steps: int, steps_per_epoch: int = 1) -> float:
        """Return the factor on the learning rate at `step`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        if self.schedule_interval == "epoch":
            step = max(self.warmup_steps, step // steps_per_epoch * steps_per_epoch)
        progress = min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))
        return self.min_lr_scale + (1 - self.min_lr_scale) * 0.5 * (1 + math.cos(math.pi * progress))


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters whose names match a pattern (`backbone.model.vision_tower.*`).

    Raises:
        TuningError: a pattern matches nothing.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        matching = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matching:
            prefixes = sorted({".".join(name.split(".")[:2]) for name in parameters})
            raise TuningError(
                f"optimizer.freeze has {pattern!r}, which matches no parameter; their names start with "
                f"{', '.join(prefixes)}"
            )
        for name in matching:
            parameters[name].requires_grad_(False)


def add_adapters(model: nn.Module, config: LoraConfig) -> None:
    """Add low-rank adapters to `model` in place and freeze the rest of it.

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
    """Merge the adapters of `add_adapters` into the weights and remove them."""
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
        backbone_learning_rate: for parameters with `backbone.` in their name, in two more groups.
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
