# SPDX-License-Identifier: Apache-2.0
"""Configs of RoboVLMs are read as its own code reads them; what cannot be imported is refused by name."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from vla_ros.policy.robovlms_config import RobovlmsError, read_config

DOCS = Path(__file__).resolve().parents[2] / "docs" / "policies.md"
HEAD = {
    "type": "LSTMDecoder", "hidden_size": 1024, "action_dim": 7, "down_sample": "none", "latent": 1,
    "fwd_pred_next_n": 1, "window_size": 1, "action_space": "continuous", "with_history": True, "history_type": "post",
}  # fmt: skip
COMPLETE: dict[str, Any] = {
    "parent": None, "model": "kosmos", "window_size": 8, "fwd_pred_next_n": 10, "use_hand_rgb": False,
    "image_size": 224, "use_vision_resampler": False, "act_encoder": None, "act_head": HEAD, "fwd_head": None,
    "tokenizer": {"type": "AutoProcessor", "max_text_len": 256}, "train_dataset": {"type": "DiskCalvinDataset"},
    "norm_action": True, "norm_min": -0.65, "norm_max": 0.65, "tcp_rel": False,
}  # fmt: skip
# What the configs of RoboVLMs (commit 8adc1d2) have of the keys that are read, where they differ from COMPLETE.
KOSMOS = "finetune_kosmos_cont-lstm-post_full-ft_text_vision_wd-0"
POOLING = {**HEAD, "down_sample": "pooling", "action_space": "down_sample"}
OPEN_X = {"window_size": 16, "use_hand_rgb": True, "train_dataset": {"type": "OpenVLADataset"}}
UPSTREAM: dict[str, dict[str, Any]] = {
    f"{KOSMOS}_use-hand_ws-16_act-10": {"window_size": 16, "use_hand_rgb": True},
    f"{KOSMOS}_ws-8_act-10": {},
    f"{KOSMOS}_use-hand_ws-16_act-10_oxe_pretrain": OPEN_X,
    f"{KOSMOS}_use-hand_ws-16_act-10_bridge_finetune": OPEN_X,
    f"{KOSMOS}_use-hand_ws-16_act-10_rt_finetune": OPEN_X,
    "finetune_flamingo_mpt_3b_ws-8_act-10_lstm_calvin": {"model": "flamingo", "act_head": POOLING},
    "finetune_llava-mpt-7b_cont-lstm-post_ful_ft_wd=0_hist-8_act-10": {"model": "llava"},
    "finetune_moondream_cont-all-lstm-post_full-ft_text_vision_wd=0_ws-8_act-10": {
        "model": "moondream", "use_vision_resampler": True,
    },
    "finetune_paligemma_cont-lstm-post_full-ft_text_vision_wd=0_ws-8_act-10": {"model": "paligemma"},
    "finetune_qwen-vl-7b_cont-lstm-post_full_ft_text_vision_wd=0_ws-8_act-10": {"model": "qwen", "image_size": 448},
    "finetune_uform_cont-lstm-post_full-ft_text_vision_wd=0_ws-8_act-10": {"model": "uform", "act_head": POOLING},
}  # fmt: skip


def write(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def outcome(path: Path) -> str:
    """What the table in the docs says of a config."""
    try:
        read = read_config(path)
    except RobovlmsError as error:
        return "refused: " + str(error).partition(": ")[2].partition(";")[0].replace("'", "`")
    cameras = "wrist and static" if read.hand_camera else "static"
    return f"imported: {read.window_size} frames, chunks of {read.chunk}, {cameras}"


def test_the_docs_say_what_is_taken_of_upstreams_configs(tmp_path: Path) -> None:
    documented = dict(re.findall(r"^\| `(finetune_[^`]+)` \| (.+) \|$", DOCS.read_text(), re.MULTILINE))
    made = {
        name: outcome(write(tmp_path / f"{index}.json", COMPLETE | values))
        for index, (name, values) in enumerate(UPSTREAM.items())
    }
    assert len(made) == 11 and made == documented


def test_the_kosmos_configs_give_the_network(tmp_path: Path) -> None:
    read = read_config(write(tmp_path / "a.json", COMPLETE))
    assert (read.image_size, read.hidden_size, read.layers, read.max_tokens) == (224, 1024, 4, 256)
    assert read.norm == (-0.65, 0.65) and not read.in_tool_frame


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 4, 2.5, 1e300, 10**30, "", "4", "true", "../x", [], [1], {}, {"a": 1}, [{}],
)  # fmt: skip
KEYS = [*COMPLETE, *(f"act_head.{key}" for key in (*HEAD, "num_layers", "fill_zero")), "tokenizer.max_text_len"]
KEYS += ["train_dataset.type", "use_state", "use_mu_law", "regular_action"]


@pytest.mark.parametrize("key", KEYS)
def test_any_value_of_any_key_is_read_or_refused_by_name(key: str, tmp_path: Path) -> None:
    for value in VALUES:
        config = copy.deepcopy(COMPLETE)
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
        try:
            read = read_config(write(tmp_path / "a.json", config))
        except RobovlmsError as error:
            assert (section or name) in str(error)
        else:
            for number in (read.window_size, read.chunk, read.image_size, read.hidden_size, read.layers):
                assert type(number) is int and number >= 1
            assert type(read.hand_camera) is bool and read.norm[0] < read.norm[1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("window_size", "4", r"window_size is '4'; it must be a whole number"),
        ("window_size", True, r"window_size is True; it must be a whole number"),
        ("use_hand_rgb", "false", r"use_hand_rgb is 'false'; it must be true or false"),
        ("norm_max", -1, r"norm_min must be the smaller"),
        ("norm_max", float("nan"), r"it contains NaN"),
        ("act_head", "LSTM", r"act_head is 'LSTM'; it must be an object"),
        ("tokenizer", [], r"tokenizer is \[\]; it must be an object"),
    ],
)
def test_values_of_wrong_types_are_refused_with_the_allowed_ones(key, value, message, tmp_path: Path) -> None:
    with pytest.raises(RobovlmsError, match=message):
        read_config(write(tmp_path / "a.json", {**COMPLETE, key: value}))


@pytest.mark.parametrize("text", ["[]", "", "{", "[" * 100_000, '{"model": "\\ud800"', "\x00"])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RobovlmsError, match=r"not a JSON config of RoboVLMs"):
        read_config(tmp_path / "a.json")


def test_parents_are_followed_from_the_folder_of_each_config(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base" / "b.json", COMPLETE)
    write(tmp_path / "base" / "a.json", {"parent": "b.json", "window_size": 5, "act_head": {"num_layers": 2}})
    child = {"parent": "base/a.json", "fwd_pred_next_n": 3, "tokenizer": {"__override__": True, "type": "x"}}
    child["norm_max"] = 1
    monkeypatch.chdir("/")
    read = read_config(write(tmp_path / "c.json", child))
    assert (read.window_size, read.chunk, read.layers, read.hidden_size, read.max_tokens) == (5, 3, 2, 1024, 256)
    assert read.norm == (-0.65, 1)


def test_a_section_marked_override_replaces_the_parents(tmp_path: Path) -> None:
    write(tmp_path / "b.json", {**COMPLETE, "tokenizer": {"max_text_len": 64}})
    merged = {"parent": "b.json", "tokenizer": {"type": "x"}}
    assert read_config(write(tmp_path / "a.json", merged)).max_tokens == 64
    merged["tokenizer"] = {"type": "x", "__override__": True}
    assert read_config(write(tmp_path / "a.json", merged)).max_tokens == 256


def test_parents_that_loop_are_missing_or_no_paths_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b.json", {"parent": "a.json"})
    with pytest.raises(RobovlmsError, match=r"is its own parent: .*a\.json -> .*b\.json -> .*a\.json; remove one"):
        read_config(write(tmp_path / "a.json", {"parent": "./b.json"}))
    with pytest.raises(RobovlmsError, match=r"own parent"):
        read_config(write(tmp_path / "a.json", {"parent": "a.json"}))
    with pytest.raises(RobovlmsError, match=r"gone\.json, the parent of .*a\.json, cannot be read .*remove the key"):
        read_config(write(tmp_path / "a.json", {**COMPLETE, "parent": "gone.json"}))
    with pytest.raises(RobovlmsError, match=r"parent is \['b\.json'\]; it must be a config's path"):
        read_config(write(tmp_path / "a.json", {"parent": ["b.json"]}))
