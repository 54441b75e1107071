# SPDX-License-Identifier: Apache-2.0
"""A demonstration without ROS: expert, noise and when it is over."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the package vla_ros.nodes needs rclpy")

from vla_ros.nodes.simulator.demonstration import HOLD_TICKS, PUSH_ON_TICKS, TIME_LIMIT_S, Demonstration
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS

CONTROL_HZ = 10.0


def demonstrate(task: str, perturbation: float, seed: int = 3) -> tuple[list, list, dict]:
    env = TabletopEnv(control_hz=CONTROL_HZ, render=False)
    env.reset(seed=seed, options={"task": task})
    demonstration = Demonstration(TASKS[task], seed, perturbation, CONTROL_HZ)
    states, acts, info = [], [], {}
    while not acts or acts[-1].outcome is None:
        states.append(env.state())
        acts.append(demonstration.act(states[-1]))
        *_, info = env.step(acts[-1].executed)
    return states, acts, info


def test_it_ends_with_success_after_standing_still():
    _, acts, info = demonstrate("pick_up_red", 0.0)
    assert acts[-1].outcome == "success" and info["success"]
    assert np.abs([act.executed[:6] for act in acts[-HOLD_TICKS:]]).max() < 0.05
    assert all(act.outcome is None for act in acts[:-1])


@pytest.mark.parametrize("seed", range(5))
def test_a_push_ends_on_the_move(seed):
    """Standing still at the end would teach the policy to stop wherever a push might have ended."""
    _, acts, info = demonstrate("push_left_green", 0.0, seed)
    assert acts[-1].outcome == "success" and info["success"]
    assert all(np.linalg.norm(act.meant[:3]) > 0.1 for act in acts[-PUSH_ON_TICKS:])


def test_noise_is_in_what_is_executed_and_not_in_what_is_meant():
    states, acts, _ = demonstrate("pick_up_red", 0.5)
    expert = Expert(TASKS["pick_up_red"])
    for state, act in zip(states, acts, strict=True):
        np.testing.assert_array_equal(act.meant, expert.act(state))
    strayed = [np.linalg.norm((act.executed - act.meant)[:3]) for act in acts]
    assert np.max(strayed) > 0.05
    assert all(act.executed[6] == act.meant[6] for act in acts)


def test_it_ends_with_failure_when_nothing_moves():
    env = TabletopEnv(render=False)
    env.reset(seed=0, options={"task": "open_drawer"})
    demonstration = Demonstration(TASKS["open_drawer"], 0, 0.0, CONTROL_HZ)
    outcomes = [demonstration.act(env.state()).outcome for _ in range(int(TIME_LIMIT_S * CONTROL_HZ))]
    assert outcomes[-1] == "failure" and not any(outcomes[:-1])
