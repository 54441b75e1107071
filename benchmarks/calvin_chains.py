# SPDX-License-Identifier: Apache-2.0
"""Do our CALVIN adapter and CALVIN's own evaluation script reach the same verdicts on the same actions?

python benchmarks/calvin_chains.py --dataset task_D_D --json benchmarks/results/calvin_chains.json

Scripted motions run through the adapter, with the code of `vla evaluate --env calvin`, which records the relative
actions that reach the simulator. CALVIN's `evaluate_sequence` then runs the same chains in its own simulator, with a
model that plays those actions back. Finally, an episode in CALVIN's format (relative actions, robot states) goes
through the adapter as twists; its deviation from the recorded states is reported next to that of the bare actions.

Needs CALVIN (github.com/mees/calvin) in this environment; of the data set, only validation/.hydra is read.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import calvin_motions
import figures
import numpy as np
from numpy.typing import NDArray

from vla_ros import resources
from vla_ros.bringup import CHECKPOINT
from vla_ros.contract import PolicyContract
from vla_ros.datasets.calvin.reader import RATE_HZ, twists_from_relative
from vla_ros.evaluation.benchmarks import calvin
from vla_ros.evaluation.protocols.chains import STEPS_PER_SUBTASK, Attempt, Chain, ChainResult, run_chain
from vla_ros.observations.observation import Observation
from vla_ros.runtime.rollout import EpisodeConfig

Array = NDArray[np.float64]
EPISODE_STEPS = 150


class Noted:
    """CALVIN's simulator, recording the actions of each subtask."""

    def __init__(self, env: Any) -> None:
        self.actions: list[Array] = []
        self._env = env

    def step(self, action: Array) -> Any:
        self.actions.append(np.array(action, dtype=np.float64))
        return self._env.step(action)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class Scripted:
    """A `ChunkPolicy` that follows a script for the current subtask, whatever it sees."""

    def __init__(self, contract: PolicyContract) -> None:
        self.contract = contract
        self.motion: calvin_motions.Motion | None = None

    def warm_up(self) -> float:
        return 0.0

    def clear_history(self) -> None: ...

    def reset(self, command: str) -> None: ...

    def step(self, observation: Observation) -> Array:
        assert self.motion is not None
        return self.motion.act()[None]


class PlayedBack:
    """A model for CALVIN's script that plays back the recorded actions, subtask by subtask."""

    def __init__(self, subtasks: Sequence[Sequence[Array]]) -> None:
        self.steps: list[int] = []  # of each subtask begun
        self._subtasks = subtasks

    def reset(self) -> None:
        self.steps.append(0)

    def step(self, seen: Any, text: str) -> Array:
        actions, index = self._subtasks[len(self.steps) - 1], self.steps[-1]
        self.steps[-1] += 1
        if index < len(actions):
            return actions[index]
        return np.array([0.0] * 6 + [1.0])  # the adapter saw success before: the verdicts will differ


def run_ours(
    installed: calvin.Installed, split: Path, chains: Sequence[tuple[Chain, dict[str, Any]]]
) -> list[tuple[ChainResult, list[list[Array]]]]:
    """Return our results and the actions of each attempted subtask."""
    contract = PolicyContract.load(resources.path(CHECKPOINT) / "contract.json")
    env = Noted(installed.environment(split))
    adapter = calvin.CalvinEnv(installed, env, contract.timing.control_hz)
    policy, done = Scripted(contract), []
    for chain, condition in chains:
        noted: list[list[Array]] = []

        def attempt(task: str, steps: int, noted: list[list[Array]] = noted) -> Attempt:
            tool = np.array(env.get_obs()["robot_obs"][:3])
            way = calvin_motions.waypoints(task, env.get_info()["scene_info"], tool)
            policy.motion = calvin_motions.Motion(way, tool, contract.timing.control_hz)
            env.actions = []
            config = EpisodeConfig(task, calvin.max_ticks(steps, contract.timing.control_hz), delay_ticks=0)
            result = calvin.attempt(adapter, policy, task, config)
            noted.append(env.actions)
            return result

        result = run_chain(chain, lambda _, condition=condition: adapter.set_up(condition), attempt)
        done.append((result, noted))
        print(f"chain {chain.number}: {', '.join(map(_words, chain.subtasks, result.attempts))}", flush=True)
    env.close()
    return done


def _words(task: str, attempt: Attempt) -> str:
    return f"{task} {'done' if attempt.success else 'not done'} after {attempt.steps}"


def run_theirs(
    installed: calvin.Installed,
    split: Path,
    chains: Sequence[tuple[Chain, dict[str, Any]]],
    actions: Sequence[list[list[Array]]],
) -> list[tuple[Attempt, ...]]:
    """Return the verdicts of CALVIN's own script on the same actions, in its own simulator."""
    from calvin_agent.evaluation.evaluate_policy import EP_LEN, evaluate_sequence

    assert EP_LEN == STEPS_PER_SUBTASK
    env, done = installed.environment(split), []
    for (chain, condition), subtasks in zip(chains, actions, strict=True):
        model = PlayedBack(subtasks)
        length = evaluate_sequence(
            env, model, installed.oracle, condition, chain.subtasks, installed.texts, defaultdict(list), False
        )
        done.append(tuple(Attempt(index < length, steps) for index, steps in enumerate(model.steps)))
    env.close()
    return done


def episode(installed: calvin.Installed, split: Path, condition: dict[str, Any]) -> tuple[Array, Array]:
    """Return relative actions (S, 7) along and about all axes, and the resulting states (S + 1, 15)."""
    env = installed.environment(split)
    phase = np.arange(EPISODE_STEPS)[:, None] / float(RATE_HZ) * np.array([1.3, 1.7, 2.1, 1.9, 1.5, 2.3])
    actions = np.array([0.5, 0.4, 0.3, 0.4, 0.5, 0.8]) * np.sin(phase)
    gripper = np.where(np.arange(EPISODE_STEPS) % 60 < 30, 1.0, -1.0)
    actions = np.concatenate([actions, gripper[:, None]], axis=1)
    states = bare(installed, env, condition, actions)
    env.close()
    return actions, states


def bare(installed: calvin.Installed, env: Any, condition: dict[str, Any], actions: Array) -> Array:
    """Return the robot's states under relative actions, without the adapter."""
    robot, scene = installed.scene_of(condition)
    states = [env.reset(robot_obs=robot, scene_obs=scene)["robot_obs"]]
    states += [env.step(action)[0]["robot_obs"] for action in actions]
    return np.array(states)


def through_adapter(
    installed: calvin.Installed, env: Any, condition: dict[str, Any], actions: Array, states: Array
) -> Array:
    """Return the robot's states when the actions go through the adapter as twists, one per step."""
    adapter = calvin.CalvinEnv(installed, env, float(RATE_HZ))
    adapter.set_up(condition)
    adapter.begin("move_slider_left")  # some task: what is asked about success does not move anything
    found = [env.get_obs()["robot_obs"]]
    for twist, gripper in zip(twists_from_relative(actions, states[:-1, 3:6]), actions[:, 6], strict=True):
        adapter.step(np.append(twist, float(gripper > 0)))
        found.append(env.get_obs()["robot_obs"])
    return np.array(found)


def apart(states: Array, others: Array) -> tuple[float, float]:
    """Return the largest difference in tool position [mm] and in joint angle [mrad]."""
    place, joints = np.abs(states[:, :3] - others[:, :3]).max(), np.abs(states[:, 7:14] - others[:, 7:14]).max()
    return 1e3 * float(place), 1e3 * float(joints)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="CALVIN data set, for the scene configuration")
    parser.add_argument("--chains", type=int, default=10, help="chains to run, of 1000 (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results file")
    arguments = parser.parse_args()
    calvin.check_data_set(arguments.dataset)
    installed, split = calvin.installed(), arguments.dataset / "validation"
    chains = calvin.draw_chains(installed, arguments.chains)
    ours = run_ours(installed, split, chains)
    theirs = run_theirs(installed, split, chains, [actions for _, actions in ours])
    pairs = [pair for (result, _), other in zip(ours, theirs, strict=True) for pair in zip(result.attempts, other)]
    equal = sum(one == other for one, other in pairs)
    begun = sum(len(result.attempts) for result, _ in ours), sum(map(len, theirs))
    actions, states = episode(installed, split, chains[0][1])
    env = installed.environment(split)
    again = apart(states, bare(installed, env, chains[0][1], actions))
    adapted = apart(states, through_adapter(installed, env, chains[0][1], actions, states))
    env.close()
    rows = [
        ("chains", len(chains)),
        ("subtasks attempted: ours, CALVIN's", f"{begun[0]}, {begun[1]}"),
        ("subtasks solved: ours, CALVIN's", f"{sum(a.success for a, _ in pairs)}, {sum(b.success for _, b in pairs)}"),
        ("equal verdicts after equally many steps", f"{equal} of {max(begun)}"),
        (f"{EPISODE_STEPS} recorded actions, replayed bare", "{:.4f} mm, {:.4f} mrad".format(*again)),
        (f"{EPISODE_STEPS} recorded actions as twists, through the adapter", "{:.4f} mm, {:.4f} mrad".format(*adapted)),
    ]
    for row in rows:
        print(*row, sep="  ")
    if arguments.json:
        figures.write(
            arguments.json,
            title="CALVIN: our adapter against CALVIN's own evaluation script",
            runs=len(chains),
            note="The same actions, from scripted motions (benchmarks/calvin_motions.py), judged by both; the first of "
            "CALVIN's 1000 chains, at most 360 steps per subtask. Differences: the largest in tool position and joint "
            "angle over an episode that moves along and about all axes.",
            columns=("quantity", "result"),
            rows=rows,
            details=[
                {**result.to_dict(), "calvin": [(attempt.success, attempt.steps) for attempt in other]}
                for (result, _), other in zip(ours, theirs, strict=True)
            ],
            command=f"python benchmarks/calvin_chains.py --dataset task_D_D --chains {len(chains)}",
        )


if __name__ == "__main__":
    main()
