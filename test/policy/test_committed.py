# SPDX-License-Identifier: Apache-2.0
"""A policy that is given its committed actions continues from them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_heads import TINY_HEADS

from vla_ros.contract import ContractError
from vla_ros.observations.observation import Observation
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.policy.committed import CommittedActions, draw_delays
from vla_ros.policy.config import LossConfig
from vla_ros.policy.heads import HEADS
from vla_ros.policy.inference import PolicyRunner
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.policy.tuning import OptimizerConfig


@pytest.fixture
def delayed(policy: Policy, contract, tokenizer) -> Policy:
    """A policy that accepts up to two committed actions of four."""
    torch.manual_seed(0)
    return Policy(contract, dataclasses.replace(policy.config, max_delay_steps=2), tokenizer).eval()


def test_the_bias_is_zero_without_committed_actions_and_ignores_later_ones() -> None:
    committed = CommittedActions(max_delay_steps=3, context_size=5)
    actions = torch.randn(2, 4, 7)
    assert not committed(actions, torch.tensor([0, 0])).any()
    before = committed(actions, torch.tensor([1, 3]))
    actions[0, 1:] += 1
    actions[1, 3:] += 1
    assert torch.equal(committed(actions, torch.tensor([1, 3])), before)
    actions[:, 0] += 1
    assert not torch.isclose(committed(actions, torch.tensor([1, 3])), before).all(dim=1).any()
    assert not torch.allclose(committed(actions, torch.tensor([2, 3]))[0], committed(actions, torch.tensor([1, 3]))[0])


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(HEADS))
def test_the_context_bias_reaches_the_chunks_of_every_head_in_windows_and_streams(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name](feature_size=6, chunk=3, history=4, config=TINY_HEADS[name]).eval()
    features, added = torch.randn(2, 4, 6), torch.randn(2, 4, head.context_size)
    valid = torch.ones(2, 4, dtype=torch.bool)
    window, streamed = head(features, valid, added), head.newest(features, valid, added[:, -1])
    torch.testing.assert_close(streamed.gripper_logit, window.gripper_logit[:, -1])
    assert not torch.allclose(streamed.gripper_logit, head.newest(features, valid).gripper_logit)


def observed(policy: Policy) -> tuple:
    images = {camera.name: torch.randn(1, 3, camera.height, camera.width) for camera in policy.contract.cameras}
    return images, torch.rand(1, 2), policy.encode_text(*policy.tokenize(["open the drawer"])), None


@torch.no_grad()
def test_a_step_accepts_at_most_max_delay_steps_committed_actions(delayed: Policy, policy: Policy) -> None:
    inputs = observed(delayed)
    without = delayed.step(*inputs)[0].arm
    assert torch.equal(delayed.step(*inputs, prefix=torch.zeros(0, 7))[0].arm, without)
    prefixes = torch.rand(2, 2, 7)
    chunks = [delayed.step(*inputs, prefix=prefix)[0].arm for prefix in prefixes]
    assert not torch.allclose(chunks[0], without) and not torch.allclose(chunks[0], chunks[1])
    assert torch.equal(delayed.step(*inputs, prefix=prefixes[:1])[0].arm, chunks[0])  # with the batch's dimension
    with pytest.raises(ValueError, match=r"prefix has 3 committed actions, .* at most max_delay_steps = 2"):
        delayed.step(*inputs, prefix=torch.zeros(3, 7))
    with pytest.raises(ValueError, match=r"max_delay_steps = 0"):
        policy.eval().step(*inputs, prefix=torch.zeros(1, 7))


def test_the_first_actions_are_committed_and_the_others_learned(delayed: Policy, batch) -> None:
    module = VLAModule(delayed, max_steps=1, optimizer=OptimizerConfig(), loss=LossConfig(), augment=AugmentConfig())
    module.log = module.log_dict = lambda *_, **__: None
    given = {}

    def losses(features, actions, mask, config, added):
        given.update(mask=mask, added=added)
        return {"loss": features.sum()}

    delayed.head.losses = losses
    batch["action_valid"][2, :, 1:] = False  # the demonstration ends
    module.model_step(batch, "val")  # delays of 0, 1, 2
    expected = batch["action_valid"] & batch["valid"][..., None]
    expected[1, :, :1] = False
    expected[2] = False  # two were drawn, but there is only one action, and nothing after it
    assert torch.equal(given["mask"], expected)
    assert not given["added"][0].any() and given["added"][1].any(dim=-1).all()
    one = delayed.committed(batch["committed"][2, 0], torch.tensor(1))
    torch.testing.assert_close(given["added"][2, 0], one)


def test_delays_are_drawn_evenly_in_training_and_the_same_in_every_validation() -> None:
    torch.manual_seed(0)
    drawn = draw_delays(3000, 2, torch.device("cpu"), training=True)
    assert torch.bincount(drawn).div(3000).sub(1 / 3).abs().max() < 0.04
    assert draw_delays(5, 2, torch.device("cpu"), training=False).tolist() == [0, 1, 2, 0, 1]


def test_the_chunk_continues_the_committed_actions_where_the_image_is_ambiguous() -> None:
    """Half of the demonstrations pass an obstacle on the left, half on the right; the first action tells which."""
    torch.manual_seed(0)
    head = HEADS["lstm"](feature_size=4, chunk=3, history=1, config=TINY_HEADS["lstm"])
    committed = CommittedActions(max_delay_steps=1, context_size=head.context_size)
    optimizer = torch.optim.Adam([*head.parameters(), *committed.parameters()], 1e-2)
    features = torch.ones(8, 1, 4)
    side = torch.tensor([1.0, -1.0] * 4)
    actions = torch.zeros(8, 1, 3, 7)
    actions[..., 0] = 0.8 * side[:, None, None]
    mask = torch.ones(8, 1, 3, dtype=torch.bool)
    mask[..., 0] = False
    bias = committed(actions, torch.ones(8, 1, dtype=torch.long))
    for _ in range(150):
        optimizer.zero_grad()
        bias = committed(actions, torch.ones(8, 1, dtype=torch.long))
        head.losses(features, actions, mask, LossConfig(), bias)["loss"].backward()
        optimizer.step()
    after = head.decode(head.context_with(features, bias.detach())).arm[:, 0, 1:, 0]
    torch.testing.assert_close(after, actions[:, 0, 1:, 0], atol=0.1, rtol=0)


def test_a_checkpoint_stores_max_delay_steps_only_if_there_are_delays(delayed: Policy, policy, tmp_path) -> None:
    save_checkpoint(tmp_path / "delayed", delayed)
    loaded = load_checkpoint(tmp_path / "delayed")
    assert loaded.config.max_delay_steps == 2 == PolicyRunner(loaded).max_delay_steps
    assert all(torch.equal(value, delayed.state_dict()[name]) for name, value in loaded.state_dict().items())
    save_checkpoint(tmp_path / "plain", policy)
    written = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert written.keys() == {"backbone", "head", "compact", "lstm"}
    with pytest.raises(ContractError, match="max_delay_steps is 4; it must be less than the 4 actions of a chunk"):
        Policy(policy.contract, dataclasses.replace(policy.config, max_delay_steps=4), policy.tokenizer)


def test_a_runner_takes_committed_actions_in_physical_units_and_returns_them(delayed: Policy) -> None:
    runner = PolicyRunner(delayed)
    pictures = {name: np.full((16, 16, 3), 90, np.uint8) for name in delayed.contract.camera_names}
    observation = Observation(
        time_ns=0, images=pictures, stamps_ns={}, proprioception=np.array([0.4, 0.5], np.float32), command=""
    )

    def step(committed):
        runner.reset("open the drawer")
        return runner.step(observation, committed)

    committed = np.array([[0.1, 0, 0, 0, 0, 0, 0.875], [0.2, 0, 0, 0, 0, 0, 0.875]])
    free, bound = step(None), step(committed)
    assert np.array_equal(bound[:2], committed)
    assert not np.allclose(bound[2:], free[2:])
    seen = []
    delayed.step = lambda *args: seen.append(args[-2]) or Policy.step(delayed, *args)
    step(committed)
    expected = torch.tensor([[0.1, 0.2]]).T  # of [-0.2, 0.4] to [-1, 1]
    torch.testing.assert_close(seen[0][0, :, :1], (expected + 0.2) / 0.3 - 1)
    assert seen[0][0, :, 6].tolist() == [1.0, 1.0]
