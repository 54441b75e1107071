# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint in closed loop on the simulated arm, in this process's time: no ROS, no waiting.

vla evaluate config/checkpoints/tabletop                       every trained task, held-out phrasings
vla evaluate CKPT --tasks pick_up_red open_drawer --rollouts 50
vla evaluate CKPT --blank static                               how much the static camera matters
vla evaluate CKPT --tasks pick_up --swap-colour                whether the colour word decides which block is picked

A task may be named by its kind (pick_up: all three colours), or as a set: trained, novel, all.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_ros.contract import PolicyContract
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.robot import load_robot
from vla_ros.sim.cameras import CAMERAS
from vla_ros.sim.tasks import NOVEL_TASKS, TASKS, TRAINED_TASKS
from vla_ros.train.config import ConfigError
from vla_ros.train.rollouts import (
    Outcome,
    RolloutRequest,
    RolloutSettings,
    has_colour,
    request_rollouts,
    run_rollouts,
    wilson_interval,
)

FIRST_SEED = 50_000  # demonstrations are recorded with smaller seeds: scenes here are new
BLANKS = {"none": (), "static": ("static",), "wrist": ("wrist",), "both": ("static", "wrist")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla evaluate``."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--env", default="tabletop", choices=["tabletop"], help="simulated robot")
    parser.add_argument("--tasks", nargs="+", default=["trained"], metavar="TASK", help="tasks, kinds or sets of tasks")
    parser.add_argument("--rollouts", type=int, default=10, help="per task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first scene (default: %(default)s)")
    parser.add_argument("--phrasings", choices=["train", "held_out"], default="held_out", help="which commands to say")
    parser.add_argument("--blank", choices=sorted(BLANKS), default="none", help="cameras to black out")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--command-override", metavar="TEXT", help="say this, whatever the task")
    words.add_argument("--swap-colour", action="store_true", help="name another colour; that block then counts")
    parser.add_argument("--delay-ticks", type=int, default=1, help="ticks until a chunk arrives (default: %(default)s)")
    parser.add_argument(
        "--max-time", type=float, default=12.0, metavar="SECONDS", help="per rollout (default: %(default)s)"
    )
    parser.add_argument("--robot", default="tabletop", help="robot file, for its limits (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> int:
    """Run ``vla evaluate``."""
    tasks = select_tasks(args.tasks)
    if args.swap_colour and not all(map(has_colour, tasks)):
        raise ConfigError("--swap-colour needs tasks that name a block; give for instance --tasks pick_up")
    _check(args, load_checkpoint(args.checkpoint).contract)  # refuse it here, not in every worker
    settings = RolloutSettings(
        checkpoint=str(args.checkpoint),
        robot=args.robot,
        max_time_s=args.max_time,
        delay_ticks=args.delay_ticks,
        blank=BLANKS[args.blank],
    )
    requests = request_rollouts(
        tasks,
        args.rollouts,
        args.seed,
        phrasings=args.phrasings,
        command=args.command_override,
        swap_colour=args.swap_colour,
    )
    started_s = time.monotonic()
    report = summarise(requests, run_rollouts(settings, requests, args.workers))
    report |= {"wall_s": round(time.monotonic() - started_s, 1), "settings": _settings_of(args)}
    print_report(report)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _check(args: argparse.Namespace, contract: PolicyContract) -> None:
    """Raise what would stop every worker: an impossible number, a robot that is not there, cameras of another robot."""
    load_robot(args.robot)
    for option, value, fits, allowed in (
        ("--rollouts", args.rollouts, args.rollouts >= 1, "1 or more"),
        ("--seed", args.seed, args.seed >= 0, "0 or more"),
        ("--delay-ticks", args.delay_ticks, args.delay_ticks >= 0, "0 or more"),
        ("--max-time", args.max_time, 0 < args.max_time < math.inf, "more than 0 s"),
        ("--workers", args.workers, args.workers >= 1, "1 or more"),
    ):
        if not fits:
            raise ConfigError(f"{option} is {value}; allowed: {allowed}")
    for name in contract.camera_names:
        if name not in CAMERAS:
            raise ConfigError(
                f"the checkpoint sees the camera {name!r}; the simulated arm has {', '.join(CAMERAS)}: "
                "give a checkpoint that was trained on its bags"
            )
    for name in BLANKS[args.blank]:
        if name not in contract.camera_names:
            raise ConfigError(
                f"--blank {args.blank} blacks out {name!r}; the checkpoint sees {', '.join(contract.camera_names)} only"
            )


def select_tasks(names: Sequence[str]) -> list[str]:
    """Return the task names that ``names`` (tasks, kinds, sets) stand for, each once, in the order of ``TASKS``.

    Raises:
        ConfigError: a name stands for nothing.
    """
    sets: dict[str, tuple[str, ...]] = {"all": tuple(TASKS), "trained": TRAINED_TASKS, "novel": NOVEL_TASKS}
    for task in TASKS.values():
        sets[task.kind] = (*sets.get(task.kind, ()), task.name)
    for name in names:
        if name not in TASKS and name not in sets:
            raise ConfigError(f"--tasks has {name!r}; allowed: {', '.join([*sets, *TASKS])}")
    chosen = {task for name in names for task in sets.get(name, (name,))}
    return [task for task in TASKS if task in chosen]


def summarise(requests: Sequence[RolloutRequest], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return successes by task, the total with its 95 % interval, and the inference time."""
    by_task: dict[str, list[Outcome]] = {}
    for request, outcome in zip(requests, outcomes, strict=True):
        by_task.setdefault(request.task, []).append(outcome)
    inference = np.array([ms for outcome in outcomes for ms in outcome.inference_ms] or [float("nan")])
    total = _count(outcomes)
    return {
        "tasks": {task: _count(of_task) for task, of_task in by_task.items()},
        "total": total,
        "success_rate": total["success_rate"],
        "ticks": {"total": sum(o.ticks for o in outcomes), "missed": sum(o.ticks_missed for o in outcomes)},
        "inference_ms": {"p50": float(np.percentile(inference, 50)), "p95": float(np.percentile(inference, 95))},
    }


def print_report(report: dict[str, Any]) -> None:
    """Print the table of ``summarise``."""
    table = Table("task", "successes", "rate", "95 % interval", "mean time s")
    for task, row in [*report["tasks"].items(), ("all", report["total"])]:
        low, high = row["interval"]
        mean = "-" if row["mean_time_s"] is None else f"{row['mean_time_s']:.1f}"
        cells = (
            f"{row['successes']}/{row['rollouts']}",
            f"{row['success_rate']:.0%}",
            f"{low:.0%} to {high:.0%}",
            mean,
        )
        table.add_row(task, *cells, end_section=False, style="bold" if task == "all" else None)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    inference = report["inference_ms"]
    console.print(f"inference p50 {inference['p50']:.1f} ms, p95 {inference['p95']:.1f} ms; {report['wall_s']:.0f} s")


def _count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    times = [outcome.time_s for outcome in outcomes if outcome.success]
    return {
        "successes": len(times),
        "rollouts": len(outcomes),
        "success_rate": len(times) / max(1, len(outcomes)),
        "interval": wilson_interval(len(times), len(outcomes)),
        "mean_time_s": statistics.mean(times) if times else None,
    }


def _settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that change the figures."""
    names = ("rollouts", "seed", "phrasings", "blank", "command_override", "swap_colour", "delay_ticks", "max_time")
    return {"checkpoint": str(args.checkpoint), **{name: getattr(args, name) for name in names}}
