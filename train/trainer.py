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
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import plugins
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins import CheckpointIO

from vla_ros.policy.backbones.vlm import VlmBackbone
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.train.callbacks import MovingAverage, ProgressLines, Throughput
from vla_ros.train.config import ConfigError, TrainConfig, TrainerConfig
from vla_ros.train.distributed import ALONE, Processes
from vla_ros.train.resuming import LAST, AtomicCheckpoints, LastCheckpoint, SeededBatches
from vla_ros.train.sharding import ShardedPrecision, WholeWeights, sharded_strategy

LOG_EVERY_STEPS = 20
MPS_PRECISION = "32-true"  # the only one that mps is sure to have
# Lightning's names. Parameters may go unused: a head without the command, a frozen camera.
STRATEGIES = {"ddp": "ddp_find_unused_parameters_true", "fsdp": "fsdp", "deepspeed": "deepspeed_stage_2"}


def check_machine(config: TrainConfig, processes: Processes) -> None:
    """Raise ConfigError, before minutes are spent on reading bags, if this machine cannot follow the recipe."""
    trainer = config.trainer
    if "fsdp" in trainer.strategy and trainer.ema_decay:
        raise ConfigError(
            f"trainer.strategy is {trainer.strategy!r}, where no process has the whole weights to average; set "
            "trainer.ema_decay=0, or use trainer.strategy=ddp"
        )
    unknown = [name for name in trainer.plugins if name not in plugins.__all__]
    if unknown:
        raise ConfigError(f"trainer.plugins has {unknown[0]!r}; it must be one of {', '.join(plugins.__all__)}")
    if _on_mps(trainer) and trainer.precision != MPS_PRECISION:
        print(f"training on mps in {MPS_PRECISION}, not {trainer.precision}: trainer.precision is for other devices")
    try:
        with quiet_lightning():
            probe = pl.Trainer(**_hardware(trainer, processes), logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ImportError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"trainer.accelerator {trainer.accelerator!r} with strategy {trainer.strategy!r} and precision "
            f"{trainer.precision!r}{_and_plugins(trainer)} is not possible here: {error}"
        ) from None
    if trainer.precision in ("16", "16-mixed") and probe.strategy.root_device.type == "cpu":  # Lightning would use bf16
        raise ConfigError(
            f"trainer.precision is {trainer.precision!r}, but on a CPU it must be '32-true' or 'bf16-mixed'"
        )
    if trainer.wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "trainer.wandb_project is set, but Weights & Biases is not installed: pip install 'vla_ros[wandb]', or "
            "remove it; metrics.csv has the same figures"
        )


def make_module(config: TrainConfig, policy: Policy, steps_per_epoch: int = 1) -> VLAModule:
    """Return the LightningModule of a recipe, with the frozen starting policy if it self-distils."""
    retain = config.keep.retain
    if config.trainer.gradient_checkpointing:
        if not isinstance(policy.backbone, VlmBackbone):
            backbone = policy.config.backbone
            raise ConfigError(
                f"trainer.gradient_checkpointing is set, but the backbone is {backbone!r}; it must be 'vlm'"
            )
        model = policy.backbone.model
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable({"use_reentrant": False})
        else:  # transformers before 5.20
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return VLAModule(
        policy,
        max_steps=config.trainer.max_steps,
        steps_per_epoch=steps_per_epoch,
        optimizer=config.optimizer,
        loss=config.loss,
        augment=config.augment,
        retain=retain,
        teacher=load_checkpoint(config.init_from) if config.init_from and retain.weight else None,
    )


def make_trainer(
    config: TrainConfig, folder: Path, *, validates: bool, processes: Processes = ALONE, module: VLAModule | None = None
) -> pl.Trainer:
    """Return the Trainer of a recipe, which writes only to `folder`.

    Args:
        module: what it will train, needed by the strategy "fsdp".
    """
    chosen = config.trainer
    hardware = _hardware(chosen, processes)
    if chosen.strategy == "fsdp":
        assert module is not None
        hardware["strategy"] = sharded_strategy(module)
        hardware["plugins"] = [*hardware["plugins"], ShardedPrecision(hardware.pop("precision"))]
    every = min(chosen.validate_every_steps, chosen.max_steps) * chosen.accumulate_batches  # in batches
    return pl.Trainer(
        **hardware,
        max_steps=chosen.max_steps,
        accumulate_grad_batches=chosen.accumulate_batches,
        use_distributed_sampler=False,  # DemonstrationData distributes the windows
        gradient_clip_val=chosen.gradient_clip_value or chosen.gradient_clip_norm,
        gradient_clip_algorithm="value" if chosen.gradient_clip_value else "norm",
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


def _hardware(trainer: TrainerConfig, processes: Processes) -> dict[str, Any]:
    """Return the Trainer's arguments that depend on the machine; the names are handed to Lightning as they are."""
    auto = "auto" if processes.count == 1 else STRATEGIES["ddp"]
    strategy = auto if trainer.strategy == "auto" else STRATEGIES.get(trainer.strategy, trainer.strategy)
    chosen = [getattr(plugins, name)() for name in trainer.plugins]
    own_files = strategy.startswith(("deepspeed", "xla")) or any(isinstance(one, CheckpointIO) for one in chosen)
    return {
        "accelerator": trainer.accelerator,
        "strategy": strategy,
        "precision": MPS_PRECISION if _on_mps(trainer) else trainer.precision,
        "devices": processes.on_machine,
        "num_nodes": processes.count // processes.on_machine,
        "plugins": chosen if own_files else [*chosen, AtomicCheckpoints()],
    }


def _on_mps(trainer: TrainerConfig) -> bool:
    return trainer.accelerator == "mps" or (trainer.accelerator == "auto" and MPSAccelerator.is_available())


def _and_plugins(trainer: TrainerConfig) -> str:
    return f" and the plugins {', '.join(trainer.plugins)}" if trainer.plugins else ""


def _callbacks(config: TrainConfig, folder: Path, validates: bool, processes: Processes) -> list[Callback]:
    chosen = config.trainer
    every = min(chosen.validate_every_steps, chosen.max_steps)
    progress = RichProgressBar() if sys.stdout.isatty() else ProgressLines()
    callbacks: list[Callback] = [MovingAverage(chosen.ema_decay)] if chosen.ema_decay else []
    if chosen.strategy == "fsdp":
        callbacks.append(WholeWeights())
    callbacks.append(SeededBatches(config.seed, processes.rank))
    callbacks.append(LastCheckpoint(folder, every, validates=validates))
    if validates:
        best: dict[str, Any] = {"monitor": chosen.monitor, "mode": "max" if "accuracy" in chosen.monitor else "min"}
        name, kept = chosen.checkpoint_name, chosen.save_top_k
        callbacks.append(ModelCheckpoint(folder, name, save_top_k=kept, enable_version_counter=False, **best))
        if chosen.patience_validations:
            callbacks.append(EarlyStopping(patience=chosen.patience_validations, **best))
    return [*callbacks, LearningRateMonitor("step"), Throughput(), progress]


def _loggers(config: TrainConfig, folder: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(folder, name=None, version="")]
    try:
        loggers.append(TensorBoardLogger(folder, name=None, version="", default_hp_metric=False))
    except ModuleNotFoundError:  # the extra [train]
        print("TensorBoard is not installed (pip install 'vla_ros[train]'): metrics go to metrics.csv only")
    if config.trainer.wandb_project is not None:
        offline = os.environ.get("WANDB_MODE") != "online"  # no network access unless requested
        folder.mkdir(parents=True, exist_ok=True)
        wandb = WandbLogger(config.name, folder, offline=offline, project=config.trainer.wandb_project)
        wandb.log_hyperparams(config.to_dict())
        loggers.append(wandb)
    return loggers


def whole_module(config: TrainConfig, module: VLAModule, trainer: pl.Trainer) -> VLAModule:
    """Return a copy of the sharded `module` with the weights gathered at the end of the training."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in its __init__
    (gathered,) = (callback for callback in callbacks if isinstance(callback, WholeWeights))
    policy = module.policy
    whole = make_module(config, Policy(policy.contract, policy.config, policy.tokenizer))
    whole.load_state_dict(gathered.state)
    return whole


def load_best(module: VLAModule, trainer: pl.Trainer) -> None:
    """Load the averaged weights of the validation with the smallest loss into `module`, and print its step."""
    (best,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
    if not Path(best.best_model_path).is_file():
        last = Path(trainer.default_root_dir) / LAST
        raise ConfigError(
            f"trainer.export is 'best_validation', but this run has no file {best.best_model_path or 'best.ckpt'}; "
            f"--resume {last} with --set trainer.export=last exports the last weights"
        )
    saved = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    what = "validation" if best.monitor == "val_loss" else best.monitor
    print(f"the checkpoint is that of step {saved['global_step']}: {what} {best.best_model_score:.4f}")


def end_logs(trainer: pl.Trainer) -> None:
    """Finish the wandb run, which would stay open and be continued by this process's next training."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice that does not apply here, such as worker processes for data in memory."""
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
