# SPDX-License-Identifier: Apache-2.0
"""Does `vla replay` diagnose injected mismatches, and none in healthy demonstrations?

Demonstrations are made in process, in scenes that no recording and no evaluation contains, or come from bags. Each
mismatch of test/support/injected_mismatches.py is injected on its own. Healthy rows are all tasks together, in scenes
of two seeds, and single tasks.

    python benchmarks/replay_faults.py --json benchmarks/results/replay_faults.json
    python benchmarks/replay_faults.py --bags bags/tabletop --json runs/replay_faults.json
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import torch
from tabletop_demonstrations import demonstrate

from vla_ros import resources
from vla_ros.bringup import CHECKPOINT
from vla_ros.commands.policy.replay import spread
from vla_ros.contract import PolicyContract
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.sources import Source, load_source
from vla_ros.evaluation.replay.diagnosis import Diagnosis, diagnose
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.inference import PolicyRunner
from vla_ros.policy.policy import Policy
from vla_ros.robot import load_robot
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TRAINED_TASKS

sys.path.insert(0, str(Path(__file__).parents[1] / "test" / "support"))

from injected_mismatches import INJECTED

FIRST_SEED = 80_000
HEALTHY_TASKS = ("pick_up_blue", "push_left_green", "put_in_box_red", "open_drawer", "close_drawer")


def stating(policy: Policy, contract: PolicyContract) -> PolicyRunner:
    """Return the same weights with another contract."""
    other = Policy(contract, policy.config, policy.tokenizer)
    other.load_state_dict(policy.state_dict())
    return PolicyRunner(other)


def simulated(contract: PolicyContract, first_seed: int, each: int) -> dict[str, list[Episode]]:
    """Make `each` demonstrations of every task."""
    env = TabletopEnv(control_hz=contract.timing.control_hz)
    try:
        return {
            task: [demonstrate(env, task, first_seed + index, contract.observation_spec) for index in range(each)]
            for task in TRAINED_TASKS
        }
    finally:
        env.close()


def recorded(bags: Sequence[str], contract: PolicyContract, each: int) -> dict[str, list[Episode]]:
    """Return `each` demonstrations of every task in the bags."""
    episodes = load_source(
        Source("the bags", "bags", bags, load_robot("tabletop")), contract.observation_spec, contract.timing
    ).episodes
    tasks = dict.fromkeys(episode.task for episode in episodes)
    return {task: spread([one for one in episodes if one.task == task], each) for task in tasks}


def everything(by_task: dict[str, list[Episode]]) -> list[Episode]:
    return [episode for episodes in by_task.values() for episode in episodes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="", help="folder (default: the shipped one)")
    parser.add_argument("--bags", nargs="+", help="recorded demonstrations instead of simulated ones")
    parser.add_argument("--each", type=int, default=1, help="demonstrations per task (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_checkpoint(arguments.checkpoint or resources.path(CHECKPOINT))
    contract = policy.contract
    names = contract.observation_spec.proprioception
    if arguments.bags:
        by_task = recorded(arguments.bags, contract, arguments.each)
        healthy = {"healthy, recorded": everything(by_task)}
    else:
        by_task = simulated(contract, FIRST_SEED, arguments.each)
        more = simulated(contract, FIRST_SEED + 1000, arguments.each)
        healthy = {"healthy, new scenes": everything(by_task), "healthy, other new scenes": everything(more)}
    healthy |= {f"healthy, {task}": by_task[task] for task in HEALTHY_TASKS if task in by_task}
    rows: list[tuple[str, str, Diagnosis]] = []

    def note(what: str, wanted: str, diagnosis: Diagnosis) -> None:
        rows.append((what, wanted, diagnosis))
        found = "; ".join(f"{one.name}: {one.detail}" for one in diagnosis.findings) or "nothing"
        verdict = "right" if _found(diagnosis) == wanted else "WRONG"
        print(f"{verdict}  {what:34} {diagnosis.cost:.2f} -> {diagnosis.cost_undone:.2f}  {found}", flush=True)

    for what, episodes in healthy.items():
        note(what, "nothing", diagnose(PolicyRunner(policy), episodes, names))
    for what, injection in INJECTED.items():
        episodes = everything(by_task)
        if injection.episode:
            episodes = [injection.episode(episode, names, contract) for episode in episodes]
        runner = stating(policy, injection.contract(contract) if injection.contract else contract)
        note(what, injection.name, diagnose(runner, episodes, names))
    right = sum(_found(diagnosis) == wanted for _, wanted, diagnosis in rows)
    print(f"{right} of {len(rows)} correct")
    if arguments.json:
        _write(arguments.json, rows, right, arguments.each)


def _found(diagnosis: Diagnosis) -> str:
    """Return the diagnosed names, once each; an unexplained disagreement counts as one."""
    names = dict.fromkeys(finding.name for finding in diagnosis.findings)
    return ", ".join([*names, *(["unexplained"] if diagnosis.unexplained else [])]) or "nothing"


def _write(path: Path, rows: Sequence[tuple[str, str, Diagnosis]], right: int, each: int) -> None:
    details: list[dict[str, Any]] = [
        {"planted": what, "wanted": wanted, **dataclasses.asdict(diagnosis)} for what, wanted, diagnosis in rows
    ]
    figures.write(
        path,
        title="Mismatches diagnosed by `vla replay`",
        runs=each,
        note=f"{right} of {len(rows)} correct. Runs are demonstrations per task. Disagreement between predicted and "
        "demonstrated actions, as recorded and with the diagnosed mismatch undone: 0 is perfect, 1 no better than "
        "standing still.",
        columns=("injected", "diagnosed", "disagreement", "undone"),
        rows=[
            (what, _found(diagnosis), f"{diagnosis.cost:.2f}", f"{diagnosis.cost_undone:.2f}")
            for what, _, diagnosis in rows
        ],
        details=details,
    )


if __name__ == "__main__":
    main()
