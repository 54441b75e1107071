# SPDX-License-Identifier: Apache-2.0
"""A demonstration without ROS: expert, noise and when it ends."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the package vla_ros.nodes needs rclpy")

from vla_ros.nodes.simulator.demonstration import HOLD_TICKS, KEEP_MOVING_TICKS, TIME_LIMIT_S, Demonstration
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert
from vla_ros.sim.tasks import TASKS

CONTROL_HZ = 10.0


def demonstrate(task: str, perturbation: float, seed: int = 3) -> tuple[list, list, dict]:
    env = TabletopEnv(control_hz=CONTROL_HZ, render=False)
    env.reset(seed=seed, options={"task": task})
    demonstration = Demonstration(TASKS[task], seed, perturbation, CONTROL_HZ)
    states, steps, info = [], [], {}
    while not steps or steps[-1].outcome is None:
        states.append(env.state())
        steps.append(demonstration.step(states[-1]))
        *_, info = env.step(steps[-1].executed)
    return states, steps, info


def test_it_ends_with_success_after_holding_still():
    _, steps, info = demonstrate("pick_up_red", 0.0)
    assert steps[-1].outcome == "success" and info["success"]
    assert np.abs([step.executed[:6] for step in steps[-HOLD_TICKS:]]).max() < 0.05
    assert all(step.outcome is None for step in steps[:-1])


@pytest.mark.parametrize("seed", range(5))
def test_a_push_ends_while_moving(seed):
    """Holding still at the end would teach the policy to stop wherever a push might have ended."""
    _, steps, info = demonstrate("push_left_green", 0.0, seed)
    assert steps[-1].outcome == "success" and info["success"]
    assert all(np.linalg.norm(step.intended[:3]) > 0.1 for step in steps[-KEEP_MOVING_TICKS:])


def test_noise_is_on_the_executed_action_only():
    states, steps, _ = demonstrate("pick_up_red", 0.5)
    expert = Expert(TASKS["pick_up_red"])
    for state, step in zip(states, steps, strict=True):
        np.testing.assert_array_equal(step.intended, expert.act(state))
    strayed = [np.linalg.norm((step.executed - step.intended)[:3]) for step in steps]
    assert np.max(strayed) > 0.05
    assert all(step.executed[6] == step.intended[6] for step in steps)


def test_it_ends_with_failure_when_nothing_moves():
    env = TabletopEnv(render=False)
    env.reset(seed=0, options={"task": "open_drawer"})
    demonstration = Demonstration(TASKS["open_drawer"], 0, 0.0, CONTROL_HZ)
    outcomes = [demonstration.step(env.state()).outcome for _ in range(int(TIME_LIMIT_S * CONTROL_HZ))]
    assert outcomes[-1] == "failure" and not any(outcomes[:-1])
