# SPDX-License-Identifier: Apache-2.0
"""What does our Trainer cost against a bare PyTorch loop, and how long does training wait for data?

Both train copies of the same module on the same windows, drawn by the same loader with the same seed, in short turns; a
round is one turn of each. The bare loop draws a batch, clips, and steps optimizer and schedule, without logging, moving
average or checkpoints. Ours is what `vla fit` runs, with all callbacks and loggers. Waiting is time inside the loader's
`next`. On a busy machine, look at the CPU time (of this process, all threads), which suffers less.

    python benchmarks/train_step.py --json benchmarks/results/train_step.json
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import figures
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from vla_ros import resources
from vla_ros.datasets.episode import Episode
from vla_ros.policy.module import Batch, VLAModule
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import DemonstrationData
from vla_ros.train.initial_policy import new_policy
from vla_ros.train.recipes import load_config
from vla_ros.train.trainer import make_module, make_trainer, quiet_lightning

WARM_UP_STEPS = 4


@dataclass(frozen=True)
class Turn:
    """Seconds per step, seconds waiting for data, and CPU seconds per step."""

    step_s: float
    waiting_s: float
    processor_s: float


class Timed:
    """A loader that records when the first batch after the warm-up was requested, and the time in `next` since."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self.started_s = self.waiting_s = self.started_processor_s = 0.0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        for step in range(len(self._loader)):
            asked_s = time.perf_counter()
            if step == WARM_UP_STEPS:
                self.started_s, self.waiting_s, self.started_processor_s = asked_s, 0.0, time.process_time()
            batch = next(batches)
            self.waiting_s += time.perf_counter() - asked_s
            yield batch

    def turn(self) -> Turn:
        """Return the turn that ends now."""
        steps = len(self) - WARM_UP_STEPS
        wall_s, processor_s = time.perf_counter() - self.started_s, time.process_time() - self.started_processor_s
        return Turn(wall_s / steps, self.waiting_s / steps, processor_s / steps)


class End(Callback):
    """Records when the last step was done, including the callbacks before this one."""

    def __init__(self, batches: Timed) -> None:
        self._batches = batches
        self.turn: Turn | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == trainer.max_steps:
            self.turn = self._batches.turn()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=resources.path("config/train/tabletop.json"))
    parser.add_argument("--steps", type=int, default=16, help="steps per turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = arguments.steps + WARM_UP_STEPS
    config = load_config(arguments.config, [f"trainer.max_steps={steps}", "trainer.accelerator=cpu", *arguments.set])
    episodes = [make_episode(config, index) for index in range(20)]
    policy = new_policy(config, episodes)
    data = DemonstrationData(
        policy, training=episodes, validation=(), batch_windows=config.trainer.batch_windows, max_steps=steps
    )
    module = make_module(config, policy)
    rounds: list[tuple[Turn, Turn]] = []
    for index in range(arguments.rounds):
        turns = {}
        for run in (bare, ours) if index % 2 else (ours, bare):
            pl.seed_everything(index, verbose=False)
            turns[run] = run(config, copy.deepcopy(module), Timed(data.train_dataloader()))
        rounds.append((turns[bare], turns[ours]))
        print(f"round {index}: bare {rounds[-1][0]}, ours {rounds[-1][1]}", flush=True)
    report(arguments, config, rounds)


def report(arguments: argparse.Namespace, config: TrainConfig, rounds: list[tuple[Turn, Turn]]) -> None:
    """Print and write the medians."""
    overheads = [ours.step_s / bare.step_s - 1 for bare, ours in rounds]
    processor = [ours.processor_s / bare.processor_s - 1 for bare, ours in rounds]
    waiting = [ours.waiting_s / ours.step_s for _, ours in rounds]
    rows = [
        ("bare loop, per step", f"{1e3 * statistics.median(bare.step_s for bare, _ in rounds):.1f} ms", ""),
        ("our Trainer, per step", f"{1e3 * statistics.median(ours.step_s for _, ours in rounds):.1f} ms", ""),
        (
            "our Trainer relative to the bare loop of its round",
            f"{statistics.median(overheads):+.1%}",
            spread(overheads),
        ),
        ("the same, CPU time", f"{statistics.median(processor):+.1%}", spread(processor)),
        ("waiting for data", f"{statistics.median(waiting):.1%}", spread(waiting)),
    ]
    for row in rows:
        print("{:50} {:>10}  {}".format(*row))
    if arguments.json:
        figures.write(
            arguments.json,
            title="A training step",
            runs=len(rounds),
            note=f"{config.name}: {config.trainer.batch_windows} windows per step on the CPU, "
            f"torch threads: {arguments.threads}; {arguments.steps} steps per turn, interleaved; medians. "
            "Demonstrations in memory.",
            columns=("quantity", "median", "range"),
            rows=rows,
            details={"rounds": [[vars(turn) for turn in pair] for pair in rounds]},
        )


def spread(values: list[float]) -> str:
    return f"{min(values):+.1%} to {max(values):+.1%}"


def make_episode(config: TrainConfig, index: int, frames: int = 80) -> Episode:
    """Return an episode of noise that matches the recipe's contract."""
    assert config.contract is not None
    random = np.random.default_rng(index)
    pictures = {
        camera.name: random.integers(0, 256, (frames, camera.height, camera.width, 3), dtype=np.uint8)
        for camera in config.contract.cameras
    }
    acts = random.normal(0, 0.05, (frames, 7))
    acts[:, 6] = random.random(frames) > 0.5
    return Episode(
        images=pictures,
        proprioception=random.normal(0.4, 0.1, (frames, len(config.contract.proprioception))).astype(np.float32),
        actions=acts,
        command=f"pick up block {index}",
        task=f"task {index}",
        outcome="success",
        source=f"noise#{index}",
        start_ns=0,
        ticks=np.arange(frames, dtype=np.int64),
    )


def bare(config: TrainConfig, module: VLAModule, batches: Timed) -> Turn:
    """Train with plain PyTorch."""
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]  # type: ignore[index, call-overload]
    module.train()
    for batch in batches:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.trainer.gradient_clip_norm)
        optimizer.step()
        schedule.step()
    return batches.turn()


def ours(config: TrainConfig, module: VLAModule, batches: Timed) -> Turn:
    """Train with the Trainer of `vla fit`, discarding its output."""
    end = End(batches)
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        away = replace(config, output=folder, trainer=replace(config.trainer, validate_every_steps=10**6))
        trainer = make_trainer(away, away.run_folder, validates=False)
        checkpoints = [c for c in trainer.callbacks if isinstance(c, pl.callbacks.ModelCheckpoint)]
        others = [c for c in trainer.callbacks if c not in checkpoints]
        trainer.callbacks = [*others, end, *checkpoints]  # the file that is written in the last step is no step's cost
        module.validation_step = None  # type: ignore[assignment,method-assign]  # nothing is held out here
        trainer.fit(module, train_dataloaders=batches)
    assert end.turn is not None
    return end.turn


if __name__ == "__main__":
    main()
