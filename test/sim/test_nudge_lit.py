# SPDX-License-Identifier: Apache-2.0
"""A memory task: the block glows at the start, and nothing reveals it afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("OpenGL")

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.physics import TabletopSim
from vla_ros.sim.scene import randomize
from vla_ros.sim.state import COLORS
from vla_ros.sim.tasks import TASKS
from vla_ros.sim.tasks.nudge_lit import show_cue

TASK = "nudge_lit"
STILL, UP = np.array([0, 0, 0, 0, 0, 0, 0.0]), np.array([0, 0, 0.3, 0, 0, 0, 0.0])


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(height=64, width=64)
    yield env
    env.close()


def begin(env: TabletopEnv, seed: int, color: str) -> dict:
    """Return the first observation of the scene of `seed`, with the block of `color` glowing."""
    env.reset(seed=seed, options={"task": TASK})
    show_cue(env.sim, color)
    return env.step(STILL)[0]


def brightness(observation: dict) -> float:
    return float(observation["static"].mean())


def test_the_block_glows_until_the_tool_moves(env):
    first = begin(env, 0, "red")
    for _ in range(30):
        waiting = env.step(STILL)[0]
    assert env.state().lit == "red" and env.state().dark
    np.testing.assert_allclose(waiting["static"].astype(int), first["static"], atol=40)
    glowing = (waiting["static"].min(axis=-1) > 1.5 * brightness(waiting) + 60).sum()
    assert glowing > 0
    for _ in range(3):
        moved = env.step(UP)[0]
    assert env.state().lit == "" and env.state().dark
    assert (moved["static"].min(axis=-1) > 1.5 * brightness(waiting) + 60).sum() < glowing


def test_the_light_comes_back_when_the_tool_is_raised(env):
    dark = brightness(begin(env, 1, "blue"))
    for _ in range(10):
        seen = env.step(UP)[0]
    assert not env.state().dark
    assert brightness(seen) > 2 * dark
    usual = env.sim.nominal.geom("blue").rgba
    np.testing.assert_array_equal(env.sim.model.geom("blue").rgba, usual)


def test_nothing_reveals_the_block_after_the_glow(env):
    """With the same motions in the same scene, images, poses and state differ only at the start."""
    told: dict[str, list] = {}
    for color in COLORS:
        observations = [begin(env, 2, color)]
        states = [env.state().to_vector()]
        for _ in range(12):
            observations.append(env.step(UP)[0])
            states.append(env.state().to_vector())
        told[color] = list(zip(observations, states, strict=True))
    differ = [
        not all(
            all(np.array_equal(told[color][tick][0][key], seen[key]) for key in seen)
            and np.array_equal(told[color][tick][1], state)
            for color in COLORS
        )
        for tick, (seen, state) in enumerate(told["red"])
    ]
    assert differ[0] and not any(differ[3:])
    assert not env.state().dark  # the last ones are in the light, where the policy must choose


def test_neither_command_nor_layout_depends_on_the_block():
    """The block is drawn last, from all three, so that nothing else can depend on it."""
    sim, drawn = TabletopSim(), Counter()
    for seed in range(60):
        randomize(sim, TASKS[TASK], np.random.default_rng(seed))
        drawn[sim.state().lit] += 1
    assert set(drawn) == set(COLORS) and min(drawn.values()) >= 10
    assert not any(color in text for text in (*TASKS[TASK].phrasings, *TASKS[TASK].held_out) for color in COLORS)


def test_the_expert_acts_the_same_for_every_block_until_the_light_is_back(env):
    acts: dict[str, list] = {}
    for color in COLORS:
        begin(env, 3, color)
        expert, acts[color] = Expert(TASKS[TASK]), []
        while env.state().dark:
            acts[color].append(expert.act(env.state()))
            env.step(acts[color][-1])
        acts[color].append(expert.act(env.state()))
    together = np.array([acts[color] for color in COLORS])  # (3, ticks, 7): all three take the same time
    assert together.shape[1] >= 4
    np.testing.assert_array_equal(together[0, :-1], together[1, :-1])
    np.testing.assert_array_equal(together[0, :-1], together[2, :-1])
    assert all(np.abs(together[i, -1] - together[j, -1]).max() > 0.01 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_nudging_another_block_is_no_success(env):
    env.reset(seed=4, options={"task": TASK})
    start, expert = env.state(), Expert(TASKS[TASK])
    wrong = next(color for color in COLORS if color != start.lit)
    expert.act(replace(start, lit=wrong))
    for _ in range(60):
        _, _, done, _, _ = env.step(expert.act(env.state()))
        assert not done
    assert np.linalg.norm(env.state().block_positions[wrong] - start.block_positions[wrong]) > 0.02


def test_other_tasks_start_with_the_light_on(env):
    reference = TabletopEnv(height=64, width=64)
    expected, _ = reference.reset(seed=5, options={"task": "pick_up_red"})
    reference.close()
    begin(env, 6, "red")
    seen, _ = env.reset(seed=5, options={"task": "pick_up_red"})
    for key in expected:
        np.testing.assert_array_equal(seen[key], expected[key])
    assert env.state().lit == "" and not env.state().dark


def test_a_chain_can_continue_with_a_memory_task(env):
    env.reset(seed=7, options={"task": "pick_up_red"})
    env.begin(TASK)
    assert env.state().lit in COLORS
    expert = Expert(TASKS[TASK])
    assert any(env.step(expert.act(env.state()))[2] for _ in range(100))
