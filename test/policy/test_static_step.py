# SPDX-License-Identifier: Apache-2.0
"""A step does the same work at every tick, on the device alone, as torch.compile and CUDA graphs require.

Shown without a GPU: on the device "meta" tensors have shapes and no values, so whoever looks at one fails, as a
recording would; and whatever goes between the host and the device is seen by a dispatch mode.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from tiny_models import IMAGE_PX, TINY_MODELS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vla_ros.observations.observation import Observation
from vla_ros.policy.backbones.families import FAMILIES
from vla_ros.policy.backbones.vlm import VlmBackbone
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.heads import HEADS
from vla_ros.policy.heads.head import History, at_end, slide
from vla_ros.policy.inference import PolicyRunner
from vla_ros.policy.tokenizer import CommandTokenizer

TOKENIZER = CommandTokenizer.train([], 300)
# Their vision towers read sizes back from the device; they run eagerly.
NOT_CAPTURABLE = {"qwen2_5_vl", "qwen3_vl"}
CELLS = [(family, mode) for family, kind in sorted(FAMILIES.items())
         for mode in ("policy_head", "interleaved", "video") if kind.sequences or mode == "policy_head"]  # fmt: skip


class DeviceAlone(TorchDispatchMode):
    """Fails on an operation between two devices, but for single numbers, which travel with the launch."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor) and t.ndim]
        if len({t.device for t in tensors}) > 1:
            raise RuntimeError(f"{operation} goes between the host and the device")
        return result


@pytest.fixture
def captured(monkeypatch) -> DeviceAlone:
    """What a recording forbids; libraries believe that one is under way."""
    make = torch.tensor

    def tensor(*args, **kwargs):
        if str(kwargs.get("device")) == "meta":
            raise RuntimeError("torch.tensor goes between the host and the device")
        return make(*args, **kwargs)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which "meta" has not
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    return DeviceAlone()


def meta(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_steps_of_every_head_branch_on_no_value_and_copy_nothing_from_the_host(
    head: str, with_head, contract, captured
) -> None:
    made = with_head(head).to("meta")
    pictures = {name: meta(1, 3, 16, 16) for name in contract.camera_names}
    history = History(meta(1, made.head.history, 32), meta(1, dtype=torch.long))
    with torch.inference_mode(), captured:
        prediction, after = made.step(pictures, meta(1, 2), meta(1, 16), history)
    assert prediction.arm.shape == (1, 4, 6)
    assert after.frames.shape == history.frames.shape and after.seen.shape == (1,)


@pytest.mark.parametrize(("family", "mode"), CELLS)
def test_capturable_families_branch_on_no_value(family: str, mode: str, captured) -> None:
    cameras = dict.fromkeys(("static", "wrist"), (IMAGE_PX, IMAGE_PX))
    config = VlmConfig(model=TINY_MODELS[family], history_mode=mode)
    backbone = VlmBackbone(camera_sizes=cameras, proprioception_size=2, tokenizer=TOKENIZER, config=config)
    backbone = backbone.eval().to("meta")
    pictures = {name: meta(1, 3, IMAGE_PX, IMAGE_PX) for name in cameras}
    text = backbone.encode_text(meta(1, 4, dtype=torch.long), meta(1, 4, dtype=torch.bool))

    def read():
        with torch.inference_mode(), captured:
            frame = backbone.encode(pictures, meta(1, 2), text)
            history = slide(History(meta(1, 3, *frame.shape[1:]), meta(1, dtype=torch.long)), frame, 3)
            readout = backbone.read(history.frames, history.valid, text)
            return at_end(readout.features, readout.valid)

    if family in NOT_CAPTURABLE:
        with pytest.raises(RuntimeError, match=r"torch\.tensor goes between|item\(\)"):
            read()
    else:
        assert read().shape == (1, backbone.feature_size)


def test_a_history_keeps_its_shape_and_holds_the_last_frames_of_each_stream() -> None:
    history, seen = None, []
    for index in range(1, 8):
        newest = torch.tensor([[float(index)], [10.0 * index]])
        seen.append(newest)
        history = slide(history, newest, 3)
        expected = torch.stack(seen[-3:], dim=1)
        there = expected.shape[1]
        assert history.frames.shape == (2, 3, 1) and history.seen.tolist() == [there, there]
        assert torch.equal(history.frames[:, :there], expected) and not history.frames[:, there:].any()
        assert torch.equal(at_end(history.frames, history.valid), newest)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_clearing_the_history_forgets_an_image_that_produced_nan(head: str, with_head) -> None:
    """Attention gives what is not there the weight 0, and 0 times NaN is NaN."""
    runner = PolicyRunner(with_head(head))
    runner.reset("open the drawer")
    good = _observation(np.array([0.4, 0.5]))
    before = runner.step(good)
    for _ in range(3):
        broken = runner.step(_observation(np.array([np.nan, 0.5])))
    assert not np.isfinite(broken).all()
    runner.clear_history()
    np.testing.assert_array_equal(runner.step(good), before)


def test_the_shapes_of_a_step_stay_whatever_is_seen(with_head) -> None:
    policy = with_head("lstm")
    runner, shapes, step = PolicyRunner(policy), set(), policy.step

    def watched(images, proprioception, text, state):
        given = (proprioception, state.frames, state.seen)
        made = (text, *images.values())
        shapes.add((tuple((t.shape, t.data_ptr()) for t in given), tuple(t.shape for t in made)))
        return step(images, proprioception, text, state)

    runner.warm_up()
    policy.step = watched
    runner.reset("pick up the red block")
    for index in range(7):
        runner.step(_observation(np.array([0.4, 0.5])))
        if index == 4:
            runner.clear_history()
    assert len(shapes) == 1


def _observation(proprioception: np.ndarray) -> Observation:
    pictures = {name: np.full((16, 16, 3), 90, np.uint8) for name in ("static", "wrist")}
    return Observation(0, pictures, {}, proprioception.astype(np.float32), "open the drawer")
