# SPDX-License-Identifier: Apache-2.0
"""Turn reports of `vla evaluate --env libero` into a table for docs/figures.md, one row per task.

for suite in libero_spatial libero_object libero_goal libero_10; do
    vla evaluate CKPT --env libero --suite $suite --rollouts 1 --output runs/$suite
done
python benchmarks/libero_tasks.py runs/libero_*/report.json --json benchmarks/results/libero_tasks.json
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import figures


def rows(report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (suite, task, successes, 95 % interval) for each task of a report."""
    suite = report["settings"]["suite"]
    return [
        (suite, task, f"{row['successes']}/{row['rollouts']}", "{:.0%} to {:.0%}".format(*row["interval"]))
        for task, row in report["tasks"].items()
    ]


def command(report: dict[str, Any]) -> str:
    """Return the command that makes a report."""
    settings = report["settings"]
    return (
        f"vla evaluate {shlex.quote(Path(settings['checkpoint']).name)} --env libero --suite {settings['suite']} "
        f"--rollouts {settings['rollouts']} --max-time {settings['max_time']:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "reports", type=Path, nargs="+", help="report.json of `vla evaluate --env libero`, one per suite"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file")
    arguments = parser.parse_args()
    reports = [json.loads(file.read_text()) for file in arguments.reports]
    table = [row for report in reports for row in rows(report)]
    for row in table:
        print("  ".join(row))
    checkpoints = {report["settings"]["checkpoint"] for report in reports}
    limits = ", ".join(f"{r['settings']['suite']} {r['settings']['max_time']:g} s" for r in reports)
    if arguments.json:
        figures.write(
            arguments.json,
            title="LIBERO, by task",
            runs=min(report["settings"]["rollouts"] for report in reports),
            note=f"{len(table)} tasks, fixed initial states, ten settling steps, time limits: {limits}. "
            f"Checkpoints: {len(checkpoints)}.",
            columns=("suite", "task", "successes", "95 % interval"),
            rows=table,
            details=[
                {**r, "settings": {**r["settings"], "checkpoint": Path(r["settings"]["checkpoint"]).name}}
                for r in reports
            ],
            command="; ".join(map(command, reports)),
        )


if __name__ == "__main__":
    main()
