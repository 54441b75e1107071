# SPDX-License-Identifier: Apache-2.0
"""From a recipe to what Lightning runs: the module, the Trainer, its callbacks and loggers."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.train.callbacks import MovingAverage, ProgressLines, Throughput
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.processes import ALONE, Processes

LOG_EVERY_STEPS = 20


def load_best(module: VLAModule, trainer: pl.Trainer) -> None:
    """Give ``module`` the averaged weights of the validation with the smallest loss, and say which that was."""
    (best,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
    if not Path(best.best_model_path).is_file():
        last = Path(trainer.default_root_dir) / "last.ckpt"
        raise ConfigError(
            f"trainer.export is 'best_validation', but there is no file {best.best_model_path or 'best.ckpt'} of this "
            f"run; --resume {last} with --set trainer.export=last gives the last weights"
        )
    saved = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    print(f"the checkpoint is that of step {saved['global_step']}: validation {best.best_model_score:.4f}")


def make_module(config: TrainConfig, policy: Policy) -> VLAModule:
    """Return the LightningModule of a recipe, with the frozen starting policy where self-distillation is on."""
    retain = config.keep.retain
    if config.trainer.gradient_checkpointing:
        if policy.config.backbone != "vlm":
            raise ConfigError(
                f"trainer.gradient_checkpointing is set, but the backbone is {policy.config.backbone!r}; allowed: 'vlm'"
            )
        model = policy.backbone.model
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable({"use_reentrant": False})
        else:  # transformers before 5.20
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return VLAModule(
        policy,
        max_steps=config.trainer.max_steps,
        optimizer=config.optimizer,
        loss=config.loss,
        augment=config.augment,
        retain=retain,
        teacher=load_checkpoint(config.init_from) if config.init_from and retain.weight else None,
    )


def make_trainer(config: TrainConfig, folder: Path, *, validates: bool, processes: Processes = ALONE) -> pl.Trainer:
    """Return the Trainer of a recipe; everything that it writes is in ``folder``."""
    chosen = config.trainer
    return pl.Trainer(
        max_steps=chosen.max_steps,
        accelerator=chosen.accelerator,
        devices=processes.on_machine,
        num_nodes=processes.count // processes.on_machine,
        strategy="auto" if processes.count == 1 else "ddp_find_unused_parameters_true",
        use_distributed_sampler=False,  # DemonstrationData shares the windows out
        precision=chosen.precision,
        gradient_clip_val=chosen.gradient_clip_norm,
        gradient_clip_algorithm="norm",
        val_check_interval=min(chosen.validate_every_steps, chosen.max_steps) if validates else None,
        check_val_every_n_epoch=None if validates else 1,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(LOG_EVERY_STEPS, chosen.max_steps),
        callbacks=_callbacks(config, folder, validates),
        logger=_loggers(folder),
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=folder,
    )


def _callbacks(config: TrainConfig, folder: Path, validates: bool) -> list[Callback]:
    every = min(config.trainer.validate_every_steps, config.trainer.max_steps)
    last = ModelCheckpoint(
        folder, filename="last", every_n_train_steps=every, save_on_exception=True, enable_version_counter=False
    )
    best = [ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False)]
    progress = RichProgressBar() if sys.stdout.isatty() else ProgressLines()
    average = MovingAverage(config.trainer.ema_decay)
    held_out: list[Callback] = list(best) if validates else []
    if validates and config.trainer.patience_validations:
        held_out.append(EarlyStopping("val_loss", patience=config.trainer.patience_validations))
    return [average, last, *held_out, LearningRateMonitor("step"), Throughput(), progress]


def _loggers(folder: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(folder, name=None, version="")]
    try:
        loggers.append(TensorBoardLogger(folder, name=None, version="", default_hp_metric=False))
    except ModuleNotFoundError:  # the extra [train]; metrics.csv has the same figures
        print("TensorBoard is not installed (pip install 'vla_ros[train]'): metrics go to metrics.csv only")
    return loggers


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Silence Lightning's advice that does not apply here, for instance worker processes for data in memory."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for text in (
            "does not have many workers",
            "exists and is not empty",
            "treespec",
            "dataloader is not resumable",
        ):
            warnings.filterwarnings("ignore", f".*{text}.*")
        try:
            yield
        finally:
            logger.setLevel(level)
