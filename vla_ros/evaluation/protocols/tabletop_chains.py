# SPDX-License-Identifier: Apache-2.0
"""Chains of tasks on the simulated table-top arm, each of which can be done after those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_ros.evaluation.protocols.chains import CHAIN_LENGTH, STEPS_PER_SUBTASK, Attempt, Chain
from vla_ros.runtime.execution.executors import Executor
from vla_ros.runtime.planning.planner import ChunkPolicy
from vla_ros.runtime.rollout import pursue
from vla_ros.runtime.safety.governor import SafetyGovernor
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS, TRAINED_TASKS

_DRAWN_CHAINS = 200


@dataclasses.dataclass
class _Table:
    """What is known of the scene without looking: the drawer, blocks in the box, and the block in the hand."""

    drawer_open: bool
    boxed: set[str] = dataclasses.field(default_factory=set)
    held: str = ""

    def allows(self, task: str) -> bool:
        kind, color = TASKS[task].kind, TASKS[task].color
        if kind in ("open_drawer", "close_drawer"):
            return not self.held and self.drawer_open == (kind == "close_drawer")
        if color in self.boxed:
            return False
        return self.held == color if self.held else True

    def after(self, task: str) -> None:
        kind, color = TASKS[task].kind, TASKS[task].color
        if kind in ("open_drawer", "close_drawer"):
            self.drawer_open = kind == "open_drawer"
        self.held = color if kind == "pick_up" else ""
        if kind == "put_in_box":
            self.boxed.add(color)


def draw_chain(number: int, seed: int, env: TabletopEnv) -> Chain:
    """Return the chain of `number` in the scene of `seed`: the scripted expert can do its subtasks one after the other.

    Subtasks are drawn at random among those that make sense (a drawer that is shut is opened, a block that is held is
    put into the box or down by pushing it); what the expert does not do within the steps of a subtask is drawn anew.

    Args:
        env: without pictures, for speed; it is left somewhere else.
    """
    random = np.random.default_rng([seed, 5])
    for _ in range(_DRAWN_CHAINS):
        subtasks = _draw(random)
        chain = Chain(number, seed, subtasks)
        set_up(env, chain)
        if all(_expert_does(env, task) for task in subtasks):
            return chain
    raise RuntimeError(f"none of {_DRAWN_CHAINS} chains in the scene of seed {seed} can be done; draw with another one")


def set_up(env: TabletopEnv, chain: Chain) -> None:
    """Bring about the scene of a chain: that of its first subtask and its seed."""
    env.reset(seed=chain.seed, options={"task": chain.subtasks[0]})


def attempt(
    env: TabletopEnv,
    policy: ChunkPolicy,
    task: str,
    steps: int,
    *,
    command: str,
    delay_ticks: int = 1,
    governor: SafetyGovernor | None = None,
    executor: Executor | None = None,
    on_frame: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> Attempt:
    """Have `policy`, told `command`, try `task` in the scene as it is; see `runtime.rollout.pursue`."""
    result = pursue(
        env,
        policy,
        env.begin(task),
        command=command,
        max_ticks=steps,
        delay_ticks=delay_ticks,
        governor=governor,
        executor=executor,
        on_frame=on_frame,
    )
    return Attempt(result.success, result.ticks)


def _draw(random: np.random.Generator) -> tuple[str, ...]:
    """Draw subtasks that make sense one after the other; the drawer's state follows from the first that uses it."""
    first = str(random.choice(TRAINED_TASKS))
    table = _Table(drawer_open=TASKS[first].kind == "close_drawer")
    subtasks: list[str] = []
    for _ in range(CHAIN_LENGTH):
        last = subtasks[-1] if subtasks else ""
        allowed = [task for task in TRAINED_TASKS if table.allows(task) and task != last]
        subtasks.append(first if not subtasks else str(random.choice(allowed)))
        table.after(subtasks[-1])
    return tuple(subtasks)


def _expert_does(env: TabletopEnv, task: str) -> bool:
    """Let the scripted expert do `task` in the scene as it is; whether it has."""
    env.begin(task)
    expert = Expert(TASKS[task])
    for _ in range(STEPS_PER_SUBTASK):
        _, _, done, _, _ = env.step(expert.act(env.state()))
        if done:
            return True
    return False
