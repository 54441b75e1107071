# SPDX-License-Identifier: Apache-2.0
"""Measure a policy in closed loop: a checkpoint on a simulated robot in process, or what is running, over ROS.

vla evaluate config/checkpoints/tabletop                       every trained task, held-out phrasings
vla evaluate CKPT --tasks pick_up_red open_drawer --rollouts 50
vla evaluate CKPT --blank static                               how much the static camera matters
vla evaluate CKPT --tasks pick_up --swap-colour                whether the colour word decides which block is picked
vla evaluate CKPT --chains 100                                 CALVIN's protocol: five tasks in a row, one scene
vla evaluate CKPT --delays 0 50 100 200 400 --executors full_chunk first_action   success against added delay
vla evaluate CKPT --output runs/evaluation                     results on disk, report.html, films; goes on if stopped
vla evaluate CKPT --env libero --suite libero_goal --rollouts 50    LIBERO's standard protocol
vla evaluate CKPT --env calvin --dataset task_D_D              CALVIN's 1000 chains, with CALVIN installed
vla evaluate --ros --tasks pick_up --output runs/live          the simulator and the policy that are running

A task may be named by its kind (pick_up: all three colours), or as a set: trained, novel, all. Several processes, on
one machine or more, share the work with --rank 0/4, 1/4, ... and the same --output; the last one makes the report.
"""

from __future__ import annotations

import argparse
import time

from vla_ros.commands.ros import live
from vla_ros.errors import UserError
from vla_ros.evaluation.closed_loop import environments, evaluate, evaluations
from vla_ros.evaluation.closed_loop.rollouts import Outcome, request_rollouts

# What says something of a policy and a simulator that are running somewhere.
OVER_ROS = {"ros", "namespace", "env", "tasks", "rollouts", "seed", "phrasings", "command_override", "max_time",
            "output", "json"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vla evaluate``."""
    evaluate.add_arguments(parser)
    parser.add_argument("--ros", action="store_true", help="measure the simulator and the policy that are running")
    parser.add_argument("--namespace", default="", help="where these are, with --ros")


def run(args: argparse.Namespace) -> int:
    """Run ``vla evaluate``."""
    if args.ros:
        return _over_ros(args)
    if args.namespace:
        raise UserError("--namespace says where to look with --ros; leave it out, or add --ros")
    return evaluate.run(args)


def _over_ros(args: argparse.Namespace) -> int:
    """Measure what is running: rollouts on the simulator's own clock, judged by what it publishes."""
    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    untouched = vars(defaults.parse_args([]))
    for name, value in vars(args).items():
        if name not in OVER_ROS and value != untouched[name]:
            what = "the checkpoint" if name == "checkpoint" else f"--{name.replace('_', '-')}"
            raise UserError(
                f"{what} does not go with --ros, which measures the policy that is running, as it is running; start it "
                "with what you want to measure, and leave this out"
            )
    if args.env != "tabletop":
        raise UserError(f"--ros measures on the simulator node, the table-top arm; --env is {args.env}: leave it out")
    environments.settle(args)
    requests = request_rollouts(
        evaluate.select_tasks(args.tasks),
        args.rollouts,
        args.seed,
        phrasings=args.phrasings,
        command=args.command_override,
    )
    started_s = time.monotonic()
    trials = [live.Trial(request.task, request.seed, request.command) for request in requests]
    result = live.attach(args.namespace, trials, on_trial=_tell, time_limit_s=args.max_time)
    outcomes = [Outcome(success, time_s, (), 0, 0) for _, success, time_s in result.trials]
    report = evaluations.summarise(requests, outcomes) | {
        "ticks": result.ticks,
        "inference_ms": {name: result.inference_ms[name] for name in ("p50", "p95")},
        "wall_s": round(time.monotonic() - started_s, 1),
        "settings": {name: getattr(args, name) for name in ("ros", "namespace", "tasks", "rollouts", "seed",
                     "phrasings", "command_override", "max_time")},
    }  # fmt: skip
    evaluate.publish(args, report, "Evaluation of a running policy")
    return 0


def _tell(trial: live.Trial, success: bool, time_s: float) -> None:
    print(f"{trial.task} {trial.seed}: {'success' if success else 'failure'}, {time_s:.1f} s", flush=True)
