# SPDX-License-Identifier: Apache-2.0
"""The figures of `vla evaluate --chains` and `--delays`, as they left them, for docs/figures.md.

vla evaluate config/checkpoints/tabletop --chains 100 --output runs/chains
vla evaluate config/checkpoints/tabletop --delays 0 50 100 200 400 --output runs/delays \\
    --executors full_chunk first_action receding_horizon temporal_ensemble
python benchmarks/evaluations.py --chains runs/chains/report.json --delays runs/delays/report.json
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import figures


def percent(interval: list[float]) -> str:
    low, high = interval
    return f"{low:.0%} to {high:.0%}"


def chains(report: dict[str, Any], path: Path) -> None:
    """The table of chains of five tasks."""
    low, high = report["average_length_interval"]
    settings = report["settings"]
    figures.write(
        path,
        title="Chains of five tasks on the simulated arm",
        runs=report["chains"],
        note=f"Average length {report['average_length']:.2f} ({low:.2f} to {high:.2f}, bootstrapped). CALVIN's "
        "protocol: one scene a chain, at most 360 steps a subtask, a policy that forgets what was before, until the "
        f"first failure; in process, {settings['delay_ticks']} tick of delay, {settings['phrasings']} phrasings.",
        columns=("subtasks in a row", "chains", "rate", "95 % interval"),
        rows=[
            (k, f"{row['successes']}/{row['trials']}", f"{row['rate']:.1%}", percent(row["interval"]))
            for k, row in report["success_at"].items()
        ],
        details=report,
        command=f"vla evaluate {shlex.quote(settings['checkpoint'])} --chains {report['chains']}",
    )


def delays(report: dict[str, Any], path: Path) -> None:
    """The table of success against added delay, a row for each executor and delay."""
    rows = report["conditions"]
    settings = report["settings"]
    executors = " ".join(dict.fromkeys(row["executor"] for row in rows))
    added = " ".join(dict.fromkeys(f"{row['delay_ms']:g}" for row in rows))
    figures.write(
        path,
        title="Success against added delay",
        runs=rows[0]["rollouts"],
        note="Rollouts a row, the same scenes in all. A chunk takes effect so many ticks after its observation: those "
        "of the settle time and the added delay; the world does not wait.",
        columns=("executor", "added delay [ms]", "ticks", "successes", "rate", "95 % interval"),
        rows=[
            (
                row["executor"],
                f"{row['delay_ms']:g}",
                row["delay_ticks"],
                f"{row['successes']}/{row['rollouts']}",
                f"{row['success_rate']:.1%}",
                percent(row["interval"]),
            )
            for row in rows
        ],
        details=report,
        command=f"vla evaluate {shlex.quote(settings['checkpoint'])} --rollouts {settings['rollouts']} "
        f"--delays {added} --executors {executors}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=Path, metavar="FILE", help="report.json of `vla evaluate --chains`")
    parser.add_argument("--delays", type=Path, metavar="FILE", help="report.json of `vla evaluate --delays`")
    parser.add_argument("--results", type=Path, default=figures.HERE / "results", help="where the tables go")
    arguments = parser.parse_args()
    for table, file in ((chains, arguments.chains), (delays, arguments.delays)):
        if file is not None:
            table(json.loads(file.read_text()), arguments.results / f"{table.__name__}.json")


if __name__ == "__main__":
    main()
