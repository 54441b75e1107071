# SPDX-License-Identifier: Apache-2.0
"""The simulated table-top arm as a benchmark: its tasks, and chains of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.chains import CHAIN_LENGTH, STEPS_PER_SUBTASK, Attempt, Chain
from vla_ros.runtime.planning.planner import ChunkPolicy
from vla_ros.runtime.rollout import EpisodeConfig, run_episode
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

_MAX_DRAWS = 200


def select_tasks(names: Sequence[str]) -> list[str]:
    """Expand `names` (tasks, kinds or sets of tasks) to tasks, each once, in the order of `TASKS`."""
    allowed = dict.fromkeys(("all", "trained", "novel", "memory", *(task.kind for task in TASKS.values()), *TASKS))
    for name in names:
        if name not in allowed:
            raise EvaluationError(f"--tasks must be among {', '.join(allowed)}; got {name!r}")
    return [task.name for task in TASKS.values() if {"all", task.role, task.kind, task.name} & set(names)]


def other_colour(task: str, index: int) -> str:
    """Return the same task for another block; `index` alternates between the two others."""
    twins = [twin.name for twin in TASKS.values() if twin.kind == TASKS[task].kind and twin.name != task]
    return twins[index % len(twins)]


@dataclasses.dataclass
class _SceneState:
    """What the subtasks so far have done to the scene: the drawer, blocks in the box, the block in the gripper."""

    drawer_open: bool
    boxed: set[str] = dataclasses.field(default_factory=set)
    held: str = ""

    def allows(self, task: str) -> bool:
        kind, color = TASKS[task].kind, TASKS[task].color
        if kind in ("open_drawer", "close_drawer"):
            return not self.held and self.drawer_open == (kind == "close_drawer")
        return color not in self.boxed and self.held in ("", color)

    def apply(self, task: str) -> None:
        kind, color = TASKS[task].kind, TASKS[task].color
        if kind in ("open_drawer", "close_drawer"):
            self.drawer_open = kind == "open_drawer"
        self.held = color if kind == "pick_up" else ""
        if kind == "put_in_box":
            self.boxed.add(color)


def draw_chain(number: int, seed: int, env: TabletopEnv) -> Chain:
    """Draw a chain for the scene of `seed` whose subtasks the scripted expert can do in sequence.

    Subtasks are drawn among those that make sense: a shut drawer can be opened, a held block must be put in the box or
    put down by pushing. Chains that the expert cannot complete within the step limit are drawn again. `env` is left in
    an arbitrary state, and needs no cameras.
    """
    random = np.random.default_rng([seed, 5])
    for _ in range(_MAX_DRAWS):
        chain = Chain(number, seed, draw_subtasks(random))
        set_up(env, chain)
        if all(_expert_succeeds(env, task) for task in chain.subtasks):
            return chain
    raise RuntimeError(f"none of {_MAX_DRAWS} chains in the scene of seed {seed} is feasible; use another seed")


def draw_subtasks(random: np.random.Generator) -> tuple[str, ...]:
    """Draw subtasks that make sense in sequence; the first one that uses the drawer implies its initial state."""
    first = str(random.choice(TRAINED_TASKS))
    scene = _SceneState(drawer_open=TASKS[first].kind == "close_drawer")
    subtasks: list[str] = []
    for _ in range(CHAIN_LENGTH):
        last = subtasks[-1] if subtasks else ""
        allowed = [task for task in TRAINED_TASKS if scene.allows(task) and task != last]
        subtasks.append(first if not subtasks else str(random.choice(allowed)))
        scene.apply(subtasks[-1])
    return tuple(subtasks)


def set_up(env: TabletopEnv, chain: Chain) -> None:
    """Reset `env` to the scene of a chain: that of its seed and first subtask."""
    env.reset(seed=chain.seed, options={"task": chain.subtasks[0]})


def attempt(env: TabletopEnv, policy: ChunkPolicy, task: str, config: EpisodeConfig) -> Attempt:
    """Have `policy` attempt `task` in the scene as it is."""
    result = run_episode(env, policy, env.begin(task), config)
    return Attempt(result.success, result.ticks)


def _expert_succeeds(env: TabletopEnv, task: str) -> bool:
    env.begin(task)
    expert = Expert(TASKS[task])
    return any(env.step(expert.act(env.state()))[2] for _ in range(STEPS_PER_SUBTASK))
