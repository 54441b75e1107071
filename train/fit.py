# SPDX-License-Identifier: Apache-2.0
"""Train a policy from recorded bags, or fine-tune one with init_from.

vla fit config/train/tabletop.json --bags bags/
vla fit config/train/finetune.json --bags bags/new --set init_from=config/checkpoints/tabletop

Writes OUTPUT/NAME/: checkpoint/ (what the robot loads), config.json, data.json, code.json, metrics.csv, curves.png,
TensorBoard events and last.ckpt. To continue an interrupted run, repeat its command with --resume OUTPUT/NAME/last.ckpt
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Demonstrations
from vla_ros.errors import UserError
from vla_ros.files import write_json
from vla_ros.policy import parameter_summary
from vla_ros.policy.checkpoint import save_checkpoint
from vla_ros.policy.module import VLAModule, check_same_contract
from vla_ros.policy.policy import Policy
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.data import DemonstrationData
from vla_ros.train.demonstrations import read_demonstrations, read_rehearsed, split_demonstrations
from vla_ros.train.distributed import Processes, in_turn, only_first_prints, started_processes
from vla_ros.train.initial_policy import new_policy, observation_spec, tuned_policy
from vla_ros.train.recipes import load_config
from vla_ros.train.resuming import LAST, read_resumable
from vla_ros.train.run_record import draw_curves, keep_metrics, write_code_state, write_data_summary
from vla_ros.train.statistics import check_commands, check_statistics
from vla_ros.train.trainer import (
    check_machine,
    end_logs,
    load_best,
    make_module,
    make_trainer,
    quiet_lightning,
    whole_module,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `vla fit`."""
    parser.add_argument("config", type=Path, help="training recipe (JSON), such as config/train/tabletop.json")
    parser.add_argument("--bags", nargs="+", metavar="PATH", help="bags, or folders of bags; overrides data.bags")
    parser.add_argument("--output", metavar="FOLDER", help="parent of the run folder; overrides output")
    parser.add_argument("--name", help="name of the run folder; overrides name")
    parser.add_argument("--resume", type=Path, metavar="CKPT", help="continue an interrupted run from its last.ckpt")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a recipe value, such as trainer.max_steps=100 (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `vla fit`."""
    overrides = list(args.overrides)
    if args.bags:
        overrides.append(f"data.bags={json.dumps(args.bags)}")
    overrides += [f"{key}={json.dumps(value)}" for key in ("output", "name") if (value := getattr(args, key))]
    checkpoint = fit(load_config(args.config, overrides), resume=args.resume)
    print(f"checkpoint: {checkpoint}")
    return 0


class EpisodeSets(NamedTuple):
    """The episodes of a training, and the (number of training episodes, weight) of each source with a weight."""

    training: Sequence[Episode]
    validation: Sequence[Episode]
    rehearsed: Sequence[Episode]
    shares: Sequence[tuple[int, float]] = ()

    def by_name(self) -> dict[str, Sequence[Episode]]:
        """Return the sets by name."""
        return {"training": self.training, "validation": self.validation, "rehearsed": self.rehearsed}


def fit(
    config: TrainConfig,
    episodes: Sequence[Episode] | None = None,
    rehearsed: Sequence[Episode] | None = None,
    resume: Path | None = None,
) -> Path:
    """Train according to `config` and return the checkpoint folder, which contains the averaged weights.

    Args:
        episodes: demonstrations in memory; None reads those of `config.data`.
        rehearsed: the same for `config.keep.bags`.
        resume: Lightning checkpoint of an interrupted run of the same recipe.

    Raises:
        ConfigError: the recipe cannot be followed: it has no demonstrations, they do not fit the starting checkpoint,
            or the run folder is in use.
        ContractError: the run to resume had other demonstrations or another recipe.
        KeyboardInterrupt: training was interrupted; how to continue has been printed.
    """
    started_s = time.monotonic()
    processes = started_processes()
    with only_first_prints(processes):
        pl.seed_everything(config.seed, verbose=False)
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        check_machine(config, processes)
        saved = _check_folder(config, resume) if processes.rank == 0 else None
        sets = _read_episodes(config, episodes, rehearsed, processes)
        policy = new_policy(config, sets.training) if config.init_from is None else tuned_policy(config, sets.training)
        _print_episodes(sets)
        data = _make_data(config, policy, sets, processes)
        if saved is not None:
            check_same_contract(saved, policy.contract)
        if processes.rank == 0:
            _prepare_folder(config, sets)
        module, trainer = _train(config, policy, data, resume, processes)
        folder = config.run_folder / "checkpoint"
        if processes.rank == 0:
            if config.trainer.export == "best_validation":
                load_best(module, trainer)
            save_checkpoint(folder, module.deployable().cpu())  # MovingAverage has installed its weights
            draw_curves(config.run_folder, config.run_folder / "curves.png")
            print(f"trained {trainer.global_step} steps in {(time.monotonic() - started_s) / 60:.1f} min")
        return folder


def _read_episodes(
    config: TrainConfig, episodes: Sequence[Episode] | None, rehearsed: Sequence[Episode] | None, processes: Processes
) -> EpisodeSets:
    sampled = observation_spec(config)
    with in_turn(processes, Path(config.output)):
        sources = read_demonstrations(config, *sampled) if episodes is None else [Demonstrations(episodes)]
        if rehearsed is None and config.keep.bags:
            rehearsed = read_rehearsed(config, sources, *sampled)
    training, validation, shares = split_demonstrations(sources, config.data.validation_fraction, config.seed)
    return EpisodeSets(training, validation, rehearsed or (), shares)


def _make_data(config: TrainConfig, policy: Policy, sets: EpisodeSets, processes: Processes) -> DemonstrationData:
    """Return the DataModule after checking that the demonstrations fit the policy and the recipe."""
    recorded = [*sets.training, *sets.validation]
    commands = [command for episode in [*recorded, *sets.rehearsed] for command in episode.commands]
    check_commands(policy, [*commands, *config.keep.retain.commands])
    if config.init_from is not None:
        config.check_loss(policy.contract.cameras)
        check_statistics(policy.contract, recorded)
    if config.trainer.export == "best_validation" and not sets.validation:
        raise ConfigError(
            "trainer.export is 'best_validation', but no episode is held out; use at least two recordings and a "
            "data.validation_fraction above 0, or set trainer.export=last"
        )
    forward = config.loss.forward_prediction
    return DemonstrationData(
        policy,
        training=sets.training,
        validation=sets.validation,
        batch_windows=config.trainer.batch_windows,
        max_steps=config.trainer.max_steps,
        shares=sets.shares,
        rehearsed=sets.rehearsed,
        rehearsed_fraction=config.keep.fraction,
        steps_ahead=forward.steps_ahead if forward else 0,
        accumulate_batches=config.trainer.accumulate_batches,
        processes=processes,
        seed=config.seed,
    )


def _train(
    config: TrainConfig, policy: Policy, data: DemonstrationData, resume: Path | None, processes: Processes
) -> tuple[VLAModule, pl.Trainer]:
    """Return the trained module and its Trainer."""
    with quiet_lightning():
        module = make_module(config, policy, data.steps_per_epoch)
        _print_network(policy)
        validates = data.val_windows is not None
        trainer = make_trainer(config, config.run_folder, validates=validates, processes=processes, module=module)
        if config.trainer.encode_once:
            print("encoding all frames once", flush=True)
            data.encode(policy.to(trainer.strategy.root_device))
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        except SystemExit:  # Lightning's reaction to Ctrl-C and SIGTERM
            raise _interrupted(config.run_folder, trainer.global_step) from None
        except MisconfigurationException as error:
            raise ConfigError(f"Lightning refuses the recipe: {error}") from None
        except Exception as error:
            if not isinstance(error, UserError):
                _print_how_to_continue(config.run_folder, f"stopped by an error after {trainer.global_step} steps")
            raise
        finally:
            end_logs(trainer)
        if config.trainer.strategy == "fsdp" and processes.rank == 0:
            module = whole_module(config, module, trainer)
    return module, trainer


def _check_folder(config: TrainConfig, resume: Path | None) -> dict[str, Any] | None:
    """Return the checkpoint to resume from, without its weights.

    Raises:
        ConfigError: before minutes are spent on reading bags, if the run could not be written or resumed.
    """
    folder = config.run_folder
    others = "use another --name or --output, or remove it"
    if (folder / "checkpoint").exists():
        raise ConfigError(f"{folder} contains a finished run; {others}")
    links = [path for path in (folder, *(folder.iterdir() if folder.is_dir() else ())) if path.is_symlink()]
    if links:
        raise ConfigError(
            f"{links[0]} is a link, through which the run would be written to {os.path.realpath(links[0])}; remove the "
            "link, or give the real folder with --output and --name"
        )
    resumes = resume is not None and resume.resolve().parent == folder.resolve()
    if folder.exists() and not resumes and (not folder.is_dir() or any(folder.iterdir())):
        last = folder / LAST
        resuming = f"continue that run with --resume {last}, " if last.is_file() else ""
        raise ConfigError(f"{folder} already exists; {resuming}{others}")
    return None if resume is None else read_resumable(resume)


def _interrupted(folder: Path, step: int) -> KeyboardInterrupt:
    """Print how to continue after an interrupt at `step`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has disabled it
    _print_how_to_continue(folder, f"interrupted after {step} steps")
    return KeyboardInterrupt()


def _print_how_to_continue(folder: Path, what: str) -> None:
    if (folder / LAST).is_file():
        print(f"{what}; to continue, repeat the command with --resume {folder / LAST}", flush=True)
    else:
        print(f"{what}, before anything was saved; remove {folder} before you start again", flush=True)


def _prepare_folder(config: TrainConfig, sets: EpisodeSets) -> None:
    """Write the recipe, code and data of the run; keep the metrics of a resumed run."""
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    keep_metrics(folder)
    write_json(folder / "config.json", config.to_dict())
    write_code_state(folder)
    write_data_summary(folder, sets.by_name())


def _print_episodes(sets: EpisodeSets) -> None:
    for name, episodes in sets.by_name().items():
        if episodes:
            tasks = {episode.task for episode in episodes}
            print(f"{name}: {len(episodes)} episodes, {sum(map(len, episodes))} frames, {len(tasks)} tasks")


def _print_network(policy: Policy) -> None:
    counts = parameter_summary.count_parameters(policy, depth=1)
    each = ", ".join(f"{count.name} {count.parameters / 1e6:.2f} M" for count in counts)
    frozen = sum(count.parameters - count.trainable for count in counts)
    note = f"; {frozen / 1e6:.2f} M are frozen" if frozen else ""
    memory = parameter_summary.training_bytes(policy) / 2**20
    print(f"policy: {each} parameters{note}; {memory:.0f} MiB without activations", flush=True)
