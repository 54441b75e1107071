# SPDX-License-Identifier: Apache-2.0
"""A policy that plans from where the arm will be when its chunk is taken up."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros import actions
from vla_ros.contract import ContractError, Proprioception
from vla_ros.observations.observation import Observation, proprioception
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.policy import Policy
from vla_ros.policy.runner import PolicyRunner
from vla_ros.policy.shifted_state import POSITIONS, ROTATION, rolled_forward
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.rollout import rollout

NAMES = ("gripper_opening", *ROTATION, *POSITIONS)  # in no order of ours


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_the_state_is_that_of_a_tool_that_moves_as_it_is_told(seed: int, ticks: int) -> None:
    random = np.random.default_rng(seed)
    position, quaternion = random.normal(size=3), random.normal(size=4)
    twists = random.normal(size=(2, ticks, 7))
    poses = np.concatenate([position, quaternion / np.linalg.norm(quaternion)])
    before = proprioception(NAMES, poses, 0.3)
    rolled = rolled_forward(np.stack([before, before]), NAMES, twists, 0.1)
    for row in range(2):
        place, turned = poses[:3], poses[3:]
        for twist in twists[row]:
            place, turned = actions.integrate_twist(place, turned, twist[:6], 0.1)
        np.testing.assert_allclose(rolled[row], proprioception(NAMES, [*place, *turned], 0.3), atol=2e-6)


@pytest.fixture
def shifted(policy: Policy, contract, tokenizer) -> Policy:
    """A policy that plans from after up to two of four actions; its state is x and the opening."""
    torch.manual_seed(0)
    config = dataclasses.replace(policy.config, max_delay_steps=2, delay_mode="shifted_state")
    return Policy(contract, config, tokenizer).eval()


COMMITTED = np.array([[0.1, 0, 0, 0, 0, 0, 0.875], [0.2, 0, 0, 0, 0, 0, 0.875]])


def observation(policy: Policy, x: float) -> Observation:
    pictures = {name: np.full((16, 16, 3), 90, np.uint8) for name in policy.contract.camera_names}
    return Observation(0, pictures, {}, np.array([x, 0.5], np.float32), "")


def test_a_runner_gives_the_committed_actions_and_then_a_whole_chunk_from_where_they_lead(shifted: Policy) -> None:
    runner = PolicyRunner(shifted)

    def step(x: float, committed=None) -> np.ndarray:
        runner.reset("open the drawer")
        return runner.step(observation(shifted, x), committed)

    chunk = step(0.4, COMMITTED)
    assert chunk.shape == (6, 7) and np.array_equal(chunk[:2], COMMITTED)
    np.testing.assert_allclose(chunk[2:], step(0.43), atol=1e-6)  # 0.1 s at 0.1 m/s and 0.1 s at 0.2 m/s later
    assert not np.allclose(chunk[2:], step(0.4), atol=1e-4)
    np.testing.assert_array_equal(step(0.4, COMMITTED[:0]), step(0.4))
    with pytest.raises(ValueError, match="max_delay_steps = 2"):
        step(0.4, np.zeros((3, 7)))


def test_a_warm_up_leaves_no_trace(shifted: Policy) -> None:
    warm, cold = PolicyRunner(shifted), PolicyRunner(shifted)
    warm.warm_up()
    for runner in (warm, cold):
        runner.reset("open the drawer")
    seen = observation(shifted, 0.4)
    np.testing.assert_array_equal(warm.step(seen, COMMITTED[:1]), cold.step(seen, COMMITTED[:1]))


def test_nothing_is_told_by_a_prefix(shifted: Policy) -> None:
    assert shifted.committed is None
    assert (
        shifted.state_dict().keys()
        == Policy(
            shifted.contract,
            dataclasses.replace(shifted.config, max_delay_steps=0, delay_mode="prefix"),
            shifted.tokenizer,
        )
        .state_dict()
        .keys()
    )
    images = {name: torch.zeros(1, 3, 16, 16) for name in shifted.contract.camera_names}
    text = shifted.encode_text(*shifted.tokenize(["open the drawer"]))
    with pytest.raises(ValueError, match="delay_mode 'shifted_state'; give it the proprioception"):
        shifted.step(images, torch.zeros(1, 2), text, None, torch.zeros(1, 7))


def test_a_checkpoint_says_how_its_policy_is_told(shifted: Policy, tmp_path) -> None:
    save_checkpoint(tmp_path / "policy", shifted)
    written = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert written["delay_mode"] == "shifted_state" and written["max_delay_steps"] == 2
    loaded = load_checkpoint(tmp_path / "policy")
    assert loaded.config == shifted.config and PolicyRunner(loaded).max_delay_steps == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("gripper_opening",), r"no part of it moves with the arm; add some of ee_x"),
        ((), r"contract\.proprioception is \[\]"),
        (("ee_x", "ee_r0", "ee_r1"), r"has ee_r0, ee_r1 only; allowed: all of ee_r0 \.\. ee_r5, or none"),
    ],
)
def test_a_state_that_can_not_be_moved_is_refused(shifted: Policy, names: tuple[str, ...], message: str) -> None:
    units = tuple("m" if name in POSITIONS else "1" for name in names)
    state = Proprioception(names, units, (0.0,) * len(names), (1.0,) * len(names)) if names else None
    contract = dataclasses.replace(shifted.contract, proprioception=state)
    with pytest.raises(ContractError, match=message):
        Policy(contract, shifted.config, shifted.tokenizer)


def test_actions_of_the_tool_s_frame_are_refused(shifted: Policy) -> None:
    action = dataclasses.replace(shifted.contract.action, frame="tool")
    with pytest.raises(ContractError, match="the actions are in the tool frame; allowed: 'base'"):
        Policy(dataclasses.replace(shifted.contract, action=action), shifted.config, shifted.tokenizer)


class Point:
    """A tool that does what it is told; ``x`` has where it was at each tick."""

    control_hz = 10.0

    def reset(self, *, seed=None, options=None):
        self.x = [0.4]
        return self._observation(), {}

    def step(self, action):
        self.x.append(self.x[-1] + 0.1 * action[0])
        return self._observation(), 0.0, False, False, {"success": False}

    def _observation(self) -> dict:
        image = np.full((16, 16, 3), 90, np.uint8)
        return {
            "static": image, "wrist": image, "ee_position": np.array([self.x[-1], 0.0, 0.3]),
            "ee_quaternion": np.array([0.0, 0.0, 0.0, 1.0]), "opening": np.array([0.5]),
        }  # fmt: skip


@pytest.mark.parametrize("delay_ticks", [1, 2])
def test_the_policy_plans_from_the_state_in_which_its_chunk_is_taken_up(shifted: Policy, delay_ticks: int) -> None:
    env, runner, given = Point(), PolicyRunner(shifted), []
    step, state = runner.step, runner._state
    runner.step = lambda seen, told: given.append([round(seen.time_ns / 1e8), len(told)]) or step(seen, told)
    runner._state = lambda *both: given[-1].append(state(*both)[0]) or state(*both)
    executor = make_executor("delay_aware", horizon=1, decay=0.0)
    rollout(
        env,
        runner,
        seed=0,
        task="t",
        command="open the drawer",
        max_time_s=2.0,
        delay_ticks=delay_ticks,
        executor=executor,
    )
    told = [(tick, count, x) for tick, count, x in given if count and tick + delay_ticks < len(env.x)]
    # The arm still stands for a tick when the second chunk is begun.
    assert len(told) >= 8 and [count for _, count, _ in told] == [1, *[delay_ticks] * (len(told) - 1)]
    assert [x for *_, x in told] == pytest.approx([env.x[tick + delay_ticks] for tick, *_ in told], abs=1e-5)
    assert all(abs(env.x[tick + delay_ticks] - env.x[tick]) > 1e-3 for tick, *_ in told)  # it moves meanwhile
