# SPDX-License-Identifier: Apache-2.0
"""Teach the policy a new task through ROS topics and bags, and measure it before and after.

1. evaluate the checkpoint on the new task and on the old ones       (as vla demo does)
2. record demonstrations of the new task, and a few of the old ones  (vla record-demo)
3. fine-tune the checkpoint on those bags                            (vla fit config/train/finetune.json)
4. evaluate again

Writes OUTPUT/results.json, before.json and after.json (per task), the bags and the new checkpoint. Replaces the results
of an earlier loop in OUTPUT, recognized by its loop.json.
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
from vla_ros.commands.ros import record_demo, ros_evaluation
from vla_ros.errors import UserError
from vla_ros.files import write_json

RECIPE = "config/train/finetune.json"
# Marks OUTPUT as a loop's, which the next loop may clear.
MARKER = "loop.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", default="push_away_red", metavar="NAME", help="the new task (default %(default)s)")
    add("--episodes", type=int, default=50, metavar="N", help="demonstrations of the new task (default %(default)s)")
    add("--rehearse", type=int, default=4, metavar="N", help="demonstrations of each old task (default %(default)s)")
    add("--rollouts", type=int, default=20, metavar="N", help="rollouts of the new task (default %(default)s)")
    add("--old-rollouts", type=int, default=3, metavar="N", help="rollouts of each old task (default %(default)s)")
    add("--checkpoint", default="", metavar="FOLDER", help="checkpoint to start from (default: the shipped one)")
    add("--recipe", type=Path, metavar="FILE", help=f"training recipe (default: {RECIPE})")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a recipe value")
    add("--speed", type=float, default=10.0, metavar="X", help="recording speed, times real time (default %(default)g)")
    add("--output", type=Path, default="runs/loop", metavar="FOLDER", help="results folder (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    times_s, console = [time.monotonic()], Console()
    checkpoint = args.checkpoint or str(resources.path(bringup.CHECKPOINT))
    old_tasks = _old_tasks(args.task)
    recipe = _check(args)
    _clear(args.output)
    write_json(args.output / MARKER, {"task": args.task, "checkpoint": checkpoint, "recipe": str(recipe)})
    before = _evaluate(console, args, checkpoint, old_tasks, "before")
    times_s.append(time.monotonic())
    bags = _record(console, args, old_tasks)
    times_s.append(time.monotonic())
    tuned = _fine_tune(console, args, recipe, checkpoint, *bags)
    times_s.append(time.monotonic())
    after = _evaluate(console, args, str(tuned), old_tasks, "after")
    times_s.append(time.monotonic())
    record_s, fit_s = times_s[2] - times_s[1], times_s[3] - times_s[2]
    results = {
        "task": args.task,
        "before": round(before.success_rate([args.task]), 4),
        "after": round(after.success_rate([args.task]), 4),
        "rollouts": args.rollouts,
        "record_s": round(record_s, 1),
        "fit_s": round(fit_s, 1),
        "wall_s": round(times_s[-1] - times_s[0], 1),
    }
    write_json(args.output / "results.json", results)
    console.rule("result")
    console.print(f"{args.task}: {results['before']:.0%} before, {results['after']:.0%} after fine-tuning")
    if args.old_rollouts:
        old_before, old_after = before.success_rate(old_tasks), after.success_rate(old_tasks)
        console.print(f"old tasks: {old_before:.0%} before, {old_after:.0%} after")
    console.print(f"recorded in {record_s / 60:.1f} min, fine-tuned in {fit_s / 60:.1f} min; checkpoint: {tuned}")
    return 0


def _check(args: argparse.Namespace) -> Path:
    """Refuse what would otherwise fail after minutes of recording; returns the recipe."""
    for name, low in (("rollouts", 1), ("old_rollouts", 0), ("rehearse", 0)):
        if (value := getattr(args, name)) < low:
            raise UserError(f"--{name.replace('_', '-')} must be at least {low}; got {value}")
    for episodes in (args.episodes, *([args.rehearse] if args.rehearse else [])):
        record_demo.check(episodes, args.speed)
    recipe: Path = args.recipe or resources.path(RECIPE)
    if not recipe.is_file():
        raise UserError(f"--recipe {recipe} does not exist; omit it to use {RECIPE}")
    return recipe


def _clear(output: Path) -> None:
    """Remove the results of an earlier loop from `output`, and nothing else."""
    if output.is_dir() and any(output.iterdir()) and not (output / MARKER).is_file():
        raise UserError(
            f"--output {output} contains files but no {MARKER}, so it was not written by vla loop, which might delete "
            "some of them; choose another folder, or empty this one"
        )
    for name in ("results.json", "before.json", "after.json"):
        (output / name).unlink(missing_ok=True)
    for folder in ("bags", "fit", "before", "after"):
        shutil.rmtree(output / folder, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)


def _old_tasks(task: str) -> list[str]:
    from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

    if task not in TASKS:
        raise UserError(f"--task must be one of {', '.join(TASKS)}; got {task!r}")
    return [name for name in TRAINED_TASKS if name != task]


def _evaluate(
    console: Console, args: argparse.Namespace, checkpoint: str, old_tasks: list[str], when: str
) -> ros_evaluation.RosEvaluation:
    """Roll out the new task and the old ones; writes OUTPUT/WHEN.json."""
    console.rule(f"{when}: {checkpoint}")
    rollouts = ros_evaluation.schedule([args.task], args.rollouts, "held-out")
    rollouts += ros_evaluation.schedule(old_tasks, args.old_rollouts, "held-out")
    result = ros_evaluation.run(checkpoint, rollouts, args.output / when)
    write_json(args.output / f"{when}.json", result.to_dict())
    result.print(console)
    return result


def _record(console: Console, args: argparse.Namespace, old_tasks: list[str]) -> tuple[Path, Path | None]:
    """Record the new task, and the old ones if they are to be rehearsed; returns the folders of both."""
    console.rule(f"record {args.episodes} demonstrations of {args.task}, {args.rehearse} of each old task")
    new_bags, old_bags = args.output / "bags" / "new", args.output / "bags" / "old"
    record_demo.record(new_bags, [args.task], args.episodes, args.speed)
    if args.rehearse:
        record_demo.record(old_bags, old_tasks, args.rehearse, args.speed)
    return new_bags, old_bags if args.rehearse else None


def _fine_tune(
    console: Console, args: argparse.Namespace, recipe: Path, checkpoint: str, new_bags: Path, old_bags: Path | None
) -> Path:
    """Run `vla fit` as a user would, in a separate process; returns the folder of the new checkpoint."""
    overrides = [f"init_from={json.dumps(checkpoint)}", *args.overrides]
    if old_bags is not None:
        overrides.append(f"keep.bags={json.dumps([str(old_bags)])}")
    command = ["fit", str(recipe), "--bags", str(new_bags), "--output", str(args.output), "--name", "fit"]
    for override in overrides:
        command += ["--set", override]
    console.rule("vla " + " ".join(command), characters="-")
    status = subprocess.run([sys.executable, "-m", "vla_ros.cli", *command], check=False).returncode
    if status:
        raise UserError(f"vla fit exited with status {status}; see its message above")
    return Path(args.output) / "fit" / "checkpoint"
