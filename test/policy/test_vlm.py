# SPDX-License-Identifier: Apache-2.0
"""A vision-language model as backbone: what a feature may depend on, in every family and history mode."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import IMAGE_PX, TINY_MODELS

from vla_ros.contract import Camera
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.backbones.families import FAMILIES
from vla_ros.policy.backbones.vlm import VlmBackbone
from vla_ros.policy.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from vla_ros.policy.config import LossConfig, LstmConfig, MlpConfig, PolicyConfig, VlmConfig
from vla_ros.policy.heads.head import Readout
from vla_ros.policy.module import VLAModule
from vla_ros.policy.policy import Policy
from vla_ros.policy.tokenizer import CommandTokenizer
from vla_ros.policy.tuning import OptimizerConfig

CAMERAS = dict.fromkeys(("static", "wrist"), (IMAGE_PX, IMAGE_PX))
WINDOW = 3
TOKENIZER = CommandTokenizer.train([], 300)
CELLS = [(family, mode) for family, kind in sorted(FAMILIES.items())
         for mode in ("policy_head", "interleaved", "video") if kind.sequences or mode == "policy_head"]  # fmt: skip


def make(family: str, mode: str = "policy_head", cameras=CAMERAS) -> VlmBackbone:
    torch.manual_seed(0)
    config = VlmConfig(model=TINY_MODELS[family], history_mode=mode)
    backbone = VlmBackbone(camera_sizes=cameras, proprioception_size=2, tokenizer=TOKENIZER, config=config).eval()
    for parameter in backbone.parameters():
        if not parameter.any():  # Gemma 3's projection of images starts at zero: nothing would be seen
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def frames(count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return {name: torch.randn(count, 3, IMAGE_PX, IMAGE_PX) for name in CAMERAS}, torch.randn(count, 2)


def text(backbone: VlmBackbone, length: int = 4, padding: int = 0, count: int = 1):
    tokens = torch.tensor([[*range(3, 3 + length), *[17] * padding]]).expand(count, -1)
    return backbone.encode_text(tokens, (torch.arange(length + padding) < length).expand(count, -1))


def readout(backbone: VlmBackbone, images, state, valid, padding: int = 0):
    """The features of windows (B, W) whose frames are given flat."""
    batch, window = valid.shape
    rows = torch.arange(batch).repeat_interleave(window)
    encoded = backbone.encode(images, state, text(backbone, padding=padding, count=batch)[rows])
    return backbone.read(encoded.unflatten(0, (batch, window)), valid, text(backbone, padding=padding, count=batch))


@pytest.mark.parametrize(("family", "mode"), CELLS)
@torch.no_grad()
def test_neither_padded_text_nor_padded_frames_change_a_feature(family: str, mode: str) -> None:
    backbone = make(family, mode)
    images, state = frames(WINDOW)
    valid = torch.tensor([[True, True, False]])
    before = readout(backbone, images, state, valid)
    for name in images:
        images[name][2] = 9.0
    after = readout(backbone, images, state, valid, padding=5)
    assert torch.equal(before.valid, after.valid)
    torch.testing.assert_close(after.features[after.valid], before.features[before.valid], atol=2e-5, rtol=1e-4)
    alone = readout(backbone, {n: x[:2] for n, x in images.items()}, state[:2], valid[:, :2])
    torch.testing.assert_close(alone.features[alone.valid], before.features[before.valid], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "mode"), CELLS)
@torch.no_grad()
def test_a_feature_sees_all_inputs_and_no_future(family: str, mode: str) -> None:
    backbone = make(family, mode)
    images, state = frames(WINDOW)
    valid = torch.ones(1, WINDOW, dtype=torch.bool)
    before = readout(backbone, images, state, valid).features
    assert not torch.allclose(readout(backbone, images, state, valid).features, before + 1e-3)  # NaN would pass below

    def changed(part: torch.Tensor, index: int) -> torch.Tensor:
        original = part[index].clone()
        part[index] += 2 * torch.randn_like(part[index])
        after = readout(backbone, images, state, valid).features
        part[index] = original
        return (after - before).abs().amax(dim=-1)[0]  # (K,)

    for part in (*images.values(), state):
        middle = changed(part, 1)
        if mode == "video":
            assert middle[0] > 1e-5
            continue
        assert middle[0] < 1e-6 and middle[1] > 1e-5  # the past is not changed by what follows it
        assert (middle[2] > 1e-6) == (mode == "interleaved")
    other = text(backbone, length=6)
    encoded = backbone.encode(images, state, other[torch.zeros(WINDOW, dtype=torch.long)])
    assert not torch.allclose(backbone.read(encoded[None], valid, other).features, before, atol=1e-4)


@torch.no_grad()
def test_padding_and_dropped_tokens_embed_to_zero_also_where_the_table_has_rows_for_them() -> None:
    backbone = make("paligemma")
    known = TOKENIZER.vocabulary_size - 1
    tokens = torch.tensor([[TOKENIZER.padding_id, known, TOKENIZER.dropped_id]])
    embedded = backbone.encode_text(tokens, torch.ones_like(tokens, dtype=torch.bool)).embeddings[0]
    assert not embedded[0].any() and not embedded[2].any()
    assert torch.equal(embedded[1], backbone.family.embedding(torch.tensor(known)))


def test_only_the_two_added_tokens_may_be_unknown_to_the_model() -> None:
    from tokenizers import Tokenizer, models

    def build(size: int) -> VlmBackbone:
        pieces = Tokenizer(models.WordLevel({f"word{index}": index for index in range(size)}, unk_token="word0"))
        return VlmBackbone(
            camera_sizes=CAMERAS, proprioception_size=0, tokenizer=CommandTokenizer.adapt(pieces),
            config=VlmConfig(model=TINY_MODELS["llava"]),
        )  # fmt: skip

    added = torch.tensor([[512, 513]])
    assert not build(512).encode_text(added, torch.ones_like(added, dtype=torch.bool)).embeddings.any()
    with pytest.raises(ValueError, match="tokenizer has 515 tokens, but the vision-language model embeds only 512"):
        build(513)


@pytest.mark.parametrize("family", ["llava", "florence2"])
@torch.no_grad()
def test_a_dropped_camera_has_no_influence_and_cameras_may_differ_in_size(family: str) -> None:
    backbone = make(family)
    images, state = frames(2)
    keep = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    before = backbone.encode(images, state, text(backbone, count=2), keep)
    images["static"] += 1
    after = backbone.encode(images, state, text(backbone, count=2), keep)
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


@torch.no_grad()
def test_cameras_may_differ_in_size_where_the_model_allows_it() -> None:
    backbone = make("qwen2_5_vl", "interleaved", {"static": (48, 64), "wrist": (32, 32)})
    assert backbone._tokens == {"static": 12, "wrist": 4}
    images = {"static": torch.randn(2, 3, 48, 64), "wrist": torch.randn(2, 3, 32, 32)}
    assert readout(backbone, images, torch.randn(2, 2), torch.ones(1, 2, dtype=torch.bool)).features.shape == (1, 2, 32)


@torch.no_grad()
def test_a_dark_camera_is_seen_by_models_that_drop_black_images() -> None:
    backbone = make("smolvlm")
    images, state = frames(1)
    images["static"].zero_()
    assert torch.isfinite(backbone.encode(images, state, text(backbone))).all()


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        (VlmConfig(model={"model_type": "bert"}), CAMERAS, r"model_type 'bert'; it must be one of florence2, gemma3"),
        (VlmConfig(), CAMERAS, r"model_type None.*vlm\.pretrained"),
        (
            VlmConfig(model=TINY_MODELS["florence2"], history_mode="video"),
            CAMERAS,
            r"'video', but for florence2, .* it must be 'policy_head'",
        ),
        (VlmConfig(model=TINY_MODELS["llava"]), {"static": (48, 32)}, r"static is 48x32.*contract\.cameras"),
        (VlmConfig(model=TINY_MODELS["qwen3_vl"]), {"static": (40, 32)}, r"static is 40x32.*multiples of 16"),
    ],
)
def test_models_that_cannot_be_built_are_named(config: VlmConfig, sizes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VlmBackbone(camera_sizes=sizes, proprioception_size=0, tokenizer=TOKENIZER, config=config)


@pytest.fixture
def make_policy(contract, tokenizer):
    def build(family: str, mode: str, head: str = "lstm") -> Policy:
        torch.manual_seed(0)
        provenance = dataclasses.replace(contract.provenance, backbone="vlm", head=head)
        cameras = tuple(Camera(name, *size) for name, size in CAMERAS.items())
        config = PolicyConfig(
            backbone="vlm", head=head, vlm=VlmConfig(model=TINY_MODELS[family], history_mode=mode),
            lstm=LstmConfig(hidden_size=16, mlp_size=16), mlp=MlpConfig(mlp_size=16, layers=1),
        )  # fmt: skip
        return Policy(dataclasses.replace(contract, provenance=provenance, cameras=cameras), config, tokenizer).eval()

    return build


@pytest.mark.parametrize(
    ("family", "mode", "head"),
    [
        ("llava", "policy_head", "lstm"),
        ("qwen3_vl", "interleaved", "lstm"),
        ("gemma3", "interleaved", "mlp"),
        ("paligemma", "video", "mlp"),
        ("kosmos-2", "video", "lstm"),
    ],
)
@torch.no_grad()
def test_streaming_is_the_window_at_and_beyond_its_length(make_policy, family: str, mode: str, head: str) -> None:
    policy = make_policy(family, mode, head)
    history = policy.contract.timing.history
    images, _ = frames(2 * history + 1)
    state = torch.rand(2 * history + 1, 2)
    command = policy.encode_text(*policy.tokenize(["open the drawer"]))
    kept = None
    for t in range(len(state)):
        now = slice(t, t + 1)
        streamed, kept = policy.step({n: x[now] for n, x in images.items()}, state[now], command, kept)
        first = max(0, t + 1 - history)
        rows = [*range(first, t + 1), *[t] * (history - (t + 1 - first))]
        valid = torch.arange(history)[None] <= t - first
        window = policy({n: x[rows][None] for n, x in images.items()}, state[rows][None], command, valid)
        at = 0 if mode == "video" else t - first
        torch.testing.assert_close(streamed.arm, window.arm[:, at], atol=2e-5, rtol=1e-4)


def test_a_video_feature_is_compared_with_the_chunk_of_its_newest_frame(make_policy, batch) -> None:
    """Windows of three, three and one frames: one target each, where the window ends, and the mask of that."""
    policy = make_policy("llava", "video", "mlp")
    module = VLAModule(policy, max_steps=1, optimizer=OptimizerConfig(), loss=LossConfig(), augment=AugmentConfig())
    module.log = module.log_dict = lambda *_, **__: None
    given = {}

    def losses(features, actions, mask, *_):
        given.update(actions=actions, mask=mask)
        return {"loss": features.sum()}

    policy.head.losses = losses
    shape = (3, WINDOW, IMAGE_PX, IMAGE_PX, 3)
    images = {name: torch.randint(0, 256, shape, dtype=torch.uint8) for name in CAMERAS}
    module.model_step({**batch, "images": images}, "val")
    newest = [WINDOW - 1, WINDOW - 1, 0]
    assert given["actions"].shape == (3, 1, *batch["actions"].shape[2:])
    for window, frame in enumerate(newest):
        assert torch.equal(given["actions"][window, 0], batch["actions"][window, frame])
        assert torch.equal(given["mask"][window, 0], batch["action_valid"][window, frame])


def test_a_readout_picks_the_rows_of_its_frames() -> None:
    values = torch.arange(12).reshape(2, 3, 2)
    valid = torch.ones(2, 1, dtype=torch.bool)
    picked = Readout(torch.zeros(2, 1, 4), valid, torch.tensor([[2], [0]])).pick(values)
    assert picked.tolist() == [[[4, 5]], [[6, 7]]]
    assert Readout(torch.zeros(2, 3, 4), valid).pick(values) is values


def test_a_checkpoint_loads_without_network_or_base_model_and_is_the_same(make_policy, tmp_path) -> None:
    policy = make_policy("smolvlm", "interleaved")
    save_checkpoint(tmp_path / "made", policy)
    loaded = load_checkpoint(tmp_path / "made")
    assert loaded.config.to_dict() == policy.config.to_dict()
    images, state = frames(1)
    command = policy.encode_text(*policy.tokenize(["open the drawer"]))
    with torch.no_grad():
        one, other = (p.step(images, state, command, None)[0] for p in (policy, loaded))
    assert torch.equal(one.arm, other.arm) and torch.equal(one.gripper_logit, other.gripper_logit)


def test_a_checkpoint_cannot_name_code(make_policy, tmp_path) -> None:
    import json

    save_checkpoint(tmp_path / "made", make_policy("llava", "policy_head"))
    path = tmp_path / "made" / "config.json"
    values = json.loads(path.read_text())
    values["vlm"]["model"] |= {"model_type": "remote", "auto_map": {"AutoModel": "code.Model"}}
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="model_type 'remote'"):
        load_checkpoint(tmp_path / "made")
