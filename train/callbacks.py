# SPDX-License-Identifier: Apache-2.0
"""What goes on beside the training loop: averaged weights, progress in a log, pictures of the curves."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Exponential moving average whose decay grows to ``decay``, so that a short run forgets its start too.

    Lightning validates with, checkpoints and finally keeps the averaged weights.
    """

    def __init__(self, decay: float) -> None:
        def average(averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
            steps = float(count)
            momentum = min(decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(averages, currents, 1 - momentum)

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module itself is moved there only after this hook
        super().setup(trainer, pl_module, stage)
        self._swapped = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Undo a validation that was interrupted: a checkpoint is written next, and averages are no weights."""
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)


class ProgressLines(Callback):
    """One line every ``every_steps`` steps: loss, speed and time left, for logs and terminals alike."""

    def __init__(self, every_steps: int = 100) -> None:
        self._every_steps = every_steps
        self._frames = 0
        self._losses: list[float] = []
        self._last_s = self._start_s = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_s = self._start_s = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._frames += int(batch["valid"].sum())
        self._losses.append(float(outputs["loss"].detach()))
        step = trainer.global_step
        if step % self._every_steps and step != trainer.max_steps:
            return
        now_s = time.monotonic()
        speed = self._frames / (now_s - self._last_s)
        left_s = (now_s - self._start_s) / step * (trainer.max_steps - step)
        validation = trainer.callback_metrics.get("val_loss")
        print(
            f"step {step}/{trainer.max_steps}  loss {sum(self._losses) / len(self._losses):.4f}  "
            + (f"validation {float(validation):.4f}  " if validation is not None else "")
            + f"{speed:.0f} frames/s  {left_s / 60:.1f} min left",
            flush=True,
        )
        self._frames, self._losses, self._last_s = 0, [], now_s


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
