# SPDX-License-Identifier: Apache-2.0
"""Run the shipped policy on the simulated arm over ROS 2, and print how it did.

Starts the simulator and the policy node as separate processes, tells the policy what to do, task by task, in scenes and
with phrasings that it was not trained on, and watches from outside whether the task gets done. Writes results.json,
demo.mp4 and contact_sheet.png (what both cameras saw).
"""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vla_ros.commands.results import write_json
from vla_ros.commands.ros import live
from vla_ros.commands.ros.film import Film, show
from vla_ros.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla demo``."""
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts of each task (default %(default)s)")
    parser.add_argument("--tasks", nargs="+", default=["all"], metavar="NAME", help="tasks, or all (trained)")
    parser.add_argument("--checkpoint", default="", metavar="FOLDER", help="policy to run (default: the shipped one)")
    parser.add_argument(
        "--phrasings", choices=("held-out", "train"), default="held-out", help="commands to say (default %(default)s)"
    )
    parser.add_argument(
        "--attach", action="store_true", help="start nothing: use the simulator and the policy that are running"
    )
    parser.add_argument("--namespace", default="", help="where these are, with --attach")
    parser.add_argument("--view", action="store_true", help="show both cameras in a window (needs a display)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="for the results (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``vla demo``."""
    if args.rollouts < 1:
        raise UserError(f"--rollouts is {args.rollouts}; allowed: 1 or more")
    if args.view and not os.environ.get("DISPLAY"):
        raise UserError("--view needs a display, and DISPLAY is not set; leave it out and look at demo.mp4 afterwards")
    if args.attach and args.checkpoint:
        raise UserError("--attach uses the policy that is running; leave out --checkpoint, or --attach")
    if args.namespace and not args.attach:
        raise UserError("--namespace says where to look with --attach; leave it out, or add --attach")
    trials = live.plan(args.tasks, args.rollouts, args.phrasings)
    args.output.mkdir(parents=True, exist_ok=True)
    results = args.output / "results.json"
    results.unlink(missing_ok=True)  # when this run ends early, figures of an earlier one must not pass for its own
    console, film = Console(), Film(args.output)
    console.print(f"{len(trials)} rollouts, {args.phrasings} phrasings, results in {args.output}", highlight=False)
    on_poll = functools.partial(show, title="vla demo") if args.view else None
    try:
        on_trial = functools.partial(_report, console)
        if args.attach:
            result = live.attach(args.namespace, trials, film=film, on_trial=on_trial, on_poll=on_poll)
        else:
            result = live.run(args.checkpoint, trials, args.output, film=film, on_trial=on_trial, on_poll=on_poll)
    finally:
        film.close()
    write_json(results, result.to_dict())
    print_result(console, result)
    console.print(f"{args.output}/: {results.name}, {film.video.name}, {film.sheet.name}", highlight=False)
    return 0


def _report(console: Console, trial: live.Trial, success: bool, time_s: float) -> None:
    outcome = f"[green]success[/] {time_s:4.1f} s" if success else "[red]failed[/]        "
    console.print(f'  {trial.task:18}{outcome}  "{trial.command}"', highlight=False)


def print_result(console: Console, result: live.LiveResult) -> None:
    """Print the table of a measurement."""
    table = Table()
    for name in ("task", "successes", "mean time [s]"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, row in result.by_task().items():
        table.add_row(task, f"{row['successes']}/{row['rollouts']}", f"{row['mean_time_s'] or '-'}")
    successes = sum(success for _, success, _ in result.trials)
    table.add_section()
    table.add_row("all", f"{successes}/{len(result.trials)} = {result.success_rate():.1%}", "")
    console.print(table)
    ticks, inference = result.ticks, result.inference_ms
    console.print(
        f"control ticks missed: {ticks['missed']} of {ticks['total']}    inference p50 {inference['p50']} ms, "
        f"p95 {inference['p95']} ms    wall {result.wall_s:.0f} s",
        highlight=False,
    )
