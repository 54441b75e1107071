# SPDX-License-Identifier: Apache-2.0
"""Fully sharded training (torch's FSDP): what Lightning's strategy lacks.

That is clipping by the norm of the whole gradient, and gathering the weights at the end.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import FSDPPrecision
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import MixedPrecision
from torch.optim import Optimizer

# Weights, gradients and buffers stay in float32, as under DDP; mixed precision comes from autocast.
_FULL = MixedPrecision(param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32)


class ShardedPrecision(FSDPPrecision):
    """Clips by the norm of the whole gradient, of which each process has a shard; Lightning refuses to."""

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float | int, *_: Any, **__: Any) -> None:
        shards = [parameter.grad for parameter in self.main_params(optimizer) if parameter.grad is not None]
        device = shards[0].device if shards else torch.device("cuda", torch.cuda.current_device())
        squares = torch.zeros((), device=device)
        for norm in torch._foreach_norm(shards) if shards else ():
            squares += norm.float() ** 2
        distributed.all_reduce(squares)
        if shards:
            torch._foreach_mul_(shards, (clip_val / (squares.sqrt() + 1e-6)).clamp(max=1.0))


def sharded_strategy(module: nn.Module) -> FSDPStrategy:
    """Return the strategy that shards each layer of a vision-language model in `module`, and the rest as one.

    The model names its layer classes itself.
    """
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    layers = {type(part) for part in module.modules() if type(part).__name__ in names}
    return FSDPStrategy(auto_wrap_policy=layers or None, mixed_precision=_FULL)


class WholeWeights(Callback):
    """Gathers the weights when training ends, into `state` of the first process."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gathered = trainer.strategy.lightning_module_state_dict()
        self.state = {name: value.detach().cpu() for name, value in gathered.items()} if trainer.is_global_zero else {}
