# SPDX-License-Identifier: Apache-2.0
"""What do the parts of a policy bring? Small trainings on the simulated arm that differ in one thing, some seeds each.

Every variant is the recipe with one change, trained from the same bags, then run in the simulator. "Held out" is the
arm's mean absolute error on held-out episodes, in normalised units; it compares variants with the same chunk and
history. Trainings this small are far from what the recipe can do: only differences within this table mean something.

Finished cells are kept in the JSON file, and the script goes on with the others when it is started again.

    vla record-demo --task open_drawer close_drawer --episodes 50 --output bags
    python benchmarks/anchors.py --bags bags/open_drawer bags/close_drawer --json benchmarks/results/anchors.json
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import torch

from vla_ros import resources
from vla_ros.train.fit import fit
from vla_ros.train.recipes import load_config
from vla_ros.train.rollouts import RolloutSettings, request_rollouts, run_rollouts

FIRST_SEED = 80_000
FORWARD = json.dumps({"steps_ahead": 4, "weight": 0.3, "width": 96, "layers": 1})


@dataclass(frozen=True)
class Variant:
    """What is changed in the recipe, and which executor runs the result."""

    changes: tuple[str, ...] = ()
    executor: str = "full_chunk"


VARIANTS = {
    "as the recipe": Variant(),
    "without history (1 frame)": Variant(("contract.history=1",)),
    "discrete actions (256 bins)": Variant(("policy.head=discrete",)),
    "first action of each chunk": Variant(executor="first_action"),
    "with forward prediction": Variant((f"loss.forward_prediction={FORWARD}",)),
    "without proprioception": Variant(("contract.proprioception=[]",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", nargs="+", required=True, help="bag folders, or folders of them")
    parser.add_argument("--tasks", nargs="+", default=["open_drawer", "close_drawer"], help="that the bags show")
    parser.add_argument("--config", type=Path, default=resources.path("config/train/tabletop.json"))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a variant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=8, help="of a step (default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=5, help="per task and training (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures; what is there is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = {name: getattr(arguments, name) for name in ("bags", "tasks", "steps", "windows", "rollouts")}
    cells = finished(arguments.json, setting)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):  # all variants with one seed before the next, so that part of it compares
            checkpoints: dict[tuple[str, ...], tuple[Path, float]] = {}
            for name, variant in VARIANTS.items():
                if f"{name} {seed}" in cells:
                    continue
                started_s = time.monotonic()
                if variant.changes not in checkpoints:
                    checkpoints[variant.changes] = train(arguments, variant.changes, seed, Path(folder))
                checkpoint, held_out = checkpoints[variant.changes]
                successes = roll_out(arguments, checkpoint, variant.executor)
                cells[f"{name} {seed}"] = {"successes": successes, "held_out": held_out}
                print(
                    f"{name}, seed {seed}: {cells[f'{name} {seed}']}, {time.monotonic() - started_s:.0f} s", flush=True
                )
                write(arguments, setting, cells)


def finished(file: Path, setting: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the cells of ``file``; exits if they are of another setting."""
    if not file.exists():
        return {}
    details = json.loads(file.read_text())["details"]
    if details["setting"] != setting:
        raise SystemExit(f"{file} was made with {details['setting']}, not with {setting}; give another --json")
    return dict(details["cells"])


def train(arguments: argparse.Namespace, changes: tuple[str, ...], seed: int, folder: Path) -> tuple[Path, float]:
    """Return the checkpoint and the last error on held-out episodes."""
    overrides = [
        f"data.bags={json.dumps(arguments.bags)}",
        "data.validation_fraction=0.15",
        f"output={folder}",
        f"name=run{len(list(folder.iterdir()))}",
        f"seed={seed}",
        f"trainer.max_steps={arguments.steps}",
        f"trainer.validate_every_steps={arguments.steps}",
        f"trainer.batch_windows={arguments.windows}",
        "trainer.threads=1",
        "trainer.accelerator=cpu",
        *changes,
    ]
    checkpoint = fit(load_config(arguments.config, overrides))
    with (checkpoint.parent / "metrics.csv").open(newline="") as file:
        errors = [float(row["val/arm_l1"]) for row in csv.DictReader(file) if row.get("val/arm_l1")]
    return checkpoint, errors[-1]


def roll_out(arguments: argparse.Namespace, checkpoint: Path, executor: str) -> int:
    """Return how many of the rollouts succeeded; every variant has the same scenes."""
    settings = RolloutSettings(str(checkpoint), "tabletop", max_time_s=12.0, delay_ticks=1, executor=executor)
    requests = request_rollouts(arguments.tasks, arguments.rollouts, FIRST_SEED, phrasings="train")
    return sum(outcome.success for outcome in run_rollouts(settings, requests, workers=1))


def write(arguments: argparse.Namespace, setting: dict[str, Any], cells: dict[str, dict[str, float]]) -> None:
    """Write a line for each variant that has a cell."""
    each = arguments.rollouts * len(arguments.tasks)
    rows = []
    for name in VARIANTS:
        found = [cells[key] for seed in range(arguments.seeds) if (key := f"{name} {seed}") in cells]
        if found:
            rates = ", ".join(f"{cell['successes']}/{each}" for cell in found)
            total = sum(cell["successes"] for cell in found) / (each * len(found))
            rows.append((name, f"{total:.0%}", rates, f"{statistics.mean(cell['held_out'] for cell in found):.4f}"))
    figures.write(
        arguments.json,
        title="What the parts of a policy bring",
        runs=arguments.seeds,
        note=f"Trainings of {arguments.steps} steps of {arguments.windows} windows, that differ in one thing; then the "
        f"same {each} scenes for each ({', '.join(arguments.tasks)}; a tick of delay). Small: compare within the table "
        "only, and differences of one or two rollouts mean nothing.",
        columns=("variant", "success", "by seed", "held out: arm"),
        rows=rows,
        details={"setting": setting, "cells": cells},
    )


if __name__ == "__main__":
    main()
