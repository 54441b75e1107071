# SPDX-License-Identifier: Apache-2.0
"""Run the shipped policy on the simulated arm over ROS 2 and report its success rate.

Starts simulator, policy and guard, gives the policy one command after another, in scenes and with phrasings it was not
trained on, and checks from outside whether each task succeeds. Writes results.json, demo.mp4 and
contact_sheet.png (both cameras).
"""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.rollout_video import RolloutVideo, show
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace
from vla_ros.errors import UserError
from vla_ros.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rollouts", type=int, default=2, metavar="N", help="rollouts per task (default %(default)s)")
    add("--tasks", nargs="+", default=["all"], metavar="NAME", help="task names, or all (the trained tasks; default)")
    add("--checkpoint", default="", metavar="FOLDER", help="checkpoint folder (default: the shipped one)")
    add("--any-robot", action="store_true", help="accept a checkpoint of another robot than the simulated arm")
    add("--phrasings", choices=("held-out", "train"), default="held-out", help="commands to use (default %(default)s)")
    add("--attach", action="store_true", help="use the simulator and the policy that are already running")
    add("--view", action="store_true", help="show both cameras in a window (needs a display)")
    add("--output", type=Path, default="runs/demo", metavar="FOLDER", help="results folder (default %(default)s)")
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.rollouts < 1:
        raise UserError(f"--rollouts must be at least 1; got {args.rollouts}")
    if args.view and not os.environ.get("DISPLAY"):
        raise UserError("--view needs a display, but DISPLAY is not set; omit it and watch demo.mp4 afterwards")
    if args.attach and args.checkpoint:
        raise UserError("--attach uses the running policy; omit either --checkpoint or --attach")
    namespace = find_namespace(args.namespace, args.ros_args)
    rollouts = ros_evaluation.schedule(args.tasks, args.rollouts, args.phrasings)
    args.output.mkdir(parents=True, exist_ok=True)
    results = args.output / "results.json"
    results.unlink(missing_ok=True)  # results of an earlier run must not pass for those of a run that fails
    console, video = Console(), RolloutVideo(args.output)
    console.print(f"{len(rollouts)} rollouts, {args.phrasings} phrasings, results in {args.output}", highlight=False)
    on_poll = functools.partial(show, title="vla demo") if args.view else None
    watch: dict[str, Any] = {"video": video, "on_rollout": functools.partial(_print_rollout, console)}
    watch |= {"on_poll": on_poll, "ros_arguments": args.ros_args}
    try:
        if args.attach:
            result = ros_evaluation.attach(namespace, rollouts, **watch)
        else:
            where = {"any_robot": args.any_robot, "namespace": namespace}
            result = ros_evaluation.run(args.checkpoint, rollouts, args.output, **where, **watch)
    finally:
        video.close()
    write_json(results, result.to_dict())
    result.print(console)
    console.print(f"{args.output}/: {results.name}, {video.video.name}, {video.sheet.name}", highlight=False)
    return 0


def _print_rollout(console: Console, rollout: ros_evaluation.ScheduledRollout, success: bool, time_s: float) -> None:
    outcome = f"[green]success[/] {time_s:4.1f} s" if success else "[red]failed[/]        "
    console.print(f'  {rollout.task:18}{outcome}  "{rollout.command}"', highlight=False)
