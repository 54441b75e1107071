# SPDX-License-Identifier: Apache-2.0
"""Turn reports of `vla evaluate` (--chains, --delays, --ros, --env calvin) into tables for docs/figures.md, and a plot.

vla evaluate config/checkpoints/tabletop --chains 100 --output runs/chains
vla evaluate config/checkpoints/tabletop --delays 0 50 100 200 400 --output runs/delays \\
    --executors path_following full_chunk first_action receding_horizon temporal_ensemble
python benchmarks/evaluations.py --chains runs/chains/report.json --delays runs/delays/report.json
vla evaluate --ros --tasks trained --rollouts 2 --output runs/live       # with simulator_node and policy_node running
python benchmarks/evaluations.py --live runs/live/report.json
vla evaluate config/checkpoints/tabletop --env calvin --dataset task_D_D --chains 10 --output runs/calvin
python benchmarks/evaluations.py --calvin runs/calvin/report.json
python benchmarks/evaluations.py --plot docs/images/delays.png           # from benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
from matplotlib.figure import Figure

from vla_ros.evaluation.reports.evaluation_page import draw_delays


def percent(interval: list[float]) -> str:
    low, high = interval
    return f"{low:.0%} to {high:.0%}"


ON_THE_ARM, IN_CALVIN = "Chains of five tasks on the simulated arm", "Chains of five tasks in CALVIN"


def chains(report: dict[str, Any], path: Path, title: str = ON_THE_ARM) -> None:
    """Write the table of chains of five tasks."""
    low, high = report["average_length_interval"]
    settings = report["settings"]
    on_arm, dataset = title == ON_THE_ARM, settings.get("dataset")
    where = (
        f"in process, {settings['delay_ticks']} tick of delay, {settings['phrasings']} phrasings."
        if on_arm
        else "a checkpoint of the table-top arm, which has never seen CALVIN: this shows that it runs, not how well."
    )
    figures.write(
        path,
        title=title,
        runs=report["chains"],
        note=f"Average length {report['average_length']:.2f} ({low:.2f} to {high:.2f}, bootstrapped). CALVIN's "
        "protocol: one scene per chain, at most 360 steps per subtask, the policy's history is cleared between "
        f"subtasks, the first failure ends the chain; {where}",
        columns=("subtasks in a row", "chains", "rate", "95 % interval"),
        rows=[
            (k, f"{row['successes']}/{row['trials']}", f"{row['rate']:.1%}", percent(row["interval"]))
            for k, row in report["success_at"].items()
        ],
        details={**report, "settings": {**settings, "dataset": dataset and Path(dataset).name}},
        command=f"vla evaluate {shlex.quote(settings['checkpoint'])} --chains {report['chains']}"
        + ("" if on_arm else " --env calvin --dataset task_D_D"),
    )


def live(report: dict[str, Any], path: Path) -> None:
    """Write the table of a running policy, over ROS in real time."""
    total, ticks = report["total"], report["ticks"]
    figures.write(
        path,
        title="A running policy on a running simulator",
        runs=total["rollouts"],
        note=f"Commands and verdicts over ROS, in real time (`--ros`). {ticks['missed']} of {ticks['total']} "
        f"control ticks missed; inference p50 {report['inference_ms']['p50']}, p95 {report['inference_ms']['p95']} "
        "ms.",
        columns=("task", "successes", "95 % interval", "mean time [s]"),
        rows=[
            (task, f"{row['successes']}/{row['rollouts']}", percent(row["interval"]), _seconds(row["mean_time_s"]))
            for task, row in [*report["tasks"].items(), ("all", total)]
        ],
        details=report,
        command=f"vla evaluate --ros --tasks {' '.join(report['settings']['tasks'])} --rollouts "
        f"{report['settings']['rollouts']}",
    )


def delays(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the table of success against delay, a row for each checkpoint, executor and delay."""
    rows = [(report["settings"]["checkpoint"], row) for report in reports for row in report["conditions"]]
    at_zero = {(checkpoint, row["executor"]): row["success_rate"] for checkpoint, row in rows if row["delay_ms"] == 0}
    figures.write(
        path,
        title="Success against inference delay",
        runs=min(row["rollouts"] for _, row in rows),
        note="Runs are rollouts per row, at least, in the same scenes, in process. The added delay is the time to "
        "compute a chunk: it takes effect that many ticks after its observation (settle time included), and the "
        "next observation is taken when it is done, as in the engine of a node, whatever the executor. The "
        "simulation does not wait. The command says which tasks each checkpoint was measured on.",
        columns=("checkpoint", "executor", "added delay [ms]", "ticks", "ticks per chunk", "successes", "rate",
                 "95 % interval", "relative to no delay"),
        rows=[
            (
                checkpoint,
                row["executor"],
                f"{row['delay_ms']:g}",
                row["delay_ticks"],
                row["busy_ticks"],
                f"{row['successes']}/{row['rollouts']}",
                f"{row['success_rate']:.1%}",
                percent(row["interval"]),
                _share(row["success_rate"], at_zero.get((checkpoint, row["executor"]))),
            )
            for checkpoint, row in rows
        ],
        details=list(reports),
        command=" && ".join(map(_command, reports)),
    )  # fmt: skip


def _seconds(time_s: float | None) -> str:
    return "-" if time_s is None else f"{time_s:.1f}"


def _share(rate: float, at_zero: float | None) -> str:
    return f"{rate / at_zero:.0%}" if at_zero else "-"


def _command(report: dict[str, Any]) -> str:
    settings = report["settings"]
    added = " ".join(f"{delay:g}" for delay in settings["delays"])
    return (
        f"vla evaluate {shlex.quote(settings['checkpoint'])} --tasks {' '.join(settings['tasks'])} "
        f"--rollouts {settings['rollouts']} --delays {added} --executors {' '.join(settings['executors'])}"
    )


def plot(table: dict[str, Any], path: Path) -> None:
    """Plot the table that `delays` wrote, one panel per checkpoint."""
    reports = table["details"]
    figure = Figure(figsize=(5.4 * len(reports), 3.8))
    for axis, report in zip(figure.subplots(1, len(reports), squeeze=False)[0], reports, strict=True):
        draw_delays(axis, report["conditions"])
        axis.set_title(report["settings"]["checkpoint"], fontsize="medium")
        axis.legend(loc="lower left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=Path, metavar="FILE", help="report.json of `vla evaluate --chains`")
    parser.add_argument(
        "--delays", type=Path, nargs="+", metavar="FILE", help="report.json files of `vla evaluate --delays`"
    )
    parser.add_argument("--live", type=Path, metavar="FILE", help="report.json of `vla evaluate --ros`")
    parser.add_argument("--calvin", type=Path, metavar="FILE", help="report.json of `vla evaluate --env calvin`")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the table of delays to this file")
    parser.add_argument("--results", type=Path, default=figures.HERE / "results", help="folder of result files")
    arguments = parser.parse_args()
    if arguments.chains:
        chains(json.loads(arguments.chains.read_text()), arguments.results / "chains.json")
    if arguments.calvin:
        chains(json.loads(arguments.calvin.read_text()), arguments.results / "calvin.json", IN_CALVIN)
    if arguments.live:
        live(json.loads(arguments.live.read_text()), arguments.results / "live.json")
    table = arguments.results / "delays.json"
    if arguments.delays:
        delays([json.loads(file.read_text()) for file in arguments.delays], table)
    if arguments.plot:
        plot(json.loads(table.read_text()), arguments.plot)


if __name__ == "__main__":
    main()
