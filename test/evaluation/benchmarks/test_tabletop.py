# SPDX-License-Identifier: Apache-2.0
"""Chains on the simulated arm."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Provenance, Timing
from vla_ros.evaluation.benchmarks import tabletop
from vla_ros.evaluation.protocols.chains import Attempt, Chain, run_chain
from vla_ros.runtime.rollout import EpisodeConfig

pytest.importorskip("mujoco")

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS


class LiftingPolicy:
    """Always moves up, and counts its resets."""

    resets = 0
    contract = PolicyContract(
        cameras=(Camera("static", 8, 8),),
        proprioception=None,
        language=Language("{command}", "none", 8),
        timing=Timing(10.0, 1, 2),
        action=ActionSpace((-1.0,) * 6, (1.0,) * 6),
        provenance=Provenance("none", "0", "none", "none", "0"),
    )

    def reset(self, command: str) -> None:
        assert command == "open the drawer"
        self.resets += 1

    def clear_history(self) -> None: ...

    def warm_up(self) -> float:
        return 0.0

    def step(self, observation) -> np.ndarray:
        return np.tile([0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0], (2, 1))


class Unseen:
    """The arm with a black image, which is faster than rendering."""

    def __init__(self, env: TabletopEnv) -> None:
        self._env, self.control_hz = env, env.control_hz

    def begin(self, task: str) -> dict:
        return {**self._env.begin(task), "static": np.zeros((8, 8, 3), np.uint8)}

    def step(self, action):
        observation, *rest = self._env.step(action)
        return ({**observation, "static": np.zeros((8, 8, 3), np.uint8)}, *rest)


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv(render=False)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_subtasks_make_sense_in_sequence(seed: int) -> None:
    subtasks = tabletop.draw_subtasks(np.random.default_rng(seed))
    assert len(subtasks) == 5
    drawer = [task for task in subtasks if task.endswith("drawer")]
    assert all(one != other for one, other in itertools.pairwise(drawer))  # open, close, open ...
    for index, task in enumerate(subtasks[:-1]):
        if TASKS[task].kind == "pick_up":
            assert TASKS[subtasks[index + 1]].color == TASKS[task].color  # what is held comes next
        if TASKS[task].kind == "put_in_box":
            assert all(TASKS[later].color != TASKS[task].color for later in subtasks[index + 1 :])


def test_a_drawn_chain_is_feasible_and_reproducible(env: TabletopEnv) -> None:
    chain = tabletop.draw_chain(3, 90_003, env)
    assert tabletop.draw_chain(3, 90_003, env) == chain
    set_up = functools.partial(tabletop.set_up, env)
    result = run_chain(chain, set_up, functools.partial(_expert, env))
    assert result.length == 5


def test_each_subtask_starts_where_the_last_one_ended_without_history(env: TabletopEnv) -> None:
    """The policy lifts the arm, so the second attempt starts higher than the first."""
    policy = LiftingPolicy()
    chain = Chain(0, 90_000, ("open_drawer",) * 5)
    tabletop.set_up(env, chain)
    heights = []
    for _ in range(2):
        heights.append(env.state().tcp_position[2])
        found = tabletop.attempt(Unseen(env), policy, "open_drawer", EpisodeConfig("open the drawer", 6))
        assert not found.success and found.steps == 6
    assert heights[1] > heights[0] + 0.01
    assert policy.resets == 2


def _expert(env: TabletopEnv, task: str, steps: int) -> Attempt:
    env.begin(task)
    expert = Expert(TASKS[task])
    for step in range(steps):
        _, _, done, _, _ = env.step(expert.act(env.state()))
        if done:
            return Attempt(True, step + 1)
    return Attempt(False, steps)
