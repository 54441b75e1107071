# SPDX-License-Identifier: Apache-2.0
"""Turn the results of `vla demo` and `vla loop` into tables for docs/figures.md.

vla demo --rollouts 10 && vla loop
python benchmarks/closed_loop.py --results benchmarks/results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import figures

from vla_ros.evaluation.protocols.intervals import wilson_interval

Tasks = dict[str, dict[str, Any]]


def rate(tasks: Tasks) -> str:
    """Return the successes of all rollouts with their 95 % interval."""
    successes, rollouts = (sum(row[key] for row in tasks.values()) for key in ("successes", "rollouts"))
    low, high = wilson_interval(successes, rollouts)
    return f"{successes}/{rollouts} = {successes / rollouts:.1%} ({low:.0%} to {high:.0%})"


def demo(results: dict[str, Any], path: Path) -> None:
    """Write the table of the shipped policy, through ROS in real time."""
    tasks: Tasks = results["tasks"]
    ticks, inference = results["ticks"], results["inference_ms"]
    figures.write(
        path,
        title="The shipped policy on the simulated arm, through ROS in real time",
        runs=min(row["rollouts"] for row in tasks.values()),
        note=f"In scenes and with phrasings that no demonstration contains. Control ticks missed: "
        f"{ticks['missed']} of {ticks['total']}; inference p50 {inference['p50']} ms, p95 {inference['p95']} ms; "
        f"{results['wall_s']:.0f} s in total.",
        columns=("task", "successes", "mean time [s]"),
        rows=[
            *(
                (task, f"{row['successes']}/{row['rollouts']}", row["mean_time_s"] or "-")
                for task, row in tasks.items()
            ),
            ("all", rate(tasks), ""),
        ],
        details=results,
        command="vla demo --rollouts " + str(min(row["rollouts"] for row in tasks.values())),
    )


def loop(folder: Path, path: Path) -> None:
    """Write the table of the loop: before and after fine-tuning on a new task."""
    results, before, after = (
        json.loads((folder / name).read_text()) for name in ("results.json", "before.json", "after.json")
    )
    new = results["task"]
    rehearsed = {row["rollouts"] for task, row in before["tasks"].items() if task != new} or {0}
    old = [{task: row for task, row in when["tasks"].items() if task != new} for when in (before, after)]
    figures.write(
        path,
        title="Learning a new task",
        runs=results["rollouts"],
        note=f"Through ROS in real time, with held-out phrasings. Recording took {results['record_s'] / 60:.1f} "
        f"min, fine-tuning {results['fit_s'] / 60:.1f} min, everything including both measurements "
        f"{results['wall_s'] / 60:.1f} min.",
        columns=("", "before", "after"),
        rows=[
            (f"{new} (new)", *(rate({new: when["tasks"][new]}) for when in (before, after))),
            *([(f"the {len(old[0])} old tasks", *map(rate, old))] if old[0] else []),
        ],
        details=results,
        command=f"vla loop --rollouts {results['rollouts']} --old-rollouts {min(rehearsed)}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo/results.json"))
    parser.add_argument("--loop", type=Path, default=Path("runs/loop"))
    parser.add_argument("--results", type=Path, default=figures.HERE / "results", help="folder of result files")
    arguments = parser.parse_args()
    demo(json.loads(arguments.demo.read_text()), arguments.results / "demo.json")
    loop(arguments.loop, arguments.results / "loop.json")


if __name__ == "__main__":
    main()
