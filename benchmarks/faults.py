# SPDX-License-Identifier: Apache-2.0
"""How long does the arm keep moving after a fault? Every fault of test/faults, injected in motion, over real DDS.

    python benchmarks/faults.py --json benchmarks/results/faults.json --docs docs/safety.md

The time runs from the fault to the last nonzero twist, as received by a subscriber in another process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import figures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test/support"))
BEGIN, END = "<!-- faults: made by benchmarks/faults.py -->", "<!-- end of faults -->"
COLUMNS = ("fault", "stop reason", "last motion after [ms] (median)", "worst", "limit")


def run(times: int) -> list[list]:
    """Inject each fault `times` times; return the measurements of each."""
    from faults import FAULTS, OBSERVATION, measure
    from node_faults import NODE_FAULTS
    from policy_bench import FakeRobot, policy_node, write_checkpoint, write_robot
    from system_faults import SYSTEM_FAULTS

    environment = dict(os.environ)
    results: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        robot = FakeRobot(int(environment["ROS_DOMAIN_ID"]))
        try:
            files = write_checkpoint(folder), write_robot(folder, observation=OBSERVATION)
            with policy_node(*files, environment) as process:
                robot.wait_state("waiting", "no_command")
                for fault in FAULTS * times:
                    _note(results, measure(robot, fault, (process.pid, process.guard.pid)))
        finally:
            robot.close()
        for scenario in [*NODE_FAULTS.values(), *SYSTEM_FAULTS.values()] * times:
            for measured in scenario(folder, environment):
                _note(results, measured)
    return list(results.values())


def _note(results: dict[str, list], measured) -> None:
    results.setdefault(measured.fault, []).append(measured)
    moved = "goes on" if measured.moved_s is None else f"{1e3 * measured.moved_s:.0f} ms"
    again = " (repeated: the machine was busy)" if measured.attempt > 1 else ""
    print(f"{measured.fault:<60} {measured.reason:<18} {moved}{again}", flush=True)


def row(measurements: list) -> list[str]:
    """Return one row of the table."""
    first = measurements[0]
    if first.moved_s is None:
        return [first.fault, "continues within its limits", "", "", ""]
    moved_ms = [1e3 * measured.moved_s for measured in measurements]
    figures_ms = (statistics.median(moved_ms), max(moved_ms), 1e3 * first.bound_s)
    return [first.fault, first.reason or "ends", *(f"{value:.0f}" for value in figures_ms)]


def insert(document: Path, rows: list[list[str]]) -> None:
    """Replace the table between the two markers of `document`."""
    text = document.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    lines = ["| " + " | ".join(line) + " |" for line in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    document.write_text(before + "\n\n" + "\n".join(lines) + "\n\n" + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1, help="injections of each fault (default: 1)")
    parser.add_argument("--json", type=Path, help="results file")
    parser.add_argument("--docs", type=Path, help="document whose table, between its markers, is replaced")
    arguments = parser.parse_args()
    from vla_ros import transport
    from vla_ros.commands.ros.isolation import isolate

    isolate()
    os.environ.update(transport.environment(), OMP_NUM_THREADS="1")
    measured = run(arguments.times)
    rows = [row(measurements) for measurements in measured]
    late = [each.fault for measurements in measured for each in measurements if not each.held]
    print(f"{len(rows)} faults; too late: {', '.join(late) or 'none'}")
    if arguments.json:
        figures.write(
            arguments.json, title="Injected faults: time until the arm stops", runs=arguments.times, columns=COLUMNS,
            rows=rows,
            note="Policy and guard as two processes over DDS, both at 20 Hz, with max_age_s 0.2, "
            "heartbeat_max_age_s 0.2 and chunks of 0.4 s. docs/safety.md explains the reasons.",
        )  # fmt: skip
    if arguments.docs:
        insert(arguments.docs, rows)
    return 1 if late else 0


if __name__ == "__main__":
    raise SystemExit(main())
