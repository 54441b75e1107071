# SPDX-License-Identifier: Apache-2.0
"""Models and checkpoints that carry code, pickles or paths: nothing of it runs, even if "y" waits on stdin."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vlm import save_model

from vla_ros.datasets.calvin.safe_pickle import read_npz
from vla_ros.policy.backbones.pretrained import PretrainedError, load_pretrained
from vla_ros.policy.backbones.vlm import build_model
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.robovlms import _read_vlm, read_weights
from vla_ros.policy.robovlms_config import RobovlmsError


class Trap:
    """Reveals that a pickle was run: unpickling it creates the file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch) -> Path:
    """The file that code of a model would create; whoever asks whether to run it gets a yes."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    return tmp_path / "was_run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", "llava")
    return tmp_path / "model"


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def plant(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")


def load(folder: Path) -> None:
    load_pretrained(VlmConfig(pretrained=str(folder)))


def test_a_configuration_with_code_is_refused(folder: Path, mark: Path) -> None:
    plant(folder, mark)
    names = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": "evil.Evil"}
    edit(folder / "config.json", model_type="evil", auto_map=names)
    with pytest.raises(PretrainedError, match=r"brings code of its own, and that is never run; use a model that"):
        load(folder)
    with pytest.raises(RobovlmsError, match=r"brings code of its own, and that is never run; use KosMos-2"):
        _read_vlm(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["evil.Evil", "evil--evil.Evil", "someone/evil--evil.Evil", "../evil.Evil"])
def test_code_for_a_known_model_is_ignored(folder: Path, mark: Path, name: str) -> None:
    plant(folder, mark)
    edit(folder / "config.json", auto_map={"AutoConfig": name, "AutoModel": name})
    load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("named", [{"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, ["evil.Evil", "evil.Evil"]])
def test_the_code_of_a_tokenizer_never_runs(folder: Path, mark: Path, named: object) -> None:
    plant(folder, mark)
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=named)
    load(folder)  # with the tokenizer that transformers has for this model
    edit(folder / "config.json", model_type="evil", tokenizer_class="Evil")
    with pytest.raises(RobovlmsError):
        _read_vlm(str(folder))
    assert not mark.exists()


def test_an_image_processor_with_code_is_read_for_its_numbers(folder: Path, mark: Path) -> None:
    plant(folder, mark)
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"}, image_processor_type="Evil")
    load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../outside.safetensors", "/outside.safetensors", 3])
def test_shards_that_are_pickles_or_outside_are_refused(folder: Path, mark: Path, shard: object) -> None:
    weights = (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    assert weights.is_file()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"language_model.embed_tokens.weight": shard}})
    )
    with pytest.raises(PretrainedError, match=r"lists the shard .*each must be a \.safetensors file"):
        load(folder)
    assert not mark.exists()


def test_adapters_are_refused(folder: Path, mark: Path) -> None:
    torch.save({"x": Trap(mark)}, folder / "adapter_model.bin")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "/", "auto_mapping": {"parent_library": "evil"}}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(PretrainedError, match=r"has adapters .*merge"):
        load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "named",
    [
        {"_attn_implementation": "someone/evil:run"},
        {"attn_implementation": "someone/evil"},
        {"experts_implementation": "someone/evil"},
        {"auto_map": {"AutoModel": "someone/evil--evil.Evil"}},
        {"quantization_config": {"quant_method": "evil", "modules_to_not_convert": []}},
        {"dtype": "load"},
        {"model_type": "timm_wrapper", "architecture": "hf-hub:someone/evil"},
        {"model_type": "detr", "use_pretrained_backbone": True, "backbone": "someone/evil"},
        {"model_type": "../evil"},
    ],
)
def test_a_checkpoints_model_loads_nothing_from_elsewhere(named: dict, mark: Path, monkeypatch) -> None:
    from tiny_models import TINY_MODELS

    def refuse(*arguments: object, **others: object) -> None:
        mark.touch()
        raise OSError("no network")

    for function in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{function}", refuse)
        monkeypatch.setattr(f"transformers.utils.hub.{function}", refuse)
    for section in (None, "text_config", "vision_config"):
        model = json.loads(json.dumps(dict(TINY_MODELS["llava"])))
        (model[section] if section else model).update(named)
        try:
            build_model(model)
        except ValueError as error:  # what `load_checkpoint` reports
            assert str(error)
    assert not mark.exists()


def test_the_metadata_of_safetensors_are_ignored(folder: Path, mark: Path) -> None:
    plant(folder, mark)
    tensors = load_file(folder / "model.safetensors")
    named = {"format": "pt", "auto_map": "evil.Evil", "__class__": "evil.Evil", "path": "../outside.safetensors"}
    save_file(tensors, folder / "model.safetensors", metadata=named)
    load(folder)
    assert not mark.exists()


def test_files_named_outside_of_an_archive_are_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    torch.save({"state_dict": {"a": torch.zeros(2)}}, "cont.pt")
    np.savez("frame.npz", rel_actions=np.zeros(7))
    for name in ("cont.pt", "frame.npz"):
        with zipfile.ZipFile(name, "a") as archive:
            for evil in ("../../evil", str(tmp_path / "evil"), "cont/../../../evil"):
                archive.writestr(evil, b"evil")
    with contextlib.suppress(RobovlmsError):  # torch refuses such archives
        read_weights(Path("cont.pt"))
    assert set(read_npz(Path("frame.npz"), ("rel_actions",))) == {"rel_actions"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cont.pt", "deep", "er", "frame.npz"]
