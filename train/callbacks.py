# SPDX-License-Identifier: Apache-2.0
"""What goes on beside the training loop: averaged weights, speed and progress in a log, pictures of curves."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn


class MovingAverage(Callback):
    """Exponential moving average of what is trained, with a decay that grows: a short run forgets its start too.

    Weights that are frozen, such as those of a vision-language model with adapters, are their own average: they are
    neither copied nor averaged. Validation runs with the average, ``state_dict`` of a Lightning checkpoint holds it
    (the weights themselves are in ``current_model_state``), and the training ends with it.

    Args:
        decay: what the decay grows to.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[str, Tensor] = {}
        self._updates = 0
        self._last_step = 0
        self._swapped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, weights in _trained(pl_module).items():
            average = self._averages.get(name)
            self._averages[name] = weights.clone() if average is None else average.to(weights.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._last_step:
            self.update(list(_trained(pl_module).values()))
            self._last_step = trainer.global_step

    def update(self, weights: list[Tensor]) -> None:
        """Average ``weights``, those of the trained parameters in their order, in."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._updates else 0.0
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)
        self._updates += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Undo a validation that was interrupted: a checkpoint is written next, and averages are no weights."""
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, weights in _trained(pl_module).items():
            weights.copy_(self._averages[name])

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_step = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        trained = {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        averages = {id(parameter): self._averages[name] for name, parameter in trained.items()}
        checkpoint["current_model_state"] = {name: parameter.detach() for name, parameter in trained.items()}
        checkpoint["state_dict"] = {  # by identity, as a tied parameter has several names here
            name: averages.get(id(value), value.detach())
            for name, value in pl_module.state_dict(keep_vars=True).items()
        }
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._updates)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the averages, and give the module, which has just been loaded with them, its own weights."""
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
    """Return the parameters that are trained, as tensors without a history of gradients."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


class RandomState(Callback):
    """Draw, after a resume, what the interrupted training would have drawn: augmentation, dropout, delays."""

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._resumed is None:
            return
        torch.set_rng_state(self._resumed["cpu"])
        if len(self._resumed["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self._resumed["cuda"])

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict


class Throughput(Callback):
    """Log how fast the training goes, over the steps since the last log: frames and steps a second, waiting for data.

    Names: ``throughput/frames_per_s``, of valid frames in this process, ``throughput/steps_per_s`` and
    ``throughput/waiting_for_data``, the part of the time between the end of one step and the batch of the next, in
    which callbacks and loggers run too. Validation does not count. Nothing is read from the device between two logs.
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
        frames = int(self._frames) if logs else 0  # waits for the device, whose time this is
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
            logger.log_metrics(figures, step=trainer.global_step - 1)  # as Lightning counts its own
        self._frames, self._steps, self._waiting_s, self._elapsed_s = 0, 0, 0.0, 0.0


class ProgressLines(Callback):
    """One line every ``every_steps`` steps: loss, speed and time left, for logs and terminals alike."""

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
        self._frames.append(batch["valid"].sum())  # tensors: reading them would wait for the device at every step
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # its part of a step's
        step = trainer.global_step
        stepped = step > self._last_step  # not after each of several accumulated batches
        self._last_step = step
        if not stepped or (step % self._every_steps and step != trainer.max_steps):
            return
        frames, loss = float(sum(self._frames)), float(sum(self._losses)) / len(self._losses)
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


def keep_metrics(folder: Path) -> None:
    """Put ``metrics.csv`` of an interrupted run at the end of ``metrics.before.csv``: the logger would delete it."""
    now, before = folder / "metrics.csv", folder / "metrics.before.csv"
    if not now.exists():
        return
    rows = [*_rows(before), *_rows(now)]
    columns = sorted({name for row in rows for name in row})
    with before.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    now.unlink()


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def draw_curves(folder: Path, picture: Path) -> None:
    """Draw every metric of a run's ``metrics.csv`` over the steps, training and validation in one plot each.

    What an interrupted run had logged comes from ``metrics.before.csv``; a step that was done twice counts as it was
    done last.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in [*_rows(folder / "metrics.before.csv"), *_rows(folder / "metrics.csv")]:
        for key, value in row.items():
            phase, _, name = key.partition("/")
            if name and value:
                series[name][phase][int(row["step"])] = float(value)
    if not series:
        return
    figure, axes = pyplot.subplots(len(series), 1, figsize=(8, 2.2 * len(series)), sharex=True, squeeze=False)
    for axis, (name, phases) in zip(axes[:, 0], sorted(series.items()), strict=True):
        for phase, points in sorted(phases.items()):
            axis.plot(*zip(*sorted(points.items()), strict=True), label=phase)
        axis.set_ylabel(name)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)
    pyplot.close(figure)
