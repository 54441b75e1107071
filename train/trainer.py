# SPDX-License-Identifier: Apache-2.0
"""From a recipe to what Lightning runs: the module, the Trainer, its callbacks and loggers."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.train.callbacks import MovingAverage, ProgressLines, RandomState, Throughput
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.machine import SHARDED, choose, this_machine
from vla_ros.train.processes import ALONE, Processes
from vla_ros.train.sharding import ShardedPrecision, SharedCheckpoint, WholeWeights, sharded_strategy

LOG_EVERY_STEPS = 20


def whole_module(config: TrainConfig, module: VLAModule, trainer: pl.Trainer) -> VLAModule:
    """Return ``module`` after a training that took it to pieces: made anew, with the weights that were gathered."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in its __init__
    (gathered,) = (callback for callback in callbacks if isinstance(callback, WholeWeights))
    policy = module.policy
    anew = make_module(config, Policy(policy.contract, policy.config, policy.tokenizer))
    anew.load_state_dict(gathered.state)
    return anew


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


def check_machine(config: TrainConfig, processes: Processes) -> None:
    """Raise ConfigError where a recipe wants what this machine lacks, before minutes are spent on reading bags."""
    choose(config.trainer, processes, this_machine())
    if config.trainer.wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "trainer.wandb_project is set, but Weights & Biases is not installed: pip install 'vla_ros[wandb]', or "
            "leave it out; metrics.csv has the same figures"
        )


def make_trainer(
    config: TrainConfig, folder: Path, *, validates: bool, processes: Processes = ALONE, module: VLAModule | None = None
) -> pl.Trainer:
    """Return the Trainer of a recipe; everything that it writes is in ``folder``.

    Args:
        module: what it will train, which the strategy "fsdp" takes to pieces.

    Raises:
        ConfigError: the accelerator, strategy or precision can't be had here.
    """
    chosen = config.trainer
    accelerator, name = choose(chosen, processes, this_machine())
    strategy: Any = name
    numbers: dict[str, Any] = {"precision": chosen.precision}
    if name == "fsdp":
        assert module is not None
        strategy, numbers = sharded_strategy(module), {"plugins": [ShardedPrecision(chosen.precision)]}
    every = min(chosen.validate_every_steps, chosen.max_steps) * chosen.accumulate_batches  # batches, here
    return pl.Trainer(
        max_steps=chosen.max_steps,
        accumulate_grad_batches=chosen.accumulate_batches,
        accelerator=accelerator,
        devices=processes.on_machine,
        num_nodes=processes.count // processes.on_machine,
        strategy=strategy,
        use_distributed_sampler=False,  # DemonstrationData shares the windows out
        **numbers,
        gradient_clip_val=chosen.gradient_clip_norm,
        gradient_clip_algorithm="norm",
        val_check_interval=every if validates else None,
        check_val_every_n_epoch=None if validates else 1,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(LOG_EVERY_STEPS, chosen.max_steps),
        callbacks=_callbacks(config, folder, validates, processes),
        logger=_loggers(config, folder),
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=folder,
    )


def _callbacks(config: TrainConfig, folder: Path, validates: bool, processes: Processes) -> list[Callback]:
    chosen = config.trainer
    every = min(chosen.validate_every_steps, chosen.max_steps)
    progress = RichProgressBar() if sys.stdout.isatty() else ProgressLines()
    callbacks: list[Callback] = [MovingAverage(chosen.ema_decay)] if chosen.ema_decay else []
    checkpoint: type[ModelCheckpoint] = ModelCheckpoint
    if chosen.strategy in SHARDED:
        checkpoint = SharedCheckpoint
        callbacks.append(WholeWeights())
    if processes.count == 1:  # several processes each draw their own
        callbacks.append(RandomState())
    callbacks.append(
        checkpoint(
            folder, filename="last", every_n_train_steps=every, save_on_exception=True, enable_version_counter=False
        )
    )
    if validates:
        callbacks.append(ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False))
    if validates and chosen.patience_validations:
        callbacks.append(EarlyStopping("val_loss", patience=chosen.patience_validations))
    return [*callbacks, LearningRateMonitor("step"), Throughput(), progress]


def _loggers(config: TrainConfig, folder: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(folder, name=None, version="")]
    try:
        loggers.append(TensorBoardLogger(folder, name=None, version="", default_hp_metric=False))
    except ModuleNotFoundError:  # the extra [train]; metrics.csv has the same figures
        print("TensorBoard is not installed (pip install 'vla_ros[train]'): metrics go to metrics.csv only")
    if config.trainer.wandb_project is not None:
        loggers.append(_wandb_logger(config, config.trainer.wandb_project, folder))
    return loggers


def _wandb_logger(config: TrainConfig, project: str, folder: Path) -> Logger:
    offline = os.environ.get("WANDB_MODE") != "online"  # a training reaches for no network that nobody named
    folder.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(config.name, folder, offline=offline, project=project)
    logger.log_hyperparams(config.to_dict())
    return logger


def end_logs(trainer: pl.Trainer) -> None:
    """Close the logs that would stay open until the process ends, and be gone on with by its next training."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish()


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
