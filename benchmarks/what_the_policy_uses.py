# SPDX-License-Identifier: Apache-2.0
"""Does the policy need both cameras, and does it follow the command? Success with each of them taken away.

The same scenes for every row, in process (one tick of delay, as on the robot), held-out phrasings. "different command"
gives the command of another kind of task and still counts the scene's own task; "different colour" names another block
and counts that block, on the tasks that pick one up.

    python benchmarks/what_the_policy_uses.py --rollouts 10 --json runs/what_the_policy_uses.json
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import figures

from vla_ros import resources
from vla_ros.bringup import CHECKPOINT
from vla_ros.evaluation.closed_loop.config import Condition, EvaluationConfig
from vla_ros.evaluation.closed_loop.evaluation import rollout_statistics
from vla_ros.evaluation.closed_loop.rollouts import RolloutRequest, request_rollouts, run_rollouts
from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

FIRST_SEED = 60_000
BLANKED = {
    "nothing removed": "none",
    "static camera black": "static",
    "wrist camera black": "wrist",
    "both cameras black": "both",
}


def another_kinds_command(request: RolloutRequest, index: int) -> RolloutRequest:
    """Return the request with the command of another kind of task."""
    others = [TASKS[name] for name in TRAINED_TASKS if TASKS[name].kind != TASKS[request.task].kind]
    other = others[(7 * index) % len(others)]
    return dataclasses.replace(request, command=other.held_out[index % len(other.held_out)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="", help="folder (default: the shipped one)")
    parser.add_argument("--rollouts", type=int, default=10, help="rollouts per task and row (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or str(resources.path(CHECKPOINT))
    config = EvaluationConfig(checkpoint, rollouts=arguments.rollouts, seed=FIRST_SEED, workers=arguments.workers)
    requests = request_rollouts(config, TRAINED_TASKS)
    rows = {name: (dataclasses.replace(config, blank=blank), requests) for name, blank in BLANKED.items()}
    misled = [another_kinds_command(request, index) for index, request in enumerate(requests)]
    rows["different command"] = (config, misled)
    pick_up = [name for name in TRAINED_TASKS if TASKS[name].kind == "pick_up"]
    swap = dataclasses.replace(config, rollouts=4 * arguments.rollouts, swap_colour=True)
    rows["different colour"] = (swap, request_rollouts(swap, pick_up))
    results = {}
    for name, (row_config, row_requests) in rows.items():
        report = rollout_statistics(row_requests, list(run_rollouts(row_config, Condition(), row_requests)))
        results[name] = {**report["total"], "tasks": {task: row["successes"] for task, row in report["tasks"].items()}}
        low, high = report["total"]["interval"]
        count = f"{report['total']['successes']}/{report['total']['rollouts']}"
        print(f"{name:20} {count:>8} = {report['success_rate']:6.1%}   (95 %: {low:.0%} to {high:.0%})", flush=True)
    if arguments.json:
        figures.write(
            arguments.json,
            title="What the policy uses",
            runs=arguments.rollouts,
            note="Runs are rollouts per task and row (four times as many in the last row), in process, with one "
            "tick of delay and held-out phrasings. Different command: success at the scene's own task. Different "
            "colour: the named block was picked up.",
            columns=("", "successes", "rate", "95 % interval"),
            rows=[
                (name, f"{row['successes']}/{row['rollouts']}", f"{row['successes'] / row['rollouts']:.1%}",
                 "{:.0%} to {:.0%}".format(*row["interval"]))
                for name, row in results.items()
            ],
            details=results,
        )  # fmt: skip


if __name__ == "__main__":
    main()
