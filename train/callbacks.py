# SPDX-License-Identifier: Apache-2.0
"""Callbacks of the training loop: averaged weights, throughput and progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn


class MovingAverage(Callback):
    """Exponential moving average of the trained weights, whose decay grows so that short runs forget their start too.

    Validation uses the average, and training ends with it. In Lightning checkpoints `state_dict` is the average and
    `current_model_state` the weights. Lightning's EMAWeightAveraging would also copy frozen weights (those of a whole
    vision-language model, and the buffers), has a fixed decay, and saves averages as weights if validation is
    interrupted.

    Args:
        decay: the limit of the decay.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[str, Tensor] = {}
        self._updates = 0
        self.last_step = 0  # of the optimizer, that the averages include
        self._swapped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, weights in _trained(pl_module).items():
            average = self._averages.get(name)
            self._averages[name] = weights.clone() if average is None else average.to(weights.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.last_step:
            self.update(list(_trained(pl_module).values()))
            self.last_step = trainer.global_step

    def update(self, weights: list[Tensor]) -> None:
        """Add `weights`, the trained parameters in order, to the average."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._updates else 0.0
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)
        self._updates += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Swap back after an interrupted validation, as a checkpoint is saved next."""
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, weights in _trained(pl_module).items():
            weights.copy_(self._averages[name])

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        trained = {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        averages = {id(parameter): self._averages[name] for name, parameter in trained.items()}
        checkpoint["current_model_state"] = {name: parameter.detach() for name, parameter in trained.items()}
        checkpoint["state_dict"] = {  # by identity, as a tied parameter has several names
            name: averages.get(id(value), value.detach())
            for name, value in pl_module.state_dict(keep_vars=True).items()
        }
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._updates)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the averages, and give the module, just loaded with them, its weights."""
        self._updates = int(checkpoint["averaging_state"]["n_averaged"])
        for name, weights in _trained(pl_module).items():
            self._averages[name] = checkpoint["state_dict"][name].clone()
            weights.copy_(checkpoint["current_model_state"][name])

    def _swap(self, pl_module: pl.LightningModule) -> None:
        for name, weights in _trained(pl_module).items():
            current = weights.clone()
            weights.copy_(self._averages[name])
            self._averages[name].copy_(current)
        self._swapped = not self._swapped


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters, detached."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


class Throughput(Callback):
    """Logs the speed since the last log: `throughput/frames_per_s`, `/steps_per_s` and `/waiting_for_data`.

    Frames are valid frames of this process. Waiting is the share of time between the end of a step and the next batch,
    which includes callbacks and loggers; validation does not count. Lightning's ThroughputMonitor does not measure
    waiting, and would read the number of valid frames from the device at every step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._frames: Tensor | int = 0
        self._steps = self._last_step = 0
        self._waiting_s = self._elapsed_s = 0.0
        self._since_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        self._since_s = self._clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now_s = self._clock()
        self._waiting_s += now_s - self._since_s
        self._elapsed_s += now_s - self._since_s
        self._since_s = now_s

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._frames = self._frames + batch["valid"].sum()
        stepped = trainer.global_step > self._last_step  # not after each of several accumulated batches
        self._last_step = trainer.global_step
        self._steps += stepped
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set in its __init__
        logs = stepped and trainer.global_step % every == 0
        frames = int(self._frames) if logs else 0  # synchronises with the device
        now_s = self._clock()
        self._elapsed_s += now_s - self._since_s
        self._since_s = now_s
        if logs:
            self._log(trainer, frames)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since_s = self._clock()

    def _log(self, trainer: pl.Trainer, frames: int) -> None:
        figures = {
            "throughput/frames_per_s": frames / self._elapsed_s,
            "throughput/steps_per_s": self._steps / self._elapsed_s,
            "throughput/waiting_for_data": self._waiting_s / self._elapsed_s,
        }
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step - 1)  # Lightning's step count
        self._frames, self._steps, self._waiting_s, self._elapsed_s = 0, 0, 0.0, 0.0


class ProgressLines(Callback):
    """Prints loss, speed and remaining time every `every_steps` steps."""

    def __init__(self, every_steps: int = 100) -> None:
        self._every_steps = every_steps
        self._frames: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._last_s = self._start_s = time.monotonic()
        self._first_step = self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_s = self._start_s = time.monotonic()
        self._first_step = self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._frames.append(batch["valid"].sum())  # tensors, as reading them would synchronise
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # undo Lightning's division
        step = trainer.global_step
        stepped = step > self._last_step  # not after each of several accumulated batches
        self._last_step = step
        if not stepped or (step % self._every_steps and step != trainer.max_steps):
            return
        sums = torch.stack([torch.stack(self._frames).sum().float(), torch.stack(self._losses).mean()])
        frames, loss = trainer.strategy.reduce(sums, reduce_op="mean").tolist()
        frames *= trainer.world_size
        now_s = time.monotonic()
        speed = frames / (now_s - self._last_s)
        left_s = (now_s - self._start_s) / (step - self._first_step) * (trainer.max_steps - step)
        validation = trainer.callback_metrics.get("val_loss")
        print(
            f"step {step}/{trainer.max_steps}  loss {loss:.4f}  "
            + (f"validation {float(validation):.4f}  " if validation is not None else "")
            + f"{speed:.0f} frames/s  {left_s / 60:.1f} min left",
            flush=True,
        )
        self._frames, self._losses, self._last_s = [], [], now_s
