# SPDX-License-Identifier: Apache-2.0
"""The scripted expert solves its task and no other. Success rates: benchmarks/expert_success.py."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Perturbation
from vla_ros.sim.physics import MAX_ANGULAR_RPS, MAX_LINEAR_MPS
from vla_ros.sim.state import SceneState
from vla_ros.sim.tasks import TASKS


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv(render=False)


def play(env: TabletopEnv, name: str, seed: int, scale: float = 0.0, max_time_s: float = 10.0) -> list[SceneState]:
    """Return the states of one episode, until success or the time limit."""
    env.reset(seed=seed, options={"task": name})
    expert, noise = Expert(TASKS[name]), Perturbation(np.random.default_rng(seed), scale, env.control_hz)
    states = [env.sim.state()]
    for _ in range(round(max_time_s * env.control_hz)):
        done = env.step(noise.apply(expert.act(states[-1])))[2]
        states.append(env.sim.state())
        if done:
            break
    return states


@pytest.mark.parametrize("name", TASKS)
def test_it_solves_its_task_and_no_other(env, name):
    for seed in (0, 1, 2):
        states = play(env, name, seed)
        solved = [other for other, task in TASKS.items() if task.success(states[0], states[-1])]
        assert solved == [name]


@pytest.mark.parametrize("name", ["pick_up_green", "push_away_blue", "put_in_box_red", "open_drawer"])
def test_it_recovers_from_perturbations(env, name):
    for seed in (0, 1):
        states = play(env, name, seed, scale=0.25, max_time_s=20.0)
        assert TASKS[name].success(states[0], states[-1])


@pytest.mark.parametrize("name", ["pick_up_red", "push_left_green", "put_in_box_blue", "open_drawer", "close_drawer"])
def test_it_works_at_twice_the_rate(name):
    fast = TabletopEnv(render=False, control_hz=20.0)
    states = play(fast, name, 5)
    assert TASKS[name].success(states[0], states[-1])


@pytest.mark.parametrize("lost", ["fingers opened", "block taken away"])
def test_it_regrasps_a_dropped_block(env, lost):
    env.reset(seed=0, options={"task": "pick_up_red"})
    expert, start = Expert(TASKS["pick_up_red"]), env.sim.state()
    done, held_at = False, None
    for step in range(120):
        state = env.sim.state()
        action = expert.act(state)
        if held_at is None and state.block_positions["red"][2] > 0.03:
            held_at = step
            if lost == "block taken away":
                env.sim.place_block("red", start.block_positions["red"], 0.3)
        if lost == "fingers opened" and held_at is not None and step < held_at + 5:
            action[6] = 1.0
        done = env.step(action)[2]
        assert not (done and step < held_at + 5)
        if done:
            break
    assert done


@pytest.mark.parametrize("name", TASKS)
def test_it_holds_still_after_success(env, name):
    env.reset(seed=4, options={"task": name})
    expert, start = Expert(TASKS[name]), env.sim.state()
    for _ in range(100):
        action = expert.act(env.sim.state())
        env.step(action)
        if TASKS[name].success(start, env.sim.state()) and not action[:6].any():
            break
    before = env.sim.state()
    for _ in range(10):
        action = expert.act(env.sim.state())
        np.testing.assert_array_equal(action[:6], 0.0)
        env.step(action)
    assert TASKS[name].success(start, env.sim.state())
    assert np.linalg.norm(env.sim.state().tcp_position - before.tcp_position) < 0.012


def test_labels_and_noise_stay_within_the_speed_caps(env):
    env.reset(seed=1, options={"task": "put_in_box_green"})
    expert, noise = Expert(TASKS["put_in_box_green"]), Perturbation(np.random.default_rng(0), 1.0)
    for _ in range(40):
        label = expert.act(env.sim.state())
        executed = noise.apply(label)
        for action in (label, executed):
            assert np.linalg.norm(action[:3]) <= MAX_LINEAR_MPS + 1e-9
            assert np.linalg.norm(action[3:6]) <= MAX_ANGULAR_RPS + 1e-9
        assert executed[6] == label[6]
        assert not np.array_equal(executed[:6], label[:6])
        env.step(executed)


def test_no_perturbation_at_scale_zero():
    action = np.array([0.1, -0.1, 0.05, 0.2, 0.0, -0.3, 1.0])
    np.testing.assert_array_equal(Perturbation(np.random.default_rng(0), 0.0).apply(action), action)
