# SPDX-License-Identifier: Apache-2.0
"""Does anything grow if policy and guard go through their lifecycle again and again, with a rollout in each cycle?

Each cycle deactivates, cleans up, configures and activates both nodes of `vla demo` and runs a rollout. What soak.py
samples is sampled after each; after a warm-up, the end is compared with the beginning in the same way.

    python benchmarks/lifecycle_cycles.py --json benchmarks/results/lifecycle_cycles.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import figures
import soak
from hearing import call, hearing

from vla_ros import bringup, topics, transport
from vla_ros.commands.ros import ros_evaluation
from vla_ros.commands.ros.isolation import isolate
from vla_ros.commands.ros.process_group import ProcessGroup

CYCLED = {"policy": "policy_node", "guard": "guard_node"}
WARM_UP = 5


def cycle(node: Any, name: str) -> None:
    """Take a lifecycle node down to unconfigured and up to active again."""
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    for step in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
        transition = Transition(id=getattr(Transition, f"TRANSITION_{step}"))
        if not call(node, ChangeState, f"{name}/change_state", ChangeState.Request(transition=transition)).success:
            raise RuntimeError(f"{name} refused to {step.lower()}")


def run(cycles: int, folder: Path) -> tuple[dict[str, list[soak.Look]], int]:
    """Return samples of each process after the warm-up, and how many rollouts succeeded."""
    from diagnostic_msgs.msg import DiagnosticStatus  # not before the environment is set: rclpy reads it once

    from vla_ros.nodes.clients.rollouts import RolloutClient

    looks: dict[str, list[soak.Look]] = {process: [] for process in CYCLED.values()}
    successes = 0
    with ProcessGroup(folder) as group:
        group.start(*bringup.demo())
        with (
            RolloutClient("", watch=False) as client,
            hearing(DiagnosticStatus, topics.PLANNER_STATUS, lambda _: None) as node,
        ):
            ros_evaluation.wait_for_policy(client, "", group.check)
            for number, planned in enumerate(ros_evaluation.schedule(["all"], WARM_UP + cycles, "held-out")):
                if number == WARM_UP + cycles:
                    break
                for name in CYCLED:
                    cycle(node, name)
                ros_evaluation.wait_for_policy(client, "", group.check)
                done = client.rollout(
                    planned.task, planned.seed, planned.command, ros_evaluation.TIME_LIMIT_S, check=group.check
                )
                successes += number >= WARM_UP and done.success
                for process, pid in soak.processes().items():
                    if number >= WARM_UP and process in looks:
                        looks[process].append(soak.look(pid))
                print(f"cycle {number + 1}: {'success' if done.success else 'failure'}", flush=True)
    return looks, successes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20, help=f"cycles after {WARM_UP} to warm up (default: 20)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    isolate()
    os.environ.update(transport.environment(), OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as scratch:
        looks, successes = run(arguments.cycles, Path(scratch))
    compared = {process: soak.compare(samples) for process, samples in looks.items()}
    rows = soak.rows(compared)
    for row in rows:
        print("{:<16} {:<14} {:>16} {:>12}".format(*row))
    failures = soak.wrong(compared, {})
    summary = f"{successes} of {arguments.cycles} rollouts succeeded"
    print(f"{summary}; wrong: {'; '.join(failures) or 'nothing'}")
    if arguments.json:
        figures.write(
            arguments.json, title="Lifecycle cycles", runs=arguments.cycles, columns=soak.COLUMNS, rows=rows,
            note=f"Deactivate, clean up, configure, activate both nodes, then a rollout, {arguments.cycles} times; "
            f"medians of {soak.LOOKS} samples each. {summary}.",
            details={"wrong": failures},
        )  # fmt: skip
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
