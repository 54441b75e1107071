# SPDX-License-Identifier: Apache-2.0
"""A policy trained with our recipe on demonstrations made here, against the untrained one, on a LIBERO task.

vla record-libero --output datasets/stove --episodes 30
vla fit config/train/libero.json
vla fit config/train/libero.json --name libero_untrained --set trainer.max_steps=1
for run in libero libero_untrained; do
    vla evaluate runs/$run/checkpoint --env libero --suite libero_goal --tasks turn_on_the_stove --rollouts 20 \\
        --output runs/$run/evaluation
done
python benchmarks/libero_training.py runs/libero runs/libero_untrained --json benchmarks/results/libero_training.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import figures


def steps(run: Path) -> int:
    """Return the number of training steps of a run."""
    return int(json.loads((run / "config.json").read_text())["trainer"]["max_steps"])


def row(run: Path, report: dict[str, Any]) -> tuple[Any, ...]:
    """Return (steps of training, successes, rate, 95 % interval, mean time to success)."""
    total = report["total"]
    (task,) = report["tasks"].values()
    mean_s = task["mean_time_s"]
    return (
        steps(run),
        f"{total['successes']}/{total['rollouts']}",
        f"{total['success_rate']:.0%}",
        "{:.0%} to {:.0%}".format(*total["interval"]),
        "-" if mean_s is None else f"{mean_s:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of `vla fit`, each with evaluation/report.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file")
    arguments = parser.parse_args()
    reports = [json.loads((run / "evaluation/report.json").read_text()) for run in arguments.runs]
    rows = [row(run, report) for run, report in zip(arguments.runs, reports, strict=True)]
    for one in rows:
        print(*one, sep="  ")
    seen = json.loads((arguments.runs[0] / "data.json").read_text())["training"]
    settings = reports[0]["settings"]
    if arguments.json:
        figures.write(
            arguments.json,
            title="LIBERO: a trained and an untrained policy",
            runs=min(report["total"]["rollouts"] for report in reports),
            note=f"{', '.join(reports[0]['tasks'])} of {settings['suite']}: fixed initial states from "
            f"{settings['seed']} on, which no demonstration started from, at most {settings['max_time']:g} s. "
            f"Trained on {seen['episodes']} demonstrations by a scripted expert ({seen['frames']} frames).",
            columns=("training steps", "successes", "rate", "95 % interval", "mean time [s]"),
            rows=rows,
            details=[
                {**report, "settings": {**report["settings"], "checkpoint": run.name}}
                for run, report in zip(arguments.runs, reports, strict=True)
            ],
            command="python benchmarks/libero_training.py runs/libero runs/libero_untrained",
        )


if __name__ == "__main__":
    main()
