# SPDX-License-Identifier: Apache-2.0
"""Fully sharded training: each process keeps a piece of every weight, gradient and moment (torch's FSDP).

What Lightning's own strategy leaves open is here: clipping by the norm of all pieces, and the whole weights at the end.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.precision import FSDPPrecision
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import MixedPrecision
from torch.optim import Optimizer

# Weights, gradients and buffers stay in float32, as under DDP; autocast does the rest where the precision is mixed.
_FULL = MixedPrecision(param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32)


class ShardedPrecision(FSDPPrecision):
    """Clips by the norm of the whole gradient, of which each process has a piece; Lightning's refuses to."""

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float | int, *_: Any, **__: Any) -> None:
        pieces = [parameter.grad for parameter in self.main_params(optimizer) if parameter.grad is not None]
        device = pieces[0].device if pieces else torch.device("cuda", torch.cuda.current_device())
        squares = torch.zeros((), device=device)
        for norm in torch._foreach_norm(pieces) if pieces else ():
            squares += norm.float() ** 2
        distributed.all_reduce(squares)
        if pieces:
            torch._foreach_mul_(pieces, (clip_val / (squares.sqrt() + 1e-6)).clamp(max=1.0))


def sharded_strategy(module: nn.Module) -> FSDPStrategy:
    """Return the strategy that wraps each layer of a vision-language model in ``module``, and the rest as one.

    A layer's whole weights are there while it runs only; the names of such layers' classes are the model's own.
    """
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    layers = {type(part) for part in module.modules() if type(part).__name__ in names}
    return FSDPStrategy(auto_wrap_policy=layers or None, mixed_precision=_FULL)


class WholeWeights(Callback):
    """Gathers the weights when the training has ended: in the first process, ``state`` then has all of them."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gathered = trainer.strategy.lightning_module_state_dict()
        self.state = {name: value.detach().cpu() for name, value in gathered.items()} if trainer.is_global_zero else {}


class SharedCheckpoint(ModelCheckpoint):
    """Saves on an interrupt, which all processes get, but on no other exception: one would wait for the others."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)):
            super().on_exception(trainer, pl_module, exception)
