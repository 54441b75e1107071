# SPDX-License-Identifier: Apache-2.0
"""On the robot the policy computes what it computed in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vla_ros import actions
from vla_ros.imaging import images
from vla_ros.observations.observation import Observation
from vla_ros.policy.inference import PolicyRunner


def observations(count: int) -> list[Observation]:
    random = np.random.default_rng(1)
    return [
        Observation(
            time_ns=index * 100_000_000,
            images={name: random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for name in ("static", "wrist")},
            stamps_ns={},
            proprioception=random.random(2).astype(np.float32),
            command="pick up the red block",
        )
        for index in range(count)
    ]


def window_prediction(policy, window: list[Observation]) -> np.ndarray:
    """The training path: one padded window through forward(), read at its last valid position."""
    history, count = policy.contract.timing.history, len(window)
    padding = [window[-1]] * (history - count)
    pixels = {
        camera.name: images.to_network(
            torch.from_numpy(np.stack([o.images[camera.name] for o in [*window, *padding]]))[None], camera
        )
        for camera in policy.contract.cameras
    }
    state = torch.from_numpy(np.stack([o.proprioception for o in [*window, *padding]]))[None]
    text = policy.encode_text(*policy.tokenize([window[-1].command]))
    valid = torch.tensor([[True] * count + [False] * len(padding)])
    with torch.no_grad():
        prediction = policy.eval()(pixels, state, text, valid)
    chunk = torch.cat([prediction.arm, prediction.gripper_logit.sigmoid()[..., None]], dim=-1)[0, count - 1]
    return actions.denormalize(chunk.numpy(), policy.contract.action.low, policy.contract.action.high)


def test_streaming_equals_the_training_window_at_and_beyond_its_length(policy) -> None:
    runner = PolicyRunner(policy)
    runner.reset("pick up the red block")
    seen: list[Observation] = []
    for observation in observations(8):
        seen.append(observation)
        np.testing.assert_allclose(runner.step(observation), window_prediction(policy, seen[-3:]), atol=1e-6)


def test_clearing_the_history_is_a_cold_start(policy) -> None:
    runner = PolicyRunner(policy)
    runner.reset("pick up the red block")
    first, second = observations(2)
    runner.step(first)
    runner.clear_history()
    np.testing.assert_allclose(runner.step(second), window_prediction(policy, [second]), atol=1e-6)


def test_a_reset_follows_the_new_command_without_the_old_history(policy) -> None:
    first, second = observations(2)
    runner = PolicyRunner(policy)
    runner.reset("pick up the red block")
    runner.step(first)
    runner.reset("open the drawer")
    fresh = PolicyRunner(policy)
    fresh.reset("open the drawer")
    np.testing.assert_array_equal(runner.step(second), fresh.step(second))


def test_chunks_are_physical_and_inside_the_contract(policy) -> None:
    runner = PolicyRunner(policy)
    runner.reset("open the drawer")
    chunk = runner.step(observations(1)[0])
    assert chunk.shape == (4, 7) and chunk.dtype == np.float64
    assert (chunk[:, :6] >= -0.2).all() and (chunk[:, :6] <= 0.4).all()
    assert (chunk[:, 6] > 0).all() and (chunk[:, 6] < 1).all()


def test_no_command_is_longer_than_the_one_that_warm_up_follows(policy, monkeypatch) -> None:
    encode, lengths = policy.encode_text, []

    def noted(tokens, mask):
        lengths.append(tokens.shape[1])
        return encode(tokens, mask)

    monkeypatch.setattr(policy, "encode_text", noted)
    runner = PolicyRunner(policy)
    runner.warm_up()
    runner.reset(" ".join(["pick up the red block"] * 100))
    longest = policy.contract.language.max_tokens
    assert lengths == [longest, longest]


def test_warm_up_leaves_no_trace(policy) -> None:
    observation = observations(1)[0]
    cold, warm = PolicyRunner(policy), PolicyRunner(policy)
    warm.warm_up()
    with pytest.raises(RuntimeError, match="reset"):
        warm.step(observation)
    for runner in (cold, warm):
        runner.reset("open the drawer")
    np.testing.assert_array_equal(warm.step(observation), cold.step(observation))


def test_a_step_encodes_one_frame(policy, monkeypatch) -> None:
    encoded = []
    encode = policy.backbone.encode
    monkeypatch.setattr(policy.backbone, "encode", lambda *a: encoded.append(len(a[2])) or encode(*a))
    runner = PolicyRunner(policy)
    runner.reset("open the drawer")
    for observation in observations(5):
        runner.step(observation)
    assert encoded == [1] * 5
