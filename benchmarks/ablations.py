# SPDX-License-Identifier: Apache-2.0
"""What does each part of a policy bring? Small training runs that differ in one thing, with several seeds each.

Every variant is the recipe of its group with one change, trained on the same demonstrations with as many frames a step,
then run in the simulator in the same scenes. The camera encoders are frozen; everything after them is trained, which is
where the variants differ and small enough for a CPU. "Held out" is the mean absolute error of the arm on held-out
episodes, in normalised units. Compare only within a group.

    usual    two tasks in which every image shows what to do next, with few demonstrations (`frozen_encoders.py`)
    memory   `nudge_lit`, in which only the start shows which block is meant. Its policies get the scene state in place
             of camera features (`scene_state.py`): an encoder that finds a glowing block takes too long to train on a
             CPU

Checkpoints and camera features are cached in a folder, finished cells in the JSON file, so an interrupted run
continues. Several processes may run at once, each with its own seeds, once the camera features are cached.

    vla record-demo --task pick_up_red push_left_red --output bags
    python benchmarks/ablations.py --bags bags --json benchmarks/results/ablations.json
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
import frozen_encoders
import scene_state
import torch

from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.closed_loop.config import Condition, EvaluationConfig
from vla_ros.evaluation.closed_loop.rollouts import RolloutRequest, run_rollouts
from vla_ros.evaluation.protocols.intervals import wilson_interval
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.config import ForwardPredictionConfig
from vla_ros.runtime.execution.executors import DEFAULT_HORIZON
from vla_ros.sim.env import TabletopEnv
from vla_ros.train.demonstrations import read_demonstrations
from vla_ros.train.initial_policy import observation_spec
from vla_ros.train.recipes import load_config

FIRST_SEED = 80_000
CHUNK, FRAMES = 8, 288  # actions of a chunk; frames of a step, whatever the history
FORWARD = ForwardPredictionConfig(steps_ahead=4, weight=0.3, width=96, layers=1)
ONE_BY_ONE = "first_action"


@dataclass(frozen=True)
class Group:
    """Comparable variants, with the same tasks, demonstrations and scenes."""

    tasks: tuple[str, ...]
    episodes: int  # of each task
    steps: int
    history: int
    max_time_s: float
    scene_state: bool = False  # in place of images


@dataclass(frozen=True)
class Variant:
    """One change to the recipe of its group, and the executor that runs the result."""

    group: str
    name: str
    history: int = 0  # 0: the group's
    head: str = "lstm"
    proprioception: bool = True
    forward: ForwardPredictionConfig | None = None
    executor: str = ONE_BY_ONE

    @property
    def trained(self) -> str:
        """Name of the training; variants that differ only in the executor share it."""
        parts = [self.group, f"{self.history or GROUPS[self.group].history} frames", self.head]
        return "-".join([*parts, *["no state"] * (not self.proprioception), *["forward"] * (self.forward is not None)])


GROUPS = {
    "memory": Group(("nudge_lit",), 200, 1200, 12, 8.0, scene_state=True),
    "usual": Group(("pick_up_red", "push_left_red"), 60, 1000, 4, 8.0),
}
VARIANTS = (
    Variant("memory", "recipe (12 frames of history)"),
    Variant("memory", "no history (1 frame)", history=1),
    Variant("usual", "recipe (4 frames of history)"),
    Variant("usual", "no history (1 frame)", history=1),
    Variant("usual", "discrete actions (256 bins)", head="discrete"),
    Variant("usual", "forward prediction", forward=FORWARD),
    Variant("usual", "no proprioception", proprioception=False),
    Variant("usual", f"{DEFAULT_HORIZON} of {CHUNK} actions per chunk", executor="receding_horizon"),
    Variant("usual", "temporal ensemble", executor="temporal_ensemble"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=Path, required=True, help="folder with one bag folder per task")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="cache folder (default: %(default)s)")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="(default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument("--rollouts", type=int, default=20, help="rollouts per training run (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="results file; finished cells in it are kept")
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
            if GROUPS[variant.group].scene_state:
                done = run_on_scene_state(arguments, variant, seed, *prepared[variant.group])
            else:
                checkpoint, held_out = train(arguments, variant, seed, *prepared[variant.group])
                done = {"successes": roll_out(arguments, variant, checkpoint), "held_out": held_out}
            print(f"{key}: {done}, {time.monotonic() - started_s:.0f} s", flush=True)
            write(arguments, setting, {**finished(arguments.json, setting), key: done})


def cell(variant: Variant, seed: int) -> str:
    """Return the key of a variant and seed in the JSON file."""
    return f"{variant.group}: {variant.name}, seed {seed}"


def finished(file: Path, setting: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the cells of ``file``; exit if they were made with another setting."""
    if not file.exists():
        return {}
    details = json.loads(file.read_text())["details"]
    if details["setting"] != setting:
        raise SystemExit(f"{file} was made with {details['setting']}, not with {setting}; pass another --json")
    return dict(details["cells"])


def prepare(name: str, bags: Path, runs: Path) -> tuple[frozen_encoders.Policy, frozen_encoders.Encoded]:
    """Return the policy whose encoders all variants of a group share, and its features of the demonstrations."""
    group, features = GROUPS[name], runs / f"features-{name}.pt"
    encoders = load_checkpoint(frozen_encoders.SHIPPED)
    if group.scene_state:
        return encoders, scene_state.demonstrations(group.tasks[0], group.episodes, encoders.contract.observation_spec)
    episodes = demonstrations(group, bags)
    if not features.exists():
        runs.mkdir(parents=True, exist_ok=True)
        torch.save(frozen_encoders.encode_frames(encoders, episodes), features)
    return encoders, frozen_encoders.Encoded(episodes, torch.load(features, weights_only=True))


def demonstrations(group: Group, bags: Path) -> Sequence[Episode]:
    """Return the first demonstrations of each of the group's tasks."""
    paths = json.dumps([str(bags / task) for task in group.tasks])
    overrides = [f"data.bags={paths}", "data.workers=1"]
    config = load_config(frozen_encoders.RECIPE, overrides)
    [source] = read_demonstrations(config, *observation_spec(config))
    of_tasks = ([episode for episode in source.episodes if episode.task == task] for task in group.tasks)
    return [episode for episodes in of_tasks for episode in episodes[: group.episodes]]


def train(
    arguments: argparse.Namespace,
    variant: Variant,
    seed: int,
    encoders: frozen_encoders.Policy,
    seen: frozen_encoders.Encoded,
) -> tuple[Path, float]:
    """Return the checkpoint and its held-out error, training only if it does not exist yet."""
    group = GROUPS[variant.group]
    folder = arguments.runs / f"{variant.trained}-{group.steps}-{seed}"
    error = folder / "held_out.json"
    if not error.exists():
        policy = untrained(variant, seed, encoders, seen)
        held_out = frozen_encoders.train(policy, seen, seed, steps=group.steps, frames=FRAMES, forward=variant.forward)
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / "checkpoint", policy)
        error.write_text(json.dumps(held_out))
    return folder / "checkpoint", float(json.loads(error.read_text()))


def untrained(
    variant: Variant, seed: int, encoders: frozen_encoders.Policy, seen: frozen_encoders.Encoded
) -> frozen_encoders.Policy:
    """Return the untrained policy of a variant, initialised with ``seed``."""
    torch.manual_seed(seed)
    history = variant.history or GROUPS[variant.group].history
    return frozen_encoders.untrained(
        encoders, seen.episodes, head=variant.head, history=history, chunk=CHUNK, proprioception=variant.proprioception
    )


def run_on_scene_state(
    arguments: argparse.Namespace,
    variant: Variant,
    seed: int,
    encoders: frozen_encoders.Policy,
    seen: frozen_encoders.Encoded,
) -> dict[str, float]:
    """Return the cell of a policy that gets the scene state instead of images."""
    group, env = GROUPS[variant.group], TabletopEnv(render=False)
    policy = untrained(variant, seed, encoders, seen)
    scene_state.use_scene_state(policy, seen.features[scene_state.CAMERA].shape[1])
    held_out = frozen_encoders.train(policy, seen, seed, steps=group.steps, frames=FRAMES)
    scenes = range(FIRST_SEED, FIRST_SEED + arguments.rollouts)
    ends = [scene_state.roll_out(env, policy, group.tasks[0], scene, group.max_time_s) for scene in scenes]
    return {"successes": sum(done for done, _ in ends), "right": sum(right for _, right in ends), "held_out": held_out}


def roll_out(arguments: argparse.Namespace, variant: Variant, checkpoint: Path) -> int:
    """Return the number of successful rollouts, in the same scenes for every variant of a group."""
    group = GROUPS[variant.group]
    config = EvaluationConfig(str(checkpoint), max_time_s=group.max_time_s, workers=1)
    requests = [
        RolloutRequest(task, FIRST_SEED + index, frozen_encoders.command(task), task)
        for task in group.tasks
        for index in range(arguments.rollouts // len(group.tasks))
    ]
    return sum(outcome.success for outcome in run_rollouts(config, Condition(variant.executor), requests))


def share(found: Sequence[dict[str, float]], what: str, each: int) -> str:
    """Return the share of all rollouts in the cells ``found``, ``each`` per cell, with its interval."""
    count, trials = int(sum(value[what] for value in found)), each * len(found)
    low, high = wilson_interval(count, trials)
    return f"{count / trials:.0%} ({low:.0%} to {high:.0%})"


def write(arguments: argparse.Namespace, setting: dict[str, Any], cells: dict[str, dict[str, float]]) -> None:
    """Write a row for each variant that has a cell."""
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
        title="What each part of a policy brings",
        runs=max(seeds, default=0),
        note=f"Training runs that differ in one thing, {FRAMES} frames a step, camera encoders frozen; policies of the "
        "group memory get the scene state (block positions, which one glows) instead of images. Each runs in the "
        f"same {arguments.rollouts} scenes with one tick of delay and a new chunk every tick unless noted. "
        f"{groups}. Success pools the seeds, with Wilson's 95 % interval, which ignores how much runs differ: "
        "see the column of seeds. Compare only within a group.",
        columns=("group", "variant", "success", "by seed", "ends at the right block", "held-out error"),
        rows=rows,
        details={"setting": setting, "cells": cells},
    )


if __name__ == "__main__":
    main()
