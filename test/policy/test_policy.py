# SPDX-License-Identifier: Apache-2.0
"""What the network may and may not depend on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vla_ros.contract import ContractError
from vla_ros.imaging import images
from vla_ros.policy.backbones.compact import CameraEncoder
from vla_ros.policy.config import CompactConfig
from vla_ros.policy.policy import Policy


def predict(policy: Policy, batch, **changes):
    batch = {**batch, **changes}
    pixels = {c.name: images.to_network(batch["images"][c.name], c) for c in policy.contract.cameras}
    text = policy.encode_text(batch["tokens"], batch["token_mask"])
    with torch.no_grad():
        return policy.eval()(pixels, batch["proprioception"], text, batch["valid"])


def test_prediction_has_a_chunk_at_every_position(policy, batch) -> None:
    prediction = predict(policy, batch)
    assert prediction.arm.shape == (3, 3, 4, 6)
    assert prediction.gripper_logit.shape == (3, 3, 4)


def test_padded_frames_change_no_valid_prediction(policy, batch) -> None:
    before = predict(policy, batch)
    for frames in (*batch["images"].values(), batch["proprioception"]):
        frames[2, 1:] = 7
    after = predict(policy, batch)
    torch.testing.assert_close(after.arm, before.arm)
    assert not after.arm[2, 1:].any() and not after.gripper_logit[2, 1:].any()


def test_a_position_sees_the_past_but_not_the_future(policy, batch) -> None:
    before = predict(policy, batch)
    batch["images"]["wrist"][0, 1] = 0
    after = predict(policy, batch)
    torch.testing.assert_close(after.arm[0, 0], before.arm[0, 0])
    assert not torch.allclose(after.arm[0, 1], before.arm[0, 1])
    assert not torch.allclose(after.arm[0, 2], before.arm[0, 2])


@pytest.mark.parametrize("camera", ["static", "wrist"])
def test_each_camera_matters(policy, batch, camera: str) -> None:
    before = predict(policy, batch)
    batch["images"][camera].zero_()
    assert not torch.allclose(predict(policy, batch).arm, before.arm)


def test_a_dropped_camera_has_no_influence(policy, batch) -> None:
    keep = torch.tensor([[0.0, 1.0]] * 3)
    pixels = {c.name: images.to_network(batch["images"][c.name], c) for c in policy.contract.cameras}
    text = policy.encode_text(batch["tokens"], batch["token_mask"])
    policy.eval()
    before = policy(pixels, batch["proprioception"], text, batch["valid"], keep)
    pixels["static"] = pixels["static"] + 1
    torch.testing.assert_close(policy(pixels, batch["proprioception"], text, batch["valid"], keep).arm, before.arm)


def test_the_command_changes_the_actions(policy, batch) -> None:
    tokens, mask = policy.tokenize(["open the drawer"] * 3)
    assert not torch.allclose(
        predict(policy, batch, tokens=tokens, token_mask=mask).arm[0], predict(policy, batch).arm[0]
    )


def test_word_order_matters(policy) -> None:
    features = policy.encode_text(*policy.tokenize(["the red block up pick", "pick up the red block"]))
    assert not torch.allclose(features[0], features[1])


def test_padding_of_the_command_changes_nothing(policy) -> None:
    tokens, mask = policy.tokenize(["pick up the red block"])
    padded = torch.full((1, 14), 5)
    padded[:, : tokens.shape[1]] = tokens
    padded_mask = torch.zeros((1, 14), dtype=torch.bool)
    padded_mask[:, : tokens.shape[1]] = mask
    torch.testing.assert_close(policy.encode_text(padded, padded_mask), policy.encode_text(tokens, mask))


def test_an_empty_command_is_finite(policy) -> None:
    assert torch.isfinite(policy.encode_text(*policy.tokenize([""]))).all()


def test_proprioception_is_standardised_with_the_contract(policy, batch) -> None:
    seen = {}
    policy.backbone.encode = lambda images, proprioception, *rest: seen.update(p=proprioception) or torch.zeros(7, 32)
    policy.encode({}, torch.tensor([[0.5, 0.5]]), torch.zeros(1, 16))
    torch.testing.assert_close(seen["p"], torch.tensor([[1.0, 0.0]]))


def test_keypoints_find_a_bright_spot() -> None:
    encoder = CameraEncoder((64, 64), CompactConfig())
    spot = torch.zeros((1, 8, 16, 16))
    spot[0, :, 4, 12] = 50.0  # row 4, column 12 of 16
    encoder.heatmaps = torch.nn.Identity()
    encoder.log_sharpness.data = torch.zeros(8)
    x, y = encoder._keypoints(spot)[0, :2].tolist()
    assert (x, y) == pytest.approx((12 / 15 * 2 - 1, 4 / 15 * 2 - 1), abs=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (60, 64), (97, 131), (7, 5)])
def test_images_may_have_any_size(size: tuple[int, int]) -> None:
    encoder = CameraEncoder(size, CompactConfig())
    features = encoder(torch.rand(2, 3, *size), torch.zeros(2, CompactConfig().text_size))
    assert features.shape == (2, encoder.output_size)


@pytest.mark.parametrize("part", ["backbone", "head"])
def test_a_contract_of_another_network_is_refused(policy, part: str) -> None:
    provenance = dataclasses.replace(policy.contract.provenance, **{part: "other"})
    contract = dataclasses.replace(policy.contract, provenance=provenance)
    with pytest.raises(ContractError, match=f"the {part} 'other'"):
        Policy(contract, policy.config, policy.tokenizer)


def test_a_contract_of_another_tokenizer_is_refused(policy) -> None:
    language = dataclasses.replace(policy.contract.language, tokenizer="bpe-sha256:0")
    with pytest.raises(ContractError, match="tokenizer"):
        Policy(dataclasses.replace(policy.contract, language=language), policy.config, policy.tokenizer)
