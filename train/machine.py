# SPDX-License-Identifier: Apache-2.0
"""What a recipe's accelerator, strategy and precision come to on a machine, or why they can't be had there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import NamedTuple

from vla_ros.train.config import ConfigError, TrainerConfig
from vla_ros.train.processes import Processes

# The names of recipes -> Lightning's. Parameters may go unused: a head without the language, a frozen camera.
STRATEGIES = {"ddp": "ddp_find_unused_parameters_true", "fsdp": "fsdp", "deepspeed": "deepspeed_stage_2"}
SHARDED = ("fsdp", "deepspeed")


@dataclass(frozen=True)
class Machine:
    """What there is: accelerators, and whether the package deepspeed is installed."""

    cuda: bool = False
    mps: bool = False
    tpu: bool = False
    deepspeed: bool = False


class Chosen(NamedTuple):
    """What Lightning's Trainer is given: one of cpu, cuda, mps, tpu; "auto" or a value of ``STRATEGIES``."""

    accelerator: str
    strategy: str


def this_machine() -> Machine:
    """Return what this machine has."""
    from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

    return Machine(
        cuda=CUDAAccelerator.is_available(),
        mps=MPSAccelerator.is_available(),
        tpu=XLAAccelerator.is_available(),
        deepspeed=importlib.util.find_spec("deepspeed") is not None,
    )


def choose(trainer: TrainerConfig, processes: Processes, machine: Machine) -> Chosen:
    """Return what to run ``trainer`` on.

    Raises:
        ConfigError: something was asked for by name that ``machine`` does not have, or that does not go together.
    """
    accelerator = _accelerator(trainer.accelerator, machine)
    _check_precision(trainer.precision, accelerator)
    if accelerator in ("mps", "tpu"):
        if trainer.strategy != "auto" or processes.count > 1:
            asked = f"trainer.strategy={trainer.strategy}" if trainer.strategy != "auto" else "train/run.sh"
            raise ConfigError(
                f"{asked} asks for several processes, but the accelerator is {accelerator}, which trains in one only; "
                "use `vla fit` with trainer.strategy=auto, or set trainer.accelerator=cpu"
            )
        return Chosen(accelerator, "auto")
    if trainer.strategy == "auto":
        return Chosen(accelerator, "auto" if processes.count == 1 else STRATEGIES["ddp"])
    if trainer.strategy in SHARDED:
        _check_sharded(trainer, accelerator, machine)
    return Chosen(accelerator, STRATEGIES[trainer.strategy])


def _accelerator(asked: str, machine: Machine) -> str:
    there = {"tpu": machine.tpu, "cuda": machine.cuda, "mps": machine.mps, "cpu": True}
    if asked == "auto":
        return next(name for name, found in there.items() if found)
    name = asked if asked != "gpu" else "mps" if machine.mps and not machine.cuda else "cuda"
    if not there[name]:
        needs = {
            "cuda": "torch finds no NVIDIA GPU",
            "mps": "torch finds no Apple GPU",
            "tpu": "there is no TPU, or torch_xla is not installed",
        }[name]
        found = ", ".join(each for each, is_there in there.items() if is_there)
        raise ConfigError(
            f"trainer.accelerator is {asked!r}, but {needs}; this machine has: {found}; "
            "set trainer.accelerator=auto to take what is there"
        )
    return name


def _check_precision(precision: str, accelerator: str) -> None:
    """Raise ConfigError for a precision that an accelerator can't do, or that Lightning would replace by another."""
    allowed = {"mps": ("32-true",), "tpu": ("32-true",), "cpu": ("32-true", "bf16-mixed")}.get(accelerator)
    if allowed and precision not in allowed:
        raise ConfigError(
            f"trainer.precision is {precision!r}, but the accelerator is {accelerator}; allowed: {', '.join(allowed)}"
        )


def _check_sharded(trainer: TrainerConfig, accelerator: str, machine: Machine) -> None:
    """Raise ConfigError for what weights, gradients or moments in pieces can't do."""
    name = trainer.strategy
    if accelerator != "cuda":
        raise ConfigError(
            f"trainer.strategy is {name!r}, which needs an NVIDIA GPU, but the accelerator is {accelerator}; use "
            "trainer.strategy=ddp (several processes) or auto"
        )
    if name == "deepspeed" and not machine.deepspeed:
        raise ConfigError(
            "trainer.strategy is 'deepspeed', but the package deepspeed is not installed: pip install deepspeed, or "
            "use trainer.strategy=fsdp"
        )
    if trainer.ema_decay:
        raise ConfigError(
            f"trainer.strategy is {name!r}, under which no process has the whole weights to average; set "
            "trainer.ema_decay=0 to train without the moving average, or use trainer.strategy=ddp"
        )
    if name == "deepspeed" and trainer.precision != "32-true":
        raise ConfigError(
            f"trainer.precision is {trainer.precision!r} with trainer.strategy 'deepspeed', which would round the "
            "contract's statistics with the weights; allowed: '32-true', or trainer.strategy=fsdp"
        )
    if name == "deepspeed" and trainer.export == "best_validation":
        raise ConfigError(
            "trainer.export is 'best_validation' with trainer.strategy 'deepspeed', whose checkpoints are folders of "
            "its own; allowed: 'last', or trainer.strategy=fsdp"
        )
