# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations of the simulated arm: a scripted expert teleoperates it over ROS 2, the recorder writes bags.

vla record-demo --output bags/tabletop
vla record-demo --task push_away_red --episodes 50 --output bags/novel

Writes one bag for each task, OUTPUT/TASK. Started again after an interruption, it keeps the finished bags and records
what is missing. The logs of the processes are in OUTPUT.logs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from vla_ros import bringup
from vla_ros.commands.ros import processes
from vla_ros.commands.ros.isolation import isolate
from vla_ros.datasets.bags.writer import PARTIAL
from vla_ros.errors import UserError

POLL_S = 0.2
INCOMPLETE = "incomplete"
# What the simulator and the demonstrator take.
SPEEDS = (0.1, 100.0)
PERTURBATIONS = (0.0, 2.0)
# From here on seeds are kept for evaluation.
FIRST_EVALUATION_SEED = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla record-demo``."""
    parser.add_argument("--task", nargs="+", default=["all"], metavar="NAME", help="task names, or all (trained tasks)")
    parser.add_argument("--episodes", type=int, default=120, help="demonstrations of each task (default %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the bags, one a task")
    parser.add_argument(
        "--speed", type=float, default=10.0, help="simulated seconds a second, as far as the machine can (default 10)"
    )
    parser.add_argument(
        "--perturbation", type=float, default=0.4, help="noise on the executed twist, 0 to 2 (default %(default)s)"
    )
    parser.add_argument(
        "--first-seed", type=int, default=0, help="seed of the first scene; each task has seeds of its own (default 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``vla record-demo``."""
    record(
        args.output,
        args.task,
        args.episodes,
        speed=args.speed,
        perturbation=args.perturbation,
        first_seed=args.first_seed,
    )
    return 0


def record(
    output: Path,
    tasks: Sequence[str],
    episodes: int,
    *,
    speed: float = 10.0,
    perturbation: float = 0.4,
    first_seed: int = 0,
) -> list[Path]:
    """Record `episodes` demonstrations of each task into `output`/TASK; returns the bags' folders.

    Raises:
        UserError: a value out of its range, an unknown task, seeds of the evaluation, or a process that failed.
    """
    tasks = _task_names(tasks)
    check(episodes, speed, perturbation, first_seed)
    first_seeds = _first_seeds(first_seed, episodes)
    missing = [task for task in tasks if not _is_recorded(output / task)]
    isolate()
    started_s, seconds = time.monotonic(), 0.0
    with processes.ProcessGroup(output.with_name(output.name + ".logs")) as group:
        if missing:
            group.start(bringup.recording_simulator(speed))
        for task in missing:
            # It gets its place when it has all its episodes: an interrupted run must not look like a finished one.
            bag = output / INCOMPLETE / task
            shutil.rmtree(bag, ignore_errors=True)
            shutil.rmtree(bag.with_name(task + PARTIAL), ignore_errors=True)
            group.start(
                *bringup.recording(str(bag), [task], episodes, first_seed=first_seeds[task], perturbation=perturbation)
            )
            seconds += _follow(group, task, episodes)
            group.stop("demonstrator", "recorder")
            bag.rename(output / task)
            with contextlib.suppress(OSError):  # something else lies there, which is none of our business
                bag.parent.rmdir()
    wall_s = time.monotonic() - started_s
    print(
        f"recorded {len(missing) * episodes} demonstrations ({seconds / 60:.1f} min of motion) of {len(missing)} tasks "
        f"in {wall_s / 60:.1f} min into {output}"
    )
    return [output / task for task in tasks]


def check(episodes: int, speed: float, perturbation: float = 0.0, first_seed: int = 0) -> None:
    """Raise UserError for a value that no recording can start with."""
    if episodes < 1:
        raise UserError(f"--episodes is {episodes}; allowed: 1 or more")
    for name, value, (low, high) in (("speed", speed, SPEEDS), ("perturbation", perturbation, PERTURBATIONS)):
        if not low <= value <= high:
            raise UserError(f"--{name} is {value:g}; allowed: {low:g} to {high:g}")
    _first_seeds(first_seed, episodes)


def _task_names(tasks: Sequence[str]) -> list[str]:
    from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

    if list(tasks) == ["all"]:
        return list(TRAINED_TASKS)
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"task {task!r} is unknown; allowed: all, or any of {', '.join(TASKS)}")
    return list(tasks)


def _first_seeds(first_seed: int, episodes: int) -> dict[str, int]:
    """Each task's first seed: no two tasks share a scene's light, table and cameras."""
    from vla_ros.sim.tasks import TASKS

    if first_seed < 0:
        raise UserError(f"--first-seed is {first_seed}; allowed: 0 or more")
    seeds = {task: first_seed + index * episodes for index, task in enumerate(TASKS)}
    if max(seeds.values()) + episodes > FIRST_EVALUATION_SEED:
        raise UserError(
            f"--first-seed {first_seed} and {episodes} episodes of {len(TASKS)} tasks reach the seeds from "
            f"{FIRST_EVALUATION_SEED} on, which evaluation uses; choose smaller ones"
        )
    return seeds


def _is_recorded(bag: Path) -> bool:
    if not bag.exists():
        return False
    print(f"{bag.name}: kept, {bag} is recorded already", flush=True)
    return True


def _follow(group: processes.ProcessGroup, task: str, episodes: int) -> float:
    """Report the demonstrator's progress until it ends; returns the seconds of motion that it recorded."""
    started_s, last_s, done, failed, seconds = time.monotonic(), 0.0, 0, 0, 0.0
    with _open_when_there(group.log("demonstrator")) as log:
        while True:
            ended = group.ended("demonstrator")
            for line in log:
                if line.startswith("{"):
                    episode = json.loads(line)
                    done += 1
                    failed += episode["outcome"] != "success"
                    seconds += episode["duration_s"]
            if ended or time.monotonic() - last_s > 10.0:
                last_s = time.monotonic()
                text = f"{task}: {done}/{episodes} demonstrations" + (f", {failed} failed" if failed else "")
                print(f"{text}, {last_s - started_s:.0f} s", flush=True)
            if ended:
                return seconds
            time.sleep(POLL_S)


def _open_when_there(path: Path):
    while not path.exists():
        time.sleep(POLL_S)
    return path.open()
