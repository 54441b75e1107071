# SPDX-License-Identifier: Apache-2.0
"""Teach the policy a task that it was not trained on, through ROS topics and bags, and measure it before and after.

1. measure the checkpoint on the new task and on the old ones       (as vla demo does)
2. record demonstrations of the new task, and a few of the old ones (vla record-demo)
3. fine-tune from the checkpoint on those bags                      (vla fit config/train/finetune.json)
4. measure again

Writes OUTPUT/results.json, before.json and after.json (task by task), the bags and the new checkpoint. What an earlier
loop left in OUTPUT, which its loop.json shows, is replaced.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from vla_ros import bringup, resources
from vla_ros.commands.results import write_json
from vla_ros.commands.ros import live, record_demo
from vla_ros.commands.ros.demo import print_result
from vla_ros.errors import UserError

RECIPE = "config/train/finetune.json"
# It says that OUTPUT is a loop's, and may be cleared by another one.
MARKER = "loop.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla loop``."""
    add = parser.add_argument
    add("--task", default="push_away_red", help="the new task (default %(default)s)")
    add("--episodes", type=int, default=50, help="its demonstrations (default %(default)s)")
    add("--rehearse", type=int, default=4, help="demonstrations of each old task to rehearse (default %(default)s)")
    add("--rollouts", type=int, default=20, help="to measure the new task (default %(default)s)")
    add("--old-rollouts", type=int, default=3, help="of each old task; 0: none (default %(default)s)")
    add("--checkpoint", default="", metavar="FOLDER", help="to start from (default: the shipped one)")
    add("--recipe", type=Path, metavar="FILE", help=f"training recipe (default: {RECIPE})")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="replace a value of it")
    add("--speed", type=float, default=10.0, help="of the simulation while recording (default %(default)s)")
    add("--output", type=Path, default=Path("runs/loop"), metavar="FOLDER", help="(default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run ``vla loop``."""
    started_s, console = time.monotonic(), Console()
    checkpoint = args.checkpoint or str(resources.path(bringup.CHECKPOINT))
    old_tasks = _old_tasks(args.task)
    recipe = _check(args)
    _make_room(args.output)
    write_json(args.output / MARKER, {"task": args.task, "checkpoint": checkpoint, "recipe": str(recipe)})

    before = _measure(console, args, checkpoint, old_tasks, "before")
    record_started_s = time.monotonic()
    console.rule(f"record {args.episodes} demonstrations of {args.task}, {args.rehearse} of each old task")
    new_bags, old_bags = args.output / "bags" / "new", args.output / "bags" / "old"
    record_demo.record(new_bags, [args.task], args.episodes, speed=args.speed)
    if args.rehearse:
        record_demo.record(old_bags, old_tasks, args.rehearse, speed=args.speed)
    record_s = time.monotonic() - record_started_s
    fit_started_s = time.monotonic()
    tuned = _fine_tune(console, args, recipe, checkpoint, new_bags, old_bags if args.rehearse else None)
    fit_s = time.monotonic() - fit_started_s
    after = _measure(console, args, str(tuned), old_tasks, "after")

    results = {
        "task": args.task,
        "before": _rate(before, [args.task]),
        "after": _rate(after, [args.task]),
        "rollouts": args.rollouts,
        "record_s": round(record_s, 1),
        "fit_s": round(fit_s, 1),
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    write_json(args.output / "results.json", results)
    console.rule("result")
    console.print(f"{args.task}: {results['before']:.0%} before, {results['after']:.0%} after fine-tuning")
    if args.old_rollouts:
        console.print(f"old tasks: {_rate(before, old_tasks):.0%} before, {_rate(after, old_tasks):.0%} after")
    console.print(f"recorded in {record_s / 60:.1f} min, fine-tuned in {fit_s / 60:.1f} min; checkpoint: {tuned}")
    return 0


def _check(args: argparse.Namespace) -> Path:
    """Refuse what would only fail after minutes of recording; returns the recipe."""
    for name, low in (("rollouts", 1), ("old_rollouts", 0), ("rehearse", 0)):
        if (value := getattr(args, name)) < low:
            raise UserError(f"--{name.replace('_', '-')} is {value}; allowed: {low} or more")
    for episodes in (args.episodes, *([args.rehearse] if args.rehearse else [])):
        record_demo.check(episodes, args.speed)
    recipe = args.recipe or resources.path(RECIPE)
    if not recipe.is_file():
        raise UserError(f"--recipe is {recipe}, and there is no such file; leave it out for {RECIPE}")
    return recipe


def _make_room(output: Path) -> None:
    """Remove what an earlier loop left in `output`, its results first, and nothing that is somebody else's."""
    if output.is_dir() and any(output.iterdir()) and not (output / MARKER).is_file():
        raise UserError(
            f"--output is {output}, which holds files but no {MARKER}: no loop has made them, and this one might "
            "remove some; choose another folder, or empty that one"
        )
    for name in ("results.json", "before.json", "after.json"):
        (output / name).unlink(missing_ok=True)
    for left in ("bags", "fit", "before", "after"):
        shutil.rmtree(output / left, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)


def _old_tasks(task: str) -> list[str]:
    from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

    if task not in TASKS:
        raise UserError(f"--task is {task!r}; allowed: any of {', '.join(TASKS)}")
    return [name for name in TRAINED_TASKS if name != task]


def _measure(
    console: Console, args: argparse.Namespace, checkpoint: str, old_tasks: list[str], when: str
) -> live.LiveResult:
    """Roll out the new task and the old ones, and keep the figures in OUTPUT/WHEN.json."""
    console.rule(f"{when}: {checkpoint}")
    trials = live.plan([args.task], args.rollouts, "held-out")
    if args.old_rollouts:
        trials += live.plan(old_tasks, args.old_rollouts, "held-out")
    result = live.run(checkpoint, trials, args.output / when)
    write_json(args.output / f"{when}.json", result.to_dict())
    print_result(console, result)
    return result


def _fine_tune(
    console: Console, args: argparse.Namespace, recipe: Path, checkpoint: str, new_bags: Path, old_bags: Path | None
) -> Path:
    """Run `vla fit` as a user would, in a process of its own; returns the new checkpoint's folder."""
    overrides = [f"init_from={json.dumps(checkpoint)}", *args.overrides]
    if old_bags is not None:
        overrides.append(f"keep.bags={json.dumps([str(old_bags)])}")
    command = ["fit", str(recipe), "--bags", str(new_bags), "--output", str(args.output), "--name", "fit"]
    for override in overrides:
        command += ["--set", override]
    console.rule("vla " + " ".join(command), characters="-")
    status = subprocess.run([sys.executable, "-m", "vla_ros.cli", *command], check=False).returncode
    if status:
        raise UserError(f"vla fit ended with status {status}; its message is above")
    return args.output / "fit" / "checkpoint"


def _rate(result: live.LiveResult, tasks: list[str]) -> float:
    """The success rate over `tasks`."""
    outcomes = [success for trial, success, _ in result.trials if trial.task in tasks]
    return round(sum(outcomes) / max(len(outcomes), 1), 4)
