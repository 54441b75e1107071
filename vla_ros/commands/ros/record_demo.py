# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations of the simulated arm: a scripted expert teleoperates it over ROS 2, the recorder writes bags.

vla record-demo --output bags/tabletop
vla record-demo --task push_away_red --episodes 50 --output bags/novel

Writes one bag per task, OUTPUT/TASK. When run again after an interruption, it keeps the finished bags and records the
rest. The processes log to OUTPUT.logs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vla_ros import bringup
from vla_ros.bringup import Process
from vla_ros.commands.ros.isolation import isolate
from vla_ros.commands.ros.process_group import ProcessGroup
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace, place
from vla_ros.errors import UserError
from vla_ros.files import PARTIAL

POLL_S = 0.2
INCOMPLETE = "incomplete"
# Limits of the simulator and the demonstrator.
SPEEDS = (0.1, 100.0)
PERTURBATIONS = (0.0, 2.0)
# Seeds from here on are reserved for evaluation.
FIRST_EVALUATION_SEED = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", nargs="+", default=["all"], metavar="NAME", help="task names, or all (the trained tasks; default)")
    add("--episodes", type=int, default=120, metavar="N", help="demonstrations per task (default %(default)s)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder for the bags, one per task")
    add(
        "--speed", type=float, default=10.0, metavar="X", help="simulation speed, times real time (default %(default)g)"
    )
    add("--perturbation", type=float, default=0.4, metavar="X", help="noise on the twist, 0 to 2 (default %(default)s)")
    add("--first-seed", type=int, default=0, metavar="N", help="seed of the first scene (default %(default)s)")
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    place_all = functools.partial(
        place, namespace=find_namespace(args.namespace, args.ros_args), ros_arguments=args.ros_args
    )
    record(args.output, args.task, args.episodes, args.speed, args.perturbation, args.first_seed, place_all)
    return 0


def record(
    output: Path,
    tasks: Sequence[str],
    episodes: int,
    speed: float = 10.0,
    perturbation: float = 0.4,
    first_seed: int = 0,
    place_all: Callable[[Iterable[Process]], list[Process]] = list,
) -> list[Path]:
    """Record `episodes` demonstrations of each task into `output`/TASK; returns the bag folders.

    `place_all` puts the processes into a namespace.
    """
    from vla_ros.sim.tasks import task_names

    tasks = task_names(tasks)
    check(episodes, speed, perturbation, first_seed)
    first_seeds = _first_seeds(first_seed, episodes)
    missing = [task for task in tasks if not (output / task).exists()]
    for task in sorted(set(tasks) - set(missing)):
        print(f"{task}: already recorded in {output / task}, skipping", flush=True)
    isolate()
    started_s, motion_s = time.monotonic(), 0.0
    with ProcessGroup(output.with_name(output.name + ".logs")) as group:
        if missing:
            group.start(*place_all([bringup.recording_simulator(speed)]))
        for task in missing:
            bag = output / INCOMPLETE / task
            processes = bringup.recording(
                str(bag), [task], episodes, first_seed=first_seeds[task], perturbation=perturbation
            )
            motion_s += _record_task(group, bag, output / task, place_all(processes), episodes)
    wall_s = time.monotonic() - started_s
    print(
        f"recorded {len(missing) * episodes} demonstrations of {len(missing)} tasks into {output} "
        f"({motion_s / 60:.1f} min of motion in {wall_s / 60:.1f} min)"
    )
    return [output / task for task in tasks]


def check(episodes: int, speed: float, perturbation: float = 0.0, first_seed: int = 0) -> None:
    """Raise UserError unless all values are in range."""
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1; got {episodes}")
    for name, value, (low, high) in (("speed", speed, SPEEDS), ("perturbation", perturbation, PERTURBATIONS)):
        if not low <= value <= high:
            raise UserError(f"--{name} must be between {low:g} and {high:g}; got {value:g}")
    _first_seeds(first_seed, episodes)


def _first_seeds(first_seed: int, episodes: int) -> dict[str, int]:
    """Return each task's first seed: no two tasks share the light, table and cameras of a scene."""
    from vla_ros.sim.tasks import TASKS

    if first_seed < 0:
        raise UserError(f"--first-seed must be at least 0; got {first_seed}")
    seeds = {task: first_seed + index * episodes for index, task in enumerate(TASKS)}
    if max(seeds.values()) + episodes > FIRST_EVALUATION_SEED:
        raise UserError(
            f"--first-seed {first_seed} with {episodes} episodes of {len(TASKS)} tasks would use seeds from "
            f"{FIRST_EVALUATION_SEED} on, which are reserved for evaluation; use a smaller value of either"
        )
    return seeds


def _record_task(group: ProcessGroup, bag: Path, finished: Path, processes: Sequence[Process], episodes: int) -> float:
    """Record the bag of one task with `processes`; returns the recorded motion [s].

    It moves to its place once it has all episodes: an interrupted run must not look finished.
    """
    shutil.rmtree(bag, ignore_errors=True)
    shutil.rmtree(bag.with_name(bag.name + PARTIAL), ignore_errors=True)
    group.start(*processes)
    motion_s = _follow(group, bag.name, episodes)
    group.stop("demonstrator", "recorder")
    bag.rename(finished)
    with contextlib.suppress(OSError):  # not empty: leave other files alone
        bag.parent.rmdir()
    return motion_s


def _follow(group: ProcessGroup, task: str, episodes: int) -> float:
    """Print the demonstrator's progress until it ends; returns the recorded motion [s]."""
    started_s, last_s, done, failed, motion_s = time.monotonic(), 0.0, 0, 0, 0.0
    with group.log("demonstrator").open() as log:
        while True:
            ended = group.ended("demonstrator")
            for line in log:
                if line.startswith("{"):
                    episode = json.loads(line)
                    done += 1
                    failed += episode["outcome"] != "success"
                    motion_s += episode["duration_s"]
            if ended or time.monotonic() - last_s > 10.0:
                last_s = time.monotonic()
                text = f"{task}: {done}/{episodes} demonstrations" + (f", {failed} failed" if failed else "")
                print(f"{text}, {last_s - started_s:.0f} s", flush=True)
            if ended:
                return motion_s
            time.sleep(POLL_S)
