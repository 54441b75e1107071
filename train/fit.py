# SPDX-License-Identifier: Apache-2.0
"""Train a policy from recorded bags, or fine-tune one with init_from.

vla fit config/train/tabletop.json --bags bags/
vla fit config/train/finetune.json --bags bags/new --set init_from=config/checkpoints/tabletop

Writes OUTPUT/NAME/: checkpoint/ (what the robot loads), config.json, data.json, code.json, metrics.csv, curves.png,
TensorBoard events and last.ckpt (an interrupted run goes on with the same command and --resume OUTPUT/NAME/last.ckpt).
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Demonstrations
from vla_ros.policy import parameter_summary as summary
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.policy.policy import Policy
from vla_ros.train.build import new_policy, observation_spec, tuned_policy
from vla_ros.train.callbacks import draw_curves, keep_metrics
from vla_ros.train.checks import check_commands, check_statistics
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.data import DemonstrationData, read_demonstrations, read_rehearsed, split_demonstrations
from vla_ros.train.data_summary import write_data_summary
from vla_ros.train.machine import SHARDED
from vla_ros.train.processes import Processes, in_turn, only_first_prints, started_processes
from vla_ros.train.recipes import load_config
from vla_ros.train.run_record import write_code_state
from vla_ros.train.trainer import (
    check_machine,
    end_logs,
    load_best,
    make_module,
    make_trainer,
    whole_module,
    without_advice,
)


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
    check_machine(config, processes)
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
        accumulate_batches=config.trainer.accumulate_batches,
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
        write_code_state(folder)
        write_data_summary(folder, {"training": training, "validation": validation, "rehearsed": rehearsed or ()})
    if processes.count > 1:
        torch.manual_seed(config.seed + processes.rank)  # the network was made alike; augmentation and dropout differ
    with without_advice():
        module = make_module(config, policy)
        _announce_network(policy)
        trainer = make_trainer(config, folder, validates=bool(validation), processes=processes, module=module)
        if config.trainer.encode_once:
            print("encoding all frames, once", flush=True)
            data.encode(policy.to(trainer.strategy.root_device))
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
            raise _interrupted(folder, trainer.global_step) from None
        finally:
            end_logs(trainer)
        if config.trainer.strategy in SHARDED and processes.rank == 0:
            module = whole_module(config, module, trainer)
    if processes.rank:
        return folder / "checkpoint"
    if config.trainer.export == "best_validation":
        load_best(module, trainer)
    save_checkpoint(folder / "checkpoint", module.deployable().cpu())  # MovingAverage has put its weights in at the end
    draw_curves(folder, folder / "curves.png")
    print(f"trained {trainer.global_step} steps in {(time.monotonic() - started_s) / 60:.1f} min")
    return folder / "checkpoint"


def _check_folder(config: TrainConfig, resume: Path | None) -> None:
    """Raise ConfigError if the run could not be written, before minutes are spent on reading bags."""
    folder = config.run_folder
    if resume is not None and config.trainer.strategy == "deepspeed":
        raise ConfigError(
            "--resume with trainer.strategy 'deepspeed', whose checkpoints are pickles that can run code; start again, "
            "or train with trainer.strategy=fsdp, which resumes"
        )
    if resume is not None and not resume.is_file():
        raise ConfigError(f"there is no file {resume} to resume from; it is called last.ckpt in a run folder")
    if resume is not None and config.trainer.strategy == "fsdp":
        torch.load(resume, map_location="meta", weights_only=True, mmap=True)  # Lightning's own reader runs pickles
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
        print(f"interrupted; there is nothing to go on from: remove {folder} before you start again", flush=True)
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
    parts = summary.count_parameters(policy, depth=1)
    each = ", ".join(f"{part.name} {part.parameters / 1e6:.2f} M" for part in parts)
    frozen = sum(part.parameters - part.trainable for part in parts)
    note = f"; {frozen / 1e6:.2f} M are frozen" if frozen else ""
    memory = summary.training_bytes(policy) / 2**20
    print(f"policy: {each} parameters{note}; {memory:.0f} MiB without activations", flush=True)
