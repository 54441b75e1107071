# SPDX-License-Identifier: Apache-2.0
"""What makes a resumed training the one that was interrupted, bit for bit: seeds, last.ckpt, and how it is written."""

from __future__ import annotations

import signal
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from vla_ros.errors import UserError
from vla_ros.files import atomic_write
from vla_ros.train.callbacks import MovingAverage
from vla_ros.train.config import ConfigError

LAST = "last.ckpt"
_REPEATED_WITHIN_S = 1.0  # torchrun and the terminal may each send the same Ctrl-C
# Of the state of Lightning's ModelCheckpoint, which deletes the file or folder at some of these paths.
_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
_KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "contract")


class SaveError(UserError):
    """A checkpoint that could not be written."""


class SeededBatches(Callback):
    """Makes augmentation and dropout a function of seed, process and batch, as the draws of windows are.

    Wherever a training was interrupted, it continues with the random numbers that it would have drawn.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed, self._rank = seed, rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        drawn = np.random.SeedSequence([self._seed, self._rank, batch_idx]).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt every `every_steps` steps and when the training is interrupted, always as of the end of a step.

    Ctrl-C and SIGTERM wait until the step is complete; a second Ctrl-C does not. After an exception, last.ckpt has the
    last complete step, or stays as it was if the exception came while the optimizer was changing the weights.

    Lightning's checkpoints record how far a batch had come: resumed, they skip a validation that was due, and count
    part of a step twice. Here they always say that the step is complete, and whether its validation is.

    Args:
        every_steps: also the interval of validations.
        validates: whether there are any.
    """

    def __init__(self, folder: Path, every_steps: int, *, validates: bool) -> None:
        super().__init__(
            folder,
            filename=Path(LAST).stem,
            every_n_train_steps=every_steps,
            save_on_exception=True,
            enable_version_counter=False,
        )
        self._every_steps, self._validates = every_steps, validates
        self._validated_step = self._changing_step = -1
        self._asked_s: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():  # Lightning restores the handlers at the end
            signal.signal(signal.SIGINT, self._ask)
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, _: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._asked_s is None:
            self._asked_s = now_s
            print("stopping after this step; Ctrl-C again stops at once", flush=True)
        elif number == signal.SIGINT and now_s - self._asked_s > _REPEATED_WITHIN_S:
            raise KeyboardInterrupt

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        self._changing_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        super().on_train_batch_end(trainer, *arguments)
        asked = self._asked_s is not None
        if trainer.world_size > 1:  # all stop after the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._asked_s is not None and trainer.world_size == 1:
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated_step = trainer.global_step

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        alone = trainer.world_size == 1  # else saving would wait for processes that had no exception
        saves = isinstance(exception, KeyboardInterrupt) or (alone and not isinstance(exception, SaveError))
        if saves and trainer.global_step and self._is_complete(trainer):
            super().on_exception(trainer, pl_module, exception)

    def _is_complete(self, trainer: pl.Trainer) -> bool:
        """Return whether weights, their average and the optimizer are those after `trainer.global_step` steps."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in its __init__
        averages = [callback for callback in callbacks if isinstance(callback, MovingAverage)]
        averaged = all(average.last_step == trainer.global_step for average in averages)
        return averaged and self._changing_step != trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write Lightning's counts as they are between two steps."""
        loops, steps = checkpoint["loops"]["fit_loop"], trainer.global_step
        batches = steps * trainer.accumulate_grad_batches
        progress = loops["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), batches))
        progress["is_last_batch"] = batches >= trainer.num_training_batches
        validation_step = self._validates and steps % self._every_steps == 0
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - validation_step  # counted after validation
        if validation_step and self._validated_step != steps:
            validation = loops["epoch_loop.val_loop.batch_progress"]  # Lightning's sign of one to be run
            validation["total"].update(ready=1, started=1, processed=0, completed=0)
            validation["current"].update(ready=0, started=0, processed=0, completed=0)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are either complete or not there.

    Lightning's own are first written to /tmp, which may be another file system, and need their size in memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with atomic_write(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # the latter from torch, after an OSError
            while isinstance(error.__context__, OSError):
                error = error.__context__
            last = path.with_name(LAST)
            how = f"continue with --resume {last}, which is intact" if last.is_file() else "start again"
            raise SaveError(
                f"{path} could not be written ({error}); make room or repair the disk, then {how}"
            ) from None


def read_resumable(path: Path) -> dict[str, Any]:
    """Return the checkpoint of an interrupted training, without its weights.

    Raises:
        ConfigError: it is damaged, holds pickled objects, is of another kind, or names other files than checkpoints.
    """
    if not path.is_file():
        raise ConfigError(f"--resume is {path}, which is not a file; use the last.ckpt in a run folder")
    way_out = "use another copy of it, the best.ckpt beside it, or start a new run without --resume"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch reads flipped bits without a word
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} has changed since it was written")
        saved = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # there is no end to what torch may find in a damaged file
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"--resume is {path}, which is damaged ({reason}); {way_out}") from None
    missing = [key for key in _KEYS if key not in saved] if isinstance(saved, dict) else list(_KEYS)
    if missing:
        raise ConfigError(f"--resume is {path}, which is no checkpoint of a training: it lacks {missing[0]}; {way_out}")
    for named in _paths(saved["callbacks"]):
        # Not necessarily in its folder: a run that was moved names its old one, where Lightning deletes nothing.
        if ".." in Path(named).parts or "://" in named or not named.endswith(".ckpt"):
            raise ConfigError(
                f"--resume is {path}, which would have Lightning read or delete {named!r}; use the last.ckpt that the "
                "run itself has written"
            )
    return dict(saved)


def _paths(callbacks: Mapping[str, Any]) -> Iterator[str]:
    """Yield every path in the states of ModelCheckpoint: Lightning deletes the earlier best, and reads the best."""
    for state in callbacks.values():
        if isinstance(state, Mapping):
            yield from (str(state[name]) for name in _PATHS if state.get(name))
            yield from map(str, state.get("best_k_models") or ())
