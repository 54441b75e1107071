# SPDX-License-Identifier: Apache-2.0
"""Train a policy from recorded bags, or fine-tune one with init_from.

vla fit config/train/tabletop.json --bags bags/
vla fit config/train/finetune.json --bags bags/new --set init_from=config/checkpoints/tabletop

Writes OUTPUT/NAME/: checkpoint/ (what the robot loads), config.json, data.json, metrics.csv, curves.png, TensorBoard
events and last.ckpt (an interrupted run goes on with the same command and --resume OUTPUT/NAME/last.ckpt).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
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

from vla_ros.demos.episode import Episode
from vla_ros.policy import summary
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.train.build import new_policy, observation_spec, tuned_policy
from vla_ros.train.callbacks import MovingAverage, ProgressLines, draw_curves, keep_metrics
from vla_ros.train.config import ConfigError, TrainConfig, load_config
from vla_ros.train.data import DemonstrationData, check_commands, check_statistics
from vla_ros.train.data_summary import write_data_summary
from vla_ros.train.demonstrations import Demonstrations, read_demonstrations, read_rehearsed, split_demonstrations
from vla_ros.train.processes import ALONE, Processes, in_turn, only_first_prints, started_processes

LOG_EVERY_STEPS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla fit``."""
    parser.add_argument("config", type=Path, help="training recipe (JSON), for instance config/train/tabletop.json")
    parser.add_argument("--bags", nargs="+", metavar="PATH", help="bag folders, or folders of them; replaces data.bags")
    parser.add_argument("--output", metavar="FOLDER", help="where the run folder goes; replaces output")
    parser.add_argument("--name", help="name of the run folder; replaces name")
    parser.add_argument("--resume", type=Path, metavar="CKPT", help="continue an interrupted run from its last.ckpt")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="replace a value of the recipe, for instance trainer.max_steps=100 (repeatable)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run ``vla fit``."""
    overrides = list(args.overrides)
    if args.bags:
        overrides.append(f"data.bags={json.dumps(args.bags)}")
    overrides += [f"{key}={json.dumps(value)}" for key in ("output", "name") if (value := getattr(args, key))]
    checkpoint = fit(load_config(args.config, overrides), resume=args.resume)
    print(f"checkpoint: {checkpoint}")
    return 0


def fit(
    config: TrainConfig,
    episodes: Sequence[Episode] | None = None,
    rehearsed: Sequence[Episode] | None = None,
    resume: Path | None = None,
) -> Path:
    """Train as ``config`` says and return the checkpoint folder, which holds the averaged weights.

    Args:
        episodes: demonstrations that are already in memory; None reads what ``config.data`` names.
        rehearsed: the same for ``config.keep.bags``.
        resume: Lightning checkpoint of an interrupted run of the same recipe.

    Raises:
        ConfigError: the recipe cannot be followed: no demonstrations, demonstrations that do not fit the starting
            checkpoint, or something is in the run folder already.
        ContractError: the run to resume had other demonstrations or another recipe.
        KeyboardInterrupt: the training was interrupted; how to go on is printed.
    """
    processes = started_processes()
    with only_first_prints(processes):
        return _fit(config, episodes, rehearsed, resume, processes)


def _fit(
    config: TrainConfig,
    episodes: Sequence[Episode] | None,
    rehearsed: Sequence[Episode] | None,
    resume: Path | None,
    processes: Processes,
) -> Path:
    started_s = time.monotonic()
    pl.seed_everything(config.seed, verbose=False)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    if processes.rank == 0:
        _check_folder(config, resume)
    sampled = observation_spec(config)
    with in_turn(processes, Path(config.output)):
        sources = read_demonstrations(config, *sampled) if episodes is None else [Demonstrations(episodes)]
        if rehearsed is None and config.keep.bags:
            rehearsed = read_rehearsed(config, sources, *sampled)
    episodes = [episode for source in sources for episode in source.episodes]
    training, validation, shares = split_demonstrations(sources, config.data.validation_fraction, config.seed)
    policy = new_policy(config, training) if config.init_from is None else tuned_policy(config, training)
    _announce(training, validation, rehearsed or ())
    retained = config.keep.retain.commands
    said = [command for episode in [*episodes, *(rehearsed or ())] for command in episode.commands]
    check_commands(policy, [*said, *retained])
    if config.init_from is not None:
        config.check_loss(policy.contract.cameras)
        check_statistics(policy.contract, episodes)
    data = DemonstrationData(
        policy,
        training=training,
        validation=validation,
        batch_windows=config.trainer.batch_windows,
        max_steps=config.trainer.max_steps,
        shares=shares,
        rehearsed=rehearsed or (),
        rehearsed_fraction=config.keep.fraction,
        steps_ahead=config.loss.forward_prediction.steps_ahead if config.loss.forward_prediction else 0,
        processes=processes,
        seed=config.seed,
    )
    if config.trainer.export == "best_validation" and not validation:
        raise ConfigError(
            "trainer.export is 'best_validation', but no episode is held out; give two recordings or more and a "
            "data.validation_fraction above 0, or set trainer.export=last"
        )
    folder = config.run_folder
    if processes.rank == 0:
        _prepare_folder(config)
        write_data_summary(folder, {"training": training, "validation": validation, "rehearsed": rehearsed or ()})
    if processes.count > 1:
        torch.manual_seed(config.seed + processes.rank)  # the network was made alike; augmentation and dropout differ
    with _without_advice():
        module = make_module(config, policy)
        _announce_network(policy)
        trainer = make_trainer(config, folder, validates=bool(validation), processes=processes)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
            raise _interrupted(folder, trainer.global_step) from None
    if config.trainer.export == "best_validation":
        _load_best(module, trainer)
    if processes.rank:
        return folder / "checkpoint"
    save_checkpoint(folder / "checkpoint", module.deployable().cpu())  # MovingAverage has put its weights in at the end
    draw_curves(folder, folder / "curves.png")
    print(f"trained {trainer.global_step} steps in {(time.monotonic() - started_s) / 60:.1f} min")
    return folder / "checkpoint"


def _load_best(module: VLAModule, trainer: pl.Trainer) -> None:
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


def make_trainer(
    config: TrainConfig, folder: Path, *, validates: bool, processes: Processes = ALONE
) -> pl.Trainer:
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
    return [average, last, *held_out, LearningRateMonitor("step"), progress]


def _loggers(folder: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(folder, name=None, version="")]
    try:
        loggers.append(TensorBoardLogger(folder, name=None, version="", default_hp_metric=False))
    except ModuleNotFoundError:  # the extra [train]; metrics.csv has the same figures
        print("TensorBoard is not installed (pip install 'vla_ros[train]'): metrics go to metrics.csv only")
    return loggers


def _check_folder(config: TrainConfig, resume: Path | None) -> None:
    """Raise ConfigError if the run could not be written, before minutes are spent on reading bags."""
    folder = config.run_folder
    if resume is not None and not resume.is_file():
        raise ConfigError(f"there is no file {resume} to resume from; it is called last.ckpt in a run folder")
    others = "give another --name or --output, or remove it"
    if (folder / "checkpoint").exists():
        raise ConfigError(f"{folder} holds a finished run; {others}")
    goes_on = resume is not None and resume.resolve().parent == folder.resolve()
    if folder.exists() and not goes_on and (not folder.is_dir() or any(folder.iterdir())):
        last = folder / "last.ckpt"
        way = f"continue that run with --resume {last}, " if last.is_file() else ""
        raise ConfigError(f"{folder} exists and is not overwritten; {way}{others}")


def _interrupted(folder: Path, step: int) -> KeyboardInterrupt:
    """Say how to go on after an interrupt at ``step``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched it off
    last = folder / "last.ckpt"
    if last.is_file():
        print(f"interrupted after {step} steps; go on with the same command and --resume {last}", flush=True)
    else:
        print(f"interrupted before anything was saved; remove {folder} before you start again", flush=True)
    return KeyboardInterrupt()


def _prepare_folder(config: TrainConfig) -> Path:
    """Return the run folder with config.json in it; the metrics of a run that is resumed stay."""
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    keep_metrics(folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    return folder


def _announce(training: Sequence[Episode], validation: Sequence[Episode], rehearsed: Sequence[Episode]) -> None:
    for name, episodes in (("training", training), ("validation", validation), ("rehearsed", rehearsed)):
        if episodes:
            tasks = {episode.task for episode in episodes}
            print(f"{name}: {len(episodes)} episodes, {sum(map(len, episodes))} frames, {len(tasks)} tasks")


def _announce_network(policy: Policy) -> None:
    """Say how much of each part of the policy is trained."""
    parts = summary.parts(policy, depth=1)
    each = ", ".join(f"{part.name} {part.parameters / 1e6:.2f} M" for part in parts)
    frozen = sum(part.parameters - part.trainable for part in parts)
    note = f"; {frozen / 1e6:.2f} M are frozen" if frozen else ""
    memory = summary.training_bytes(policy) / 2**20
    print(f"policy: {each} parameters{note}; {memory:.0f} MiB without activations", flush=True)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
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
