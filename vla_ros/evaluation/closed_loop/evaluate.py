# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint in closed loop on a simulated robot, in this process's time: no ROS, no waiting."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_ros.contract import PolicyContract
from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.closed_loop.environments import (
    ENVIRONMENTS,
    FIRST_SEED,
    TABLETOP_TIME_S,
    check_contract,
    settle,
)
from vla_ros.evaluation.closed_loop.evaluations import (
    BLANKS,
    FILMS,
    evaluate_chains,
    evaluate_tasks,
    rank_of,
    settings_of,
)
from vla_ros.evaluation.closed_loop.rollouts import has_colour
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.reports import page
from vla_ros.evaluation.reports.evaluation_page import evaluation_parts
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.robot import load_robot
from vla_ros.runtime.execution.executors import EXECUTORS
from vla_ros.runtime.planning.commitment import check_trained_for_delays
from vla_ros.sim.tasks import MEMORY_TASKS, NOVEL_TASKS, TASKS, TRAINED_TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla evaluate``."""
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint folder")
    parser.add_argument("--env", default="tabletop", choices=ENVIRONMENTS, help="simulated robot (default: tabletop)")
    parser.add_argument("--suite", choices=libero.SUITES, help="of LIBERO")
    parser.add_argument("--dataset", type=Path, metavar="FOLDER", help="of CALVIN, such as task_D_D")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="tasks, kinds or sets; of LIBERO by name or number")
    parser.add_argument(
        "--rollouts", "--episodes", type=int, default=10, metavar="N", help="per task (default: %(default)s)"
    )
    parser.add_argument("--chains", type=int, metavar="N", help="run N chains of five tasks (CALVIN: 1000)")
    parser.add_argument(
        "--seed", type=int, help=f"of the first scene; the first initial state of LIBERO (default: {FIRST_SEED}; 0)"
    )
    parser.add_argument("--phrasings", choices=["train", "held_out"], help="which commands to say (default: held_out)")
    parser.add_argument("--blank", choices=sorted(BLANKS), default="none", help="cameras to black out")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--command-override", metavar="TEXT", help="say this, whatever the task")
    words.add_argument("--swap-colour", action="store_true", help="name another colour; that block then counts")
    parser.add_argument(
        "--delay-ticks", type=int, help="ticks until a chunk arrives (default: 1; LIBERO 0: it waits for the policy)"
    )
    parser.add_argument(
        "--delays", nargs="+", type=float, metavar="MS", help="run all of it once for each delay added to a chunk's way"
    )
    parser.add_argument(
        "--executors", nargs="+", choices=list(EXECUTORS), default=["full_chunk"],
        help="which planned action is executed; all of it once for each (default: full_chunk)",
    )  # fmt: skip
    parser.add_argument(
        "--max-time", type=float, metavar="SECONDS", help=f"per rollout (default: {TABLETOP_TIME_S:g}; LIBERO's own)"
    )
    parser.add_argument("--robot", help="robot file, for its limits (default: tabletop; LIBERO: its own limits only)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep results there, go on with what is there")
    parser.add_argument("--films", action="store_true", help="also keep a film of each rollout in --output")
    parser.add_argument("--rank", default="0/1", metavar="I/N", help="do the I-th of N shares (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> int:
    """Run ``vla evaluate``."""
    if args.checkpoint is None:
        raise EvaluationError("a checkpoint folder is missing, such as config/checkpoints/tabletop")
    settle(args)
    tasks = _tasks(args)
    if args.swap_colour and not all(map(has_colour, tasks)):
        raise EvaluationError("--swap-colour needs tasks that name a block; give for instance --tasks pick_up")
    policy = load_checkpoint(args.checkpoint)
    contract = policy.contract
    _check(args, contract)  # refuse it here, not in every worker
    if "delay_aware" in args.executors:
        check_trained_for_delays(policy.config.max_delay_steps)
    started_s = time.monotonic()
    report = evaluate_chains(args) if args.chains else evaluate_tasks(args, tasks, contract)
    if report is None:
        print("this share is done; the report comes with the last one")
        return 0
    report |= {"wall_s": round(time.monotonic() - started_s, 1), "settings": settings_of(args)}
    publish(args, report, f"Evaluation of {args.checkpoint.name}")
    return 0


def publish(args: argparse.Namespace, report: dict[str, Any], title: str) -> None:
    """Print a report, and write it where --json and --output say."""
    (print_chains if args.chains else print_report)(report)
    if args.json:
        page.write(args.json, json.dumps(report, indent=2) + "\n")
    if args.output:
        page.write(args.output / "report.json", json.dumps(report, indent=2) + "\n")
        parts = evaluation_parts(report, args.output / FILMS)
        page.write(args.output / "report.html", page.page(title, parts))


def _tasks(args: argparse.Namespace) -> list[str]:
    if args.env == "calvin":
        return []  # its chains have their own
    return select_tasks(args.tasks) if args.env == "tabletop" else libero.select_tasks(args.suite, args.tasks)


def _check(args: argparse.Namespace, contract: PolicyContract) -> None:
    """Raise what would stop every worker: an impossible number, a robot that is not there, cameras of another robot."""
    if args.robot:
        load_robot(args.robot)
    rank_of(args.rank)
    for option, value, fits, allowed in (
        ("--rollouts", args.rollouts, args.rollouts >= 1, "1 or more"),
        ("--chains", args.chains, args.chains is None or args.chains >= 1, "1 or more"),
        ("--seed", args.seed, args.seed >= 0, "0 or more"),
        ("--delay-ticks", args.delay_ticks, args.delay_ticks >= 0, "0 or more"),
        ("--delays", args.delays, all(0 <= ms < math.inf for ms in args.delays or ()), "0 ms or more"),
        ("--max-time", args.max_time, 0 < args.max_time < math.inf, "more than 0 s"),
        ("--workers", args.workers, args.workers >= 1, "1 or more"),
    ):
        if not fits:
            raise EvaluationError(f"{option} is {value}; allowed: {allowed}")
    if (args.films or args.rank != "0/1") and args.output is None:
        raise EvaluationError("--films and --rank need --output FOLDER, where films and results go")
    single = args.blank != "none" or args.command_override or args.swap_colour or args.delays or args.films
    if args.chains and (single or len(args.executors) > 1 or args.tasks != [ENVIRONMENTS[args.env].tasks]):
        raise EvaluationError(
            "--chains draws its own tasks and says the first phrasing of each; it does not go with --tasks, --blank, "
            "--command-override, --swap-colour, --delays, --films or several --executors"
        )
    check_contract(contract, args.env)
    for name in BLANKS[args.blank]:
        if name not in contract.camera_names:
            raise EvaluationError(
                f"--blank {args.blank} blacks out {name!r}; the checkpoint sees {', '.join(contract.camera_names)} only"
            )


def select_tasks(names: Sequence[str]) -> list[str]:
    """Return the task names that ``names`` (tasks, kinds, sets) stand for, each once, in the order of ``TASKS``.

    Raises:
        EvaluationError: a name stands for nothing.
    """
    sets: dict[str, tuple[str, ...]] = {
        "all": tuple(TASKS),
        "trained": TRAINED_TASKS,
        "novel": NOVEL_TASKS,
        "memory": MEMORY_TASKS,
    }
    for task in TASKS.values():
        sets[task.kind] = (*sets.get(task.kind, ()), task.name)
    for name in names:
        if name not in TASKS and name not in sets:
            raise EvaluationError(f"--tasks has {name!r}; allowed: {', '.join([*sets, *TASKS])}")
    chosen = {task for name in names for task in sets.get(name, (name,))}
    return [task for task in TASKS if task in chosen]


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
    console.print(f"inference p50 {_ms(inference['p50'])}, p95 {_ms(inference['p95'])}; {report['wall_s']:.0f} s")
    if "conditions" in report:
        table = Table("executor", "added delay ms", "ticks", "successes", "rate")
        for row in report["conditions"]:
            delay = "-" if row["delay_ms"] is None else f"{row['delay_ms']:g}"
            successes = f"{row['successes']}/{row['rollouts']}"
            table.add_row(row["executor"], delay, str(row["delay_ticks"]), successes, f"{row['success_rate']:.0%}")
        console.print(table)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"  # none where the policy was never asked


def print_chains(report: dict[str, Any]) -> None:
    """Print what ``summarise_chains`` returned."""
    table = Table("subtasks in a row", "chains", "rate", "95 % interval")
    for k, row in report["success_at"].items():
        low, high = row["interval"]
        table.add_row(k, f"{row['successes']}/{row['trials']}", f"{row['rate']:.1%}", f"{low:.0%} to {high:.0%}")
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    low, high = report["average_length_interval"]
    console.print(f"average length {report['average_length']:.2f} ({low:.2f} to {high:.2f}); {report['wall_s']:.0f} s")
