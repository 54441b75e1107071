# SPDX-License-Identifier: Apache-2.0
"""Imported RoboVLMs checkpoints reproduce RoboVLMs' outputs.

``robovlms.json`` holds numbers that its own code gave (commit 8adc1d2, its patched KosMos-2 in transformers 4.37.2,
torch 2.13 on a CPU): names and shapes of its tensors, the tokens of a prompt, and the actions (steps, N, 7), arm and
gripper logit, of two windows of three frames and of a stream of eight, one frame at a time. The network was tiny: the
``DESCRIBED`` model, window_size 3, fwd_pred_next_n 2, act_head.hidden_size 24, all else as in its config
finetune_kosmos_cont-lstm-post_full-ft_text_vision_wd-0_use-hand_ws-16_act-10.json. Weights and pictures are those of
``tensor`` and ``PICTURES``, and its tokenizer was one that gives the tokens below.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from vla_ros import cli
from vla_ros.imaging import images
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.policy import Policy

UPSTREAM = json.loads((Path(__file__).parent / "robovlms.json").read_text())
WINDOW, CHUNK, PX = 3, 2, 32
PICTURES = np.random.RandomState(7).randint(0, 256, (8, 2, PX, PX, 3)).astype(np.uint8)  # static, wrist
COMMAND = "open the drawer"
DESCRIBED = {
    "model_type": "kosmos-2",
    "text_config": {
        "embed_dim": 32, "layers": 2, "ffn_dim": 64, "attention_heads": 4, "vocab_size": 64,
        "max_position_embeddings": 128, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
        "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0,
    },
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": PX, "patch_size": 16,
    },
    "latent_query_num": 4,
}  # fmt: skip
CONFIG = {
    "model": "kosmos", "window_size": WINDOW, "fwd_pred_next_n": CHUNK, "use_hand_rgb": True, "image_size": PX,
    "act_head": {
        "type": "LSTMDecoder", "hidden_size": 24, "action_dim": 7, "down_sample": "none", "latent": 1,
        "fwd_pred_next_n": 1, "window_size": 1, "action_space": "continuous", "with_history": True,
        "history_type": "post",
    },
    "fwd_head": None, "use_vision_resampler": False, "tokenizer": {"type": "AutoProcessor", "max_text_len": 256},
    "norm_action": True, "norm_min": -0.65, "norm_max": 0.65,
}  # fmt: skip


def tensor(name: str, shape: list[int]) -> torch.Tensor:
    """Weights that follow from the name; the language head is the embedding."""
    name = name.replace("text_model.lm_head.weight", "text_model.model.embed_tokens.weight")
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return torch.from_numpy(draw * 1.5 / np.sqrt(np.prod(shape[1:]))).float()
    return torch.from_numpy(0.1 * draw + name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))).float()


@pytest.fixture
def vlm(tmp_path: Path) -> Path:
    """KosMos-2's configuration and a tokenizer, as the hub has them, without weights."""
    from transformers import PreTrainedTokenizerFast

    words = ["<grounding>An", "image", "of", "a", "robot", *COMMAND.split()]
    known = dict(zip(["<s>", "<pad>", "</s>", "<unk>"], range(4), strict=True))
    known |= dict(zip(words, UPSTREAM["ids"][1:-1], strict=True))
    free = iter(sorted(set(range(64)) - set(known.values())))
    known |= {f"word{index}": next(free) for index in range(64 - len(known))}
    backend = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    folder = tmp_path / "kosmos"
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(DESCRIBED))
    return folder


@pytest.fixture
def arguments(vlm: Path, tmp_path: Path) -> list[str]:
    state = {name: tensor(name, shape) for name, shape in UPSTREAM["names"].items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "cont.pt")
    (tmp_path / "project.json").write_text(json.dumps(CONFIG))
    numbers = ["--control-hz", "32", "--linear-mps", "0.6", "--angular-radps", "1.5"]
    where = ["--vlm", str(vlm), "--output", str(tmp_path / "made")]
    return ["import-robovlms", str(tmp_path / "cont.pt"), str(tmp_path / "project.json"), *where, *numbers]


def frames(policy: Policy) -> dict[str, torch.Tensor]:
    return {
        camera.name: images.to_network(torch.from_numpy(PICTURES[:, index]), camera)
        for camera, index in zip(policy.contract.cameras, (1, 0), strict=True)
    }


@torch.no_grad()
def test_an_imported_policy_reproduces_upstream(arguments: list[str], tmp_path: Path) -> None:
    assert cli.main(arguments) == 0
    policy = load_checkpoint(tmp_path / "made")
    assert policy.contract.camera_names == ("wrist", "static")
    assert policy.contract.action.low == pytest.approx((-0.65 * 0.6,) * 3 + (-0.65 * 1.5,) * 3)
    pictures, nothing = frames(policy), torch.zeros(8, 0)
    tokens, mask = policy.tokenize([COMMAND])
    assert tokens[0].tolist() == UPSTREAM["ids"][:-1]  # the end is never seen by the readout
    text = policy.encode_text(tokens, mask)

    for first, name in ((0, "window"), (3, "window_from_3")):
        part = slice(first, first + WINDOW)
        valid = torch.ones(1, WINDOW, dtype=torch.bool)
        arm, gripper = policy({n: x[None, part] for n, x in pictures.items()}, nothing[None, part], text, valid)
        ours = torch.cat([arm, gripper[..., None]], dim=-1)[0]
        torch.testing.assert_close(ours, torch.tensor(UPSTREAM[name]), atol=1e-4, rtol=0)

    state, stream = None, []
    for t in range(8):
        now = slice(t, t + 1)
        (arm, gripper), state = policy.step({n: x[now] for n, x in pictures.items()}, nothing[now], text, state)
        stream.append(torch.cat([arm, gripper[..., None]], dim=-1)[0])
    expected = torch.tensor(UPSTREAM["stream"])
    torch.testing.assert_close(torch.stack(stream), expected, atol=1e-4, rtol=0)
    assert expected.std(dim=0).min() > 1e-3  # else being equal would mean little


def test_vla_params_counts_an_imported_policy(arguments: list[str], tmp_path: Path) -> None:
    assert cli.main(arguments) == 0
    file = tmp_path / "params.json"
    assert cli.main(["params", str(tmp_path / "made"), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["parts"]["head.rnn"] == 4 * 24 * (32 + 24 + 2) + 3 * 4 * 24 * (24 + 24 + 2)
    assert figures["step_mflops"] > 2 * figures["parts"]["head.rnn"] / 1e6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", 48, r"image_size is 48 in the config, but --vlm .* takes images of 32x32"),
        ("fwd_pred_next_n", 10**5, r"fwd_pred_next_n is 100000 in the config, but 2 in the weights"),
        ("act_head", {**CONFIG["act_head"], "hidden_size": 10**5}, r"hidden_size is 100000 in the config, but 24"),
        ("act_head", {**CONFIG["act_head"], "num_layers": 10**5}, r"num_layers is 100000, but the weights have 4"),
        ("window_size", "4", r"window_size is '4'; it must be a whole number"),
        ("model", "paligemma", r"model is 'paligemma'; only 'kosmos'"),
        ("use_state", True, r"use_state is True; only False"),
        ("act_head", {**CONFIG["act_head"], "history_type": "pre"}, r"act_head\.history_type is 'pre'; only 'post'"),
        ("act_head", {**CONFIG["act_head"], "type": "GPTDecoder"}, r"act_head\.type is 'GPTDecoder'"),
        ("fwd_head", {"type": "x"}, r"fwd_head is .*only None"),
        ("window_size", None, r"lacks the key 'window_size'"),
        ("norm_action", None, r"lacks the key 'norm_action'"),
        ("norm_max", None, r"lacks the key 'norm_max'"),
    ],
)
def test_unsupported_configs_are_named(arguments, capsys, tmp_path: Path, key: str, value, message: str) -> None:
    changed = {**CONFIG, key: value}
    if value is None:
        del changed[key]
    (tmp_path / "project.json").write_text(json.dumps(changed))
    assert cli.main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "made").exists()


def test_invalid_configs_models_and_tokenizers_are_named(arguments, capsys, vlm, tmp_path: Path) -> None:
    described = (vlm / "config.json").read_text()
    (vlm / "config.json").write_text('{"model_type": "bert"}')
    assert cli.main(arguments) == 2
    assert "a 'bert' model; it must be 'kosmos-2'" in capsys.readouterr().err
    (vlm / "config.json").write_text(described)
    settings = json.loads((vlm / "tokenizer_config.json").read_text())
    settings["eos_token"] = None
    (vlm / "tokenizer_config.json").write_text(json.dumps(settings))
    assert cli.main(arguments) == 2
    assert "does not add KosMos-2's start and end tokens" in capsys.readouterr().err
    (tmp_path / "project.json").write_text("[]")
    assert cli.main(arguments) == 2
    assert "not a JSON config of RoboVLMs (expected an object, got list)" in capsys.readouterr().err


def test_other_weights_and_pickled_objects_are_refused(arguments, capsys, tmp_path: Path) -> None:
    state = {name: tensor(name, shape) for name, shape in UPSTREAM["names"].items()}
    del state["model.act_head.rnn.weight_hh_l3"]
    torch.save({"state_dict": state}, tmp_path / "cont.pt")
    assert cli.main(arguments) == 2
    assert "lacks tensor head.rnn.weight_hh_l3" in capsys.readouterr().err
    torch.save({"state_dict": {}, "hyper_parameters": Path("x")}, tmp_path / "cont.pt")
    assert cli.main(arguments) == 2
    assert "contains pickled objects, which could run code" in capsys.readouterr().err
    for other in ({"weights": {}}, torch.zeros(2), [1], {"state_dict": [1]}):
        torch.save(other, tmp_path / "cont.pt")
        assert cli.main(arguments) == 2
        assert "neither state_dict nor model_state_dict" in capsys.readouterr().err
    for other in ({"act_head.rnn.weight_hh_l0": 1.0}, {3: torch.zeros(2)}):
        torch.save({"state_dict": other}, tmp_path / "cont.pt")
        assert cli.main(arguments) == 2
        assert "use a checkpoint of RoboVLMs" in capsys.readouterr().err


VLM_VALUES = (None, True, 0, -1, 5, 10**30, 2.5, "x", "../x", [], {}, [1, 2])


@pytest.mark.parametrize("section", [None, "text_config", "vision_config"])
def test_a_malformed_vlm_is_refused(section: str | None, arguments, vlm, tmp_path: Path) -> None:
    weights = torch.load(tmp_path / "cont.pt", weights_only=True)
    torch.save({"state_dict": {"other": next(iter(weights["state_dict"].values()))}}, tmp_path / "cont.pt")
    for key in [*(DESCRIBED[section] if section else DESCRIBED), "dtype", "_attn_implementation", "auto_map"]:
        for value in VLM_VALUES:
            changed = json.loads(json.dumps(DESCRIBED))
            (changed[section] if section else changed)[key] = value
            (vlm / "config.json").write_text(json.dumps(changed))
            assert cli.main(arguments) == 2, (key, value)  # at the latest because of the weights
