# SPDX-License-Identifier: Apache-2.0
"""Measure a policy's success in closed loop: a checkpoint in simulation, or a running policy over ROS.

vla evaluate config/checkpoints/tabletop                       all trained tasks, held-out phrasings
vla evaluate CKPT --tasks pick_up_red open_drawer --rollouts 50
vla evaluate CKPT --blank static                               how much the static camera matters
vla evaluate CKPT --tasks pick_up --swap-colour                whether the colour word decides which block is picked up
vla evaluate CKPT --chains 100                                 CALVIN's protocol: five tasks in a row in one scene
vla evaluate CKPT --delays 0 50 100 200 400 --executors path_following full_chunk   success against added delay
vla evaluate CKPT --output runs/evaluation --videos            resumable, with report.html and a video of each rollout
vla evaluate CKPT --env libero --suite libero_goal --rollouts 50    LIBERO's standard protocol
vla evaluate CKPT --env calvin --dataset task_D_D              CALVIN's 1000 chains (needs CALVIN)
vla evaluate --ros --tasks pick_up --output runs/live          the running simulator and policy

--tasks takes tasks, kinds (pick_up: all three colours) and sets: trained, novel, memory, all. Processes, on one machine
or several, share the work with --rank 0/4, 1/4, ... and the same --output; the last to finish writes the report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_ros import files, html
from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace
from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.closed_loop import evaluation
from vla_ros.evaluation.closed_loop.config import BLANKS, ENVIRONMENTS, VIDEOS, EvaluationConfig, configure, option
from vla_ros.evaluation.closed_loop.rollouts import request_rollouts, select_tasks
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.reports.evaluation_page import evaluation_blocks, summary, tables
from vla_ros.runtime.execution.executors import EXECUTORS
from vla_ros.runtime.rollout import EpisodeResult

# Options that apply to a running simulator and policy.
OVER_ROS = {"env", "tasks", "rollouts", "seed", "phrasings", "command_override", "max_time_s", "output"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla evaluate``; the parser returns only those that were given."""
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("checkpoint", nargs="?", help="checkpoint folder")
    add("--env", choices=ENVIRONMENTS, help="simulated robot (default: tabletop)")
    add("--suite", choices=libero.SUITES, help="LIBERO suite")
    add("--dataset", type=Path, metavar="FOLDER", help="CALVIN data set, such as task_D_D")
    add("--tasks", nargs="+", metavar="TASK", help="tasks, kinds or sets; LIBERO tasks by name or number")
    add("--rollouts", "--episodes", type=int, metavar="N", help="rollouts per task (default: 10)")
    add("--chains", type=int, metavar="N", help="run N chains of five tasks instead (CALVIN: 1000)")
    add("--seed", type=int, help="first scene (default: 50000), or LIBERO's first initial state (default: 0)")
    add("--phrasings", choices=["train", "held_out"], help="commands to use (default: held_out)")
    add("--blank", choices=sorted(BLANKS), help="cameras to black out (default: none)")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--command-override", metavar="TEXT", help="use this command for every task")
    words.add_argument("--swap-colour", action="store_true", help="name a block of another colour, and count that one")
    add("--delay-ticks", type=int, help="ticks until a chunk takes effect (default: 1; LIBERO and CALVIN: 0)")
    add("--delays", nargs="+", type=float, metavar="MS", help="run everything once for each added delay")
    add(
        "--executors", nargs="+", choices=list(EXECUTORS), help="run everything once for each (default: path_following)"
    )
    limit = "time limit per rollout (default: 12; LIBERO: the suite's)"
    add("--max-time", dest="max_time_s", type=float, metavar="SECONDS", help=limit)
    add("--robot", help="robot file whose limits apply (default: tabletop; LIBERO and CALVIN: none)")
    add("--workers", type=int, help="processes (default: 2)")
    add("--output", type=Path, metavar="FOLDER", help="save results there; resume if interrupted")
    add("--videos", "--films", action="store_true", help="also save a video of each rollout in --output")
    add("--rank", metavar="I/N", help="do share I of N (default: 0/1)")
    add("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    add("--ros", action="store_true", help="evaluate the running simulator and policy")
    add_ros_arguments(parser, condition=", with --ros")


def run(args: argparse.Namespace) -> int:
    given: dict[str, Any] = dict(vars(args))
    given.update({name: tuple(value) for name, value in given.items() if isinstance(value, list)})
    over_ros, ros_arguments = given.pop("ros", False), given.pop("ros_args")
    namespace = find_namespace(given.pop("namespace"), ros_arguments)
    json_file: Path | None = given.pop("json", None)
    if over_ros:
        config = _configure_ros(given)
        results: dict[str, Any] | None = _evaluate_running(config, namespace, ros_arguments)
        title = "Evaluation of a running policy"
    else:
        if namespace or ros_arguments:
            option = "--ros-args" if ros_arguments else "--namespace"
            raise EvaluationError(f"{option} is only used with --ros; add --ros, or leave it out")
        if "checkpoint" not in given:
            raise EvaluationError("the checkpoint folder is missing, for instance config/checkpoints/tabletop")
        if "rank" in given:
            given["rank"], given["ranks"] = parse_rank(given["rank"])
        config = configure(given)
        results = evaluation.evaluate(config)
        title = f"Evaluation of {Path(config.checkpoint).name}"
    if results is None:
        print("this share is done; the last one to finish writes the report")
        return 0
    _print(results)
    if json_file:
        files.write_json(json_file, results)
    if config.output:
        files.write_json(config.output / "report.json", results)
        blocks = evaluation_blocks(results, config.output / VIDEOS)
        files.write_text(config.output / "report.html", html.page(title, blocks))
    return 0


def parse_rank(text: str) -> tuple[int, int]:
    """Parse "I/N" to (rank, ranks)."""
    rank, _, ranks = text.partition("/")
    if not (rank.isdigit() and ranks.isdigit()):
        raise EvaluationError(f"--rank must be I/N, for instance 0/4, 1/4, 2/4 and 3/4; got {text!r}")
    return int(rank), int(ranks)


def _configure_ros(given: dict[str, Any]) -> EvaluationConfig:
    for name in given:
        if name not in OVER_ROS:
            what = "a checkpoint" if name == "checkpoint" else option(name)
            raise EvaluationError(
                f"{what} cannot be combined with --ros, which measures the policy as it is running; leave it out, and "
                "start the policy with what you want to measure"
            )
    if given.get("env", "tabletop") != "tabletop":
        raise EvaluationError(f"--ros uses the simulator node, a table-top arm; leave out --env {given['env']}")
    return configure(given)


def _evaluate_running(config: EvaluationConfig, namespace: str, ros_arguments: Sequence[str]) -> dict[str, Any]:
    """Run rollouts on the simulator's own clock, judged by what it publishes."""
    requests = request_rollouts(config, select_tasks(config))
    started_s = time.monotonic()
    rollouts = [ros_evaluation.ScheduledRollout(request.task, request.seed, request.command) for request in requests]
    options: dict[str, Any] = {"ros_arguments": ros_arguments, "time_limit_s": config.max_time_s}
    result = ros_evaluation.attach(namespace, rollouts, on_rollout=_print_rollout, **options)
    outcomes = [EpisodeResult(success, time_s, (), 0, 0) for _, success, time_s in result.rollouts]
    names = ("tasks", "rollouts", "seed", "phrasings", "command_override", "max_time")
    settings = config.settings()
    return evaluation.rollout_statistics(requests, outcomes) | {
        "ticks": result.ticks,
        "inference_ms": {name: result.inference_ms[name] for name in ("p50", "p95")},
        "wall_s": round(time.monotonic() - started_s, 1),
        "settings": {"ros": True, "namespace": namespace, **{name: settings[name] for name in names}},
    }


def _print_rollout(rollout: ros_evaluation.ScheduledRollout, success: bool, time_s: float) -> None:
    print(f"{rollout.task} {rollout.seed}: {'success' if success else 'failure'}, {time_s:.1f} s", flush=True)


def _print(results: dict[str, Any]) -> None:
    console = Console(width=None if Console().is_terminal else 100)
    for columns, rows in tables(results).values():
        table = Table(*columns)
        for row in rows:
            table.add_row(*map(str, row), style="bold" if row[0] == "all" else None)
        console.print(table)
    console.print(summary(results))
