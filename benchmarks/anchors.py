# SPDX-License-Identifier: Apache-2.0
"""What do the parts of a policy bring? Small trainings on the simulated arm that differ in one thing, some seeds each.

Every variant is the recipe of its group with one change, trained on the same bags with as many frames a step, then run
in the simulator, all in the same scenes. Group "memory" does `nudge_lit`, where only the first pictures tell which
block is meant; group "usual" does tasks whose pictures tell it all along. "Held out" is the arm's mean absolute error
on held-out episodes, in normalised units. Trainings this small are far from what the recipe can do: only differences
within a group mean something.

Trainings that are done are kept in a folder, finished cells in the JSON file; started again, it goes on with the rest.

    vla record-demo --task nudge_lit pick_up_red --episodes 200 --output bags
    python benchmarks/anchors.py --bags bags --json benchmarks/results/anchors.json
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import torch

from vla_ros import resources
from vla_ros.evaluation.intervals import wilson_interval
from vla_ros.train.fit import fit
from vla_ros.train.recipes import load_config
from vla_ros.train.rollouts import HORIZON_TICKS, RolloutSettings, request_rollouts, run_rollouts

RECIPE_FILE = resources.path("config/train/tabletop.json")
FIRST_SEED = 80_000
CHUNK, FRAMES = 8, 48  # actions of a chunk; frames of a step, whatever the history
CAMERAS = json.dumps([{"name": "static", "height": 64, "width": 64}, {"name": "wrist", "height": 32, "width": 32}])
RECIPE = (
    f"contract.cameras={CAMERAS}",
    f"contract.chunk={CHUNK}",
    "policy.compact.channels=[24, 24, 32, 32]",
    "policy.compact.feature_size=256",
    'augment.shift_px={"static": 1, "wrist": 2}',
    "augment.camera_dropout={}",
    "optimizer.learning_rate=1e-3",
    "optimizer.warmup_steps=50",
    "trainer.ema_decay=0.99",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "data.validation_fraction=0.1",
    "data.workers=1",
)
FORWARD = json.dumps({"steps_ahead": 4, "weight": 0.3, "width": 96, "layers": 1})
ONE_BY_ONE = "first_action"


@dataclass(frozen=True)
class Group:
    """Variants that compare with each other: the same tasks, the same scenes."""

    tasks: tuple[str, ...]
    history: int
    max_time_s: float


@dataclass(frozen=True)
class Variant:
    """What is changed in the recipe of the group, and which executor runs the result."""

    group: str
    name: str
    history: int = 0  # 0: the group's
    changes: tuple[str, ...] = ()
    executor: str = ONE_BY_ONE


GROUPS = {"memory": Group(("nudge_lit",), 12, 8.0), "usual": Group(("pick_up_red",), 4, 10.0)}
VARIANTS = (
    Variant("memory", "the recipe, 12 frames of history"),
    Variant("memory", "without history (1 frame)", history=1),
    Variant("usual", "the recipe, 4 frames of history"),
    Variant("usual", "discrete actions (256 bins)", changes=("policy.head=discrete",)),
    Variant("usual", "with forward prediction", changes=(f"loss.forward_prediction={FORWARD}",)),
    Variant("usual", "without proprioception", changes=("contract.proprioception=[]",)),
    Variant("usual", f"{HORIZON_TICKS} of a chunk's {CHUNK} actions in a row", executor="receding_horizon"),
    Variant("usual", "average of all chunks (temporal ensemble)", executor="temporal_ensemble"),
    Variant("usual", "without history (1 frame)", history=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=Path, required=True, help="folder with a bag folder of each task")
    parser.add_argument("--config", type=Path, default=RECIPE_FILE)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/anchors"), help="folder for the trainings (%(default)s)"
    )
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="(default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a variant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=20, help="per training (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures; what is there is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = {
        "steps": arguments.steps,
        "rollouts": arguments.rollouts,
        "tasks": {n: g.tasks for n, g in GROUPS.items()},
    }
    setting = json.loads(json.dumps(setting))
    cells = finished(arguments.json, setting)
    for seed in range(arguments.seeds):  # all variants with one seed before the next, so that part of it compares
        for variant in VARIANTS:
            key = f"{variant.group}: {variant.name}, seed {seed}"
            if key in cells or variant.group not in arguments.groups:
                continue
            started_s = time.monotonic()
            checkpoint, held_out = train(arguments, variant, seed)
            cells[key] = {"successes": roll_out(arguments, variant, checkpoint), "held_out": held_out}
            print(f"{key}: {cells[key]}, {time.monotonic() - started_s:.0f} s", flush=True)
            write(arguments, setting, cells)


def finished(file: Path, setting: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the cells of ``file``; exits if they are of another setting."""
    if not file.exists():
        return {}
    details = json.loads(file.read_text())["details"]
    if details["setting"] != setting:
        raise SystemExit(f"{file} was made with {details['setting']}, not with {setting}; give another --json")
    return dict(details["cells"])


def train(arguments: argparse.Namespace, variant: Variant, seed: int) -> tuple[Path, float]:
    """Return the checkpoint and the last error on held-out episodes; one that is there already is not trained again."""
    group = GROUPS[variant.group]
    history = variant.history or group.history
    change = "-".join(change.split("=")[0] for change in variant.changes)  # executors share a training
    name = f"{variant.group}-{history}-{change}-{arguments.steps}-{seed}"
    folder = arguments.runs / name
    if not (folder / "checkpoint").exists():
        shutil.rmtree(folder, ignore_errors=True)
        bags = [str(arguments.bags / task) for task in group.tasks]
        overrides = [
            *RECIPE,
            f"data.bags={json.dumps(bags)}",
            f"output={arguments.runs}",
            f"name={name}",
            f"seed={seed}",
            f"contract.history={history}",
            f"trainer.batch_windows={FRAMES // history}",
            f"trainer.max_steps={arguments.steps}",
            f"trainer.validate_every_steps={arguments.steps}",
            *variant.changes,
        ]
        fit(load_config(arguments.config, overrides))
    with (folder / "metrics.csv").open(newline="") as file:
        errors = [float(row["val/arm_l1"]) for row in csv.DictReader(file) if row.get("val/arm_l1")]
    return folder / "checkpoint", errors[-1]


def roll_out(arguments: argparse.Namespace, variant: Variant, checkpoint: Path) -> int:
    """Return how many of the rollouts succeeded; every variant of a group has the same scenes."""
    group = GROUPS[variant.group]
    settings = RolloutSettings(
        str(checkpoint), "tabletop", max_time_s=group.max_time_s, delay_ticks=1, executor=variant.executor
    )
    each = arguments.rollouts // len(group.tasks)
    requests = request_rollouts(group.tasks, each, FIRST_SEED, phrasings="train")
    return sum(outcome.success for outcome in run_rollouts(settings, requests, workers=1))


def write(arguments: argparse.Namespace, setting: dict[str, Any], cells: dict[str, dict[str, float]]) -> None:
    """Write a line for each variant that has a cell."""
    rows = []
    for variant in VARIANTS:
        keys = [f"{variant.group}: {variant.name}, seed {seed}" for seed in range(arguments.seeds)]
        found = [cells[key] for key in keys if key in cells]
        if found:
            each = arguments.rollouts // len(GROUPS[variant.group].tasks) * len(GROUPS[variant.group].tasks)
            successes, trials = int(sum(cell["successes"] for cell in found)), each * len(found)
            low, high = wilson_interval(successes, trials)
            by_seed = ", ".join(f"{cell['successes']}/{each}" for cell in found)
            error = statistics.mean(cell["held_out"] for cell in found)
            share = f"{successes / trials:.0%} ({low:.0%} to {high:.0%})"
            rows.append((variant.group, variant.name, share, by_seed, f"{error:.4f}"))
    tasks = "; ".join(f"{name}: {', '.join(group.tasks)}" for name, group in GROUPS.items())
    figures.write(
        arguments.json,
        title="What the parts of a policy bring",
        runs=arguments.seeds,
        note=f"Trainings of {arguments.steps} steps of {FRAMES} frames that differ in one thing; then the same "
        f"{arguments.rollouts} scenes for each, a tick of delay, a new chunk every tick unless it says otherwise. "
        f"{tasks}. Success: all seeds together, with its 95 % interval (Wilson), which knows nothing of how much "
        "trainings differ: see the seeds. Small trainings: compare within a group only.",
        columns=("group", "variant", "success", "by seed", "held out: arm"),
        rows=rows,
        details={"setting": setting, "cells": cells},
    )


if __name__ == "__main__":
    main()
