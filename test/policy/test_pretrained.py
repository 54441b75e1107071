# SPDX-License-Identifier: Apache-2.0
"""Pretrained models load from a folder, or an error says what to download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_vlm import save_model

from vla_ros.policy.backbones.pretrained import AROUND_IMAGE, PretrainedError, load_pretrained
from vla_ros.policy.backbones.vlm import build_model
from vla_ros.policy.config import VlmConfig


@pytest.mark.parametrize("family", ["paligemma", "smolvlm", "qwen2_5_vl"])
def test_a_folder_gives_weights_tokenizer_and_normalisation(family: str, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "model", family)
    loaded = load_pretrained(VlmConfig(pretrained=str(tmp_path / "model")))
    given = {name.removeprefix("model."): tensor for name, tensor in saved.state_dict().items()}
    assert all(torch.equal(tensor, given[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.config.pretrained is None
    rebuilt = build_model(loaded.config.model)  # what a checkpoint does, without the folder
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {
        n: t.shape for n, t in loaded.model.state_dict().items()
    }
    assert str(tmp_path) not in str(loaded.config)
    assert (loaded.image_mean, loaded.image_std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    assert len(loaded.config.around_image) == (2 if family in AROUND_IMAGE else 0)
    assert loaded.tokenizer.encode("open the drawer")[0] == 1  # its own begin-of-sequence token
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("open the drawer")).strip() == "open the drawer"


def test_an_unavailable_model_is_an_error_with_the_download_command(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it retries for half a minute
    with pytest.raises(
        PretrainedError, match=r"hf download google/paligemma-3b-pt-224 --local-dir FOLDER.*pretrained="
    ):
        load_pretrained(VlmConfig(pretrained="google/paligemma-3b-pt-224"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model", "llava", safe=False)
    with pytest.raises(PretrainedError, match="safetensors"):
        load_pretrained(VlmConfig(pretrained=str(tmp_path / "model")))


def test_an_unsupported_model_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PretrainedError, match="a 'bert' model; it must be one of florence2"):
        load_pretrained(VlmConfig(pretrained=str(tmp_path)))


def test_a_tokenizer_without_the_marks_of_images_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model", "qwen3_vl", tokens=False)
    with pytest.raises(PretrainedError, match=r"lacks .*vision_start"):
        load_pretrained(VlmConfig(pretrained=str(tmp_path / "model")))
