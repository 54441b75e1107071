# SPDX-License-Identifier: Apache-2.0
"""What do the parts of a policy bring? Small trainings on the simulated arm that differ in one thing, some seeds each.

Every variant is the recipe of its group with one change, trained on the same demonstrations with as many frames a step,
then run in the simulator, all in the same scenes. All but the camera encoders is trained: it is what the variants
differ in, and small enough for a CPU. "Held out" is the arm's mean absolute error on held-out episodes, in normalised
units. Only differences within a group mean something.

    usual    two tasks whose pictures tell all along what is meant, with few demonstrations (`frozen_eyes.py`)
    memory   `nudge_lit`, where only the start tells which block is meant. Here policies are told what there is to see
             (`told_eyes.py`): encoders that find a glowing block would take longer to train than a CPU can give

Checkpoints and what the encoders say are kept in a folder, finished cells in the JSON file; started again, it goes on
with the rest. Several may run at once, each with seeds of its own, once the folder has what the encoders say.

    vla record-demo --task pick_up_red push_left_red --output bags
    python benchmarks/anchors.py --bags bags --json benchmarks/results/anchors.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import figures
import frozen_eyes
import told_eyes
import torch

from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.closed_loop.rollouts import RolloutRequest, RolloutSettings, run_rollouts
from vla_ros.evaluation.closed_loop.workers import HORIZON_TICKS
from vla_ros.evaluation.protocols.intervals import wilson_interval
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.losses import ForwardPredictionConfig
from vla_ros.sim.env import TabletopEnv
from vla_ros.train.build import observation_spec
from vla_ros.train.data import read_demonstrations
from vla_ros.train.recipes import load_config

FIRST_SEED = 80_000
CHUNK, FRAMES = 8, 288  # actions of a chunk; frames of a step, whatever the history
FORWARD = ForwardPredictionConfig(steps_ahead=4, weight=0.3, width=96, layers=1)
ONE_BY_ONE = "first_action"


@dataclass(frozen=True)
class Group:
    """Variants that compare with each other: the same tasks, demonstrations and scenes."""

    tasks: tuple[str, ...]
    episodes: int  # of each task
    steps: int
    history: int
    max_time_s: float
    told: bool = False  # what there is to see


@dataclass(frozen=True)
class Variant:
    """What is changed in the recipe of the group, and which executor runs the result."""

    group: str
    name: str
    history: int = 0  # 0: the group's
    head: str = "lstm"
    feels: bool = True  # has proprioception
    forward: ForwardPredictionConfig | None = None
    executor: str = ONE_BY_ONE

    @property
    def trained(self) -> str:
        """The name of its training, which variants with another executor share."""
        parts = [self.group, f"{self.history or GROUPS[self.group].history} frames", self.head]
        return "-".join([*parts, *["no state"] * (not self.feels), *["forward"] * (self.forward is not None)])


GROUPS = {
    "memory": Group(("nudge_lit",), 200, 1200, 12, 8.0, told=True),
    "usual": Group(("pick_up_red", "push_left_red"), 60, 1000, 4, 8.0),
}
VARIANTS = (
    Variant("memory", "the recipe, 12 frames of history"),
    Variant("memory", "without history (1 frame)", history=1),
    Variant("usual", "the recipe, 4 frames of history"),
    Variant("usual", "without history (1 frame)", history=1),
    Variant("usual", "discrete actions (256 bins)", head="discrete"),
    Variant("usual", "with forward prediction", forward=FORWARD),
    Variant("usual", "without proprioception", feels=False),
    Variant("usual", f"{HORIZON_TICKS} of a chunk's {CHUNK} actions in a row", executor="receding_horizon"),
    Variant("usual", "average of all chunks (temporal ensemble)", executor="temporal_ensemble"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=Path, required=True, help="folder with a bag folder of each task")
    parser.add_argument("--runs", type=Path, default=Path("runs/anchors"), help="what is kept (default: %(default)s)")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="(default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings (default: 0 1 2)")
    parser.add_argument("--rollouts", type=int, default=20, help="per training (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures; what is there is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"rollouts": arguments.rollouts, **{name: list(asdict(group).values()) for name, group in GROUPS.items()}}
    setting = json.loads(json.dumps(setting))
    prepared = {name: prepare(name, arguments.bags, arguments.runs) for name in arguments.groups}
    for seed in arguments.seeds:  # all variants with one seed before the next, so that part of it compares
        for variant in VARIANTS:
            key = cell(variant, seed)
            if key in finished(arguments.json, setting) or variant.group not in arguments.groups:
                continue
            started_s = time.monotonic()
            if GROUPS[variant.group].told:
                done = told(arguments, variant, seed, *prepared[variant.group])
            else:
                checkpoint, held_out = train(arguments, variant, seed, *prepared[variant.group])
                done = {"successes": roll_out(arguments, variant, checkpoint), "held_out": held_out}
            print(f"{key}: {done}, {time.monotonic() - started_s:.0f} s", flush=True)
            write(arguments, setting, {**finished(arguments.json, setting), key: done})


def cell(variant: Variant, seed: int) -> str:
    """Return what a variant with one seed is called in the JSON file."""
    return f"{variant.group}: {variant.name}, seed {seed}"


def finished(file: Path, setting: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the cells of ``file``; exits if they are of another setting."""
    if not file.exists():
        return {}
    details = json.loads(file.read_text())["details"]
    if details["setting"] != setting:
        raise SystemExit(f"{file} was made with {details['setting']}, not with {setting}; give another --json")
    return dict(details["cells"])


def prepare(name: str, bags: Path, runs: Path) -> tuple[frozen_eyes.Policy, frozen_eyes.Seen]:
    """Return the policy whose encoders all variants of a group have, and what these say of the demonstrations."""
    group, features = GROUPS[name], runs / f"features-{name}.pt"
    eyes = load_checkpoint(frozen_eyes.SHIPPED)
    if group.told:
        return eyes, told_eyes.demonstrations(group.tasks[0], group.episodes, eyes.contract.observation_spec)
    episodes = demonstrations(group, bags)
    if not features.exists():
        runs.mkdir(parents=True, exist_ok=True)
        torch.save(frozen_eyes.look(eyes, episodes), features)
    return eyes, frozen_eyes.Seen(episodes, torch.load(features, weights_only=True))


def demonstrations(group: Group, bags: Path) -> Sequence[Episode]:
    """Return the first demonstrations of each of the group's tasks."""
    paths = json.dumps([str(bags / task) for task in group.tasks])
    overrides = [f"data.bags={paths}", "data.workers=1"]
    config = load_config(frozen_eyes.RECIPE, overrides)
    [source] = read_demonstrations(config, *observation_spec(config))
    of_tasks = ([episode for episode in source.episodes if episode.task == task] for task in group.tasks)
    return [episode for episodes in of_tasks for episode in episodes[: group.episodes]]


def train(
    arguments: argparse.Namespace, variant: Variant, seed: int, eyes: frozen_eyes.Policy, seen: frozen_eyes.Seen
) -> tuple[Path, float]:
    """Return the checkpoint and the error on held-out episodes; one that is there already is not trained again."""
    group = GROUPS[variant.group]
    folder = arguments.runs / f"{variant.trained}-{group.steps}-{seed}"
    error = folder / "held_out.json"
    if not error.exists():
        policy = untrained(variant, seed, eyes, seen)
        held_out = frozen_eyes.train(policy, seen, seed, steps=group.steps, frames=FRAMES, forward=variant.forward)
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / "checkpoint", policy)
        error.write_text(json.dumps(held_out))
    return folder / "checkpoint", float(json.loads(error.read_text()))


def untrained(variant: Variant, seed: int, eyes: frozen_eyes.Policy, seen: frozen_eyes.Seen) -> frozen_eyes.Policy:
    """Return the policy of a variant, with weights of ``seed``."""
    torch.manual_seed(seed)
    history = variant.history or GROUPS[variant.group].history
    return frozen_eyes.untrained(
        eyes, seen.episodes, head=variant.head, history=history, chunk=CHUNK, feels=variant.feels
    )


def told(
    arguments: argparse.Namespace, variant: Variant, seed: int, eyes: frozen_eyes.Policy, seen: frozen_eyes.Seen
) -> dict[str, float]:
    """Return the cell of a policy that is told what there is to see."""
    group, env = GROUPS[variant.group], TabletopEnv(render=False)
    policy = untrained(variant, seed, eyes, seen)
    told_eyes.listen(policy, seen.features[told_eyes.CAMERA].shape[1])
    held_out = frozen_eyes.train(policy, seen, seed, steps=group.steps, frames=FRAMES)
    scenes = range(FIRST_SEED, FIRST_SEED + arguments.rollouts)
    ends = [told_eyes.roll_out(env, policy, group.tasks[0], scene, group.max_time_s) for scene in scenes]
    return {"successes": sum(done for done, _ in ends), "right": sum(right for _, right in ends), "held_out": held_out}


def roll_out(arguments: argparse.Namespace, variant: Variant, checkpoint: Path) -> int:
    """Return how many of the rollouts succeeded; every variant of a group has the same scenes."""
    group = GROUPS[variant.group]
    settings = RolloutSettings(
        str(checkpoint), "tabletop", max_time_s=group.max_time_s, delay_ticks=1, executor=variant.executor
    )
    requests = [
        RolloutRequest(task, FIRST_SEED + index, frozen_eyes.command(task), task)
        for task in group.tasks
        for index in range(arguments.rollouts // len(group.tasks))
    ]
    return sum(outcome.success for outcome in run_rollouts(settings, requests, workers=1))


def share(found: Sequence[dict[str, float]], what: str, each: int) -> str:
    """Return the share of all rollouts of the cells ``found``, ``each`` of them in a cell, with its interval."""
    count, trials = int(sum(value[what] for value in found)), each * len(found)
    low, high = wilson_interval(count, trials)
    return f"{count / trials:.0%} ({low:.0%} to {high:.0%})"


def write(arguments: argparse.Namespace, setting: dict[str, Any], cells: dict[str, dict[str, float]]) -> None:
    """Write a line for each variant that has a cell."""
    rows, seeds = [], []
    for variant in VARIANTS:
        found = [value for key, value in sorted(cells.items()) if key.startswith(cell(variant, 0)[:-1])]
        if found:
            each = arguments.rollouts // len(GROUPS[variant.group].tasks) * len(GROUPS[variant.group].tasks)
            seeds.append(len(found))
            by_seed = ", ".join(f"{value['successes']}/{each}" for value in found)
            error = statistics.mean(value["held_out"] for value in found)
            right = share(found, "right", each) if "right" in found[0] else "-"
            rows.append((variant.group, variant.name, share(found, "successes", each), by_seed, right, f"{error:.4f}"))
    groups = "; ".join(
        f"{name}: {', '.join(group.tasks)}, {group.episodes} demonstrations each, {group.steps} steps"
        for name, group in GROUPS.items()
    )
    figures.write(
        arguments.json,
        title="What the parts of a policy bring",
        runs=max(seeds, default=0),
        note=f"Trainings with {FRAMES} frames a step that differ in one thing; camera encoders are frozen, and in the "
        "group memory policies are told what a perfect one would see (where blocks are, which glows). Then the same "
        f"{arguments.rollouts} scenes for each, a tick of delay, a new chunk every tick unless it says otherwise. "
        f"{groups}. Success: all seeds together, with its 95 % interval (Wilson), which knows nothing of how much "
        "trainings differ: see the seeds. Compare within a group only.",
        columns=("group", "variant", "success", "by seed", "ends at the right block", "held out: arm"),
        rows=rows,
        details={"setting": setting, "cells": cells},
    )


if __name__ == "__main__":
    main()
