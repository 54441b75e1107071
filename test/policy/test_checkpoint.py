# SPDX-License-Identifier: Apache-2.0
"""A checkpoint comes back as it was, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_ros.policy.checkpoint import FILES, CheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def folder(policy, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint", policy)
    return tmp_path / "checkpoint"


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_round_trip_is_exact(policy, folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.contract == policy.contract
    assert loaded.config == policy.config
    assert not loaded.training
    state = policy.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert not any("proprioception_mean" in name for name in state)  # the contract has it; one truth is enough


def test_a_folder_contains_four_world_readable_files(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert all(file.stat().st_mode & 0o044 for file in folder.iterdir())


def test_saving_again_replaces_a_checkpoint_and_nothing_else(policy, folder: Path, tmp_path: Path) -> None:
    save_checkpoint(folder, policy)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]
    (tmp_path / "photos").mkdir()
    with pytest.raises(CheckpointError, match="photos exists and is not a checkpoint"):
        save_checkpoint(tmp_path / "photos", policy)


def test_a_save_that_fails_leaves_the_old_checkpoint(policy, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.policy.checkpoint.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(folder, policy)
    load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {name}.*vla fit"):
        load_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no folder .*nowhere; a checkpoint is a folder with"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_an_unknown_contract_key_is_named(folder: Path) -> None:
    edit(folder / "contract.json", lambda contract: contract["timing"].update(histori=3))
    with pytest.raises(CheckpointError, match=r"contract\.json.*'histori'"):
        load_checkpoint(folder)


def test_an_unknown_config_key_is_named(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config["lstm"].update(hiden_size=3))
    with pytest.raises(CheckpointError, match=r"config\.json.*'hiden_size'.*'hidden_size'"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda config: config["compact"].update(channels=[8, 8, 8, 9]), r"config\.json: .*channels"),
        ("config.json", lambda config: config["lstm"].update(hidden_size=0), r"config\.json: .*hidden_size is 0"),
        ("contract.json", lambda contract: contract["cameras"][0].update(name="a.b"), r"a\.b"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(folder: Path, file: str, change, message: str) -> None:
    edit(folder / file, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_another_image_size_is_refused_by_tensor(folder: Path) -> None:
    edit(folder / "contract.json", lambda contract: contract["cameras"][0].update(height=20))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor backbone\.fuse\.\S+ is "):
        load_checkpoint(folder)


def test_another_network_size_is_refused_by_tensor(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config["lstm"].update(hidden_size=8))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor head\.lstm\.\S+ is .*\(96, 32\)"):
        load_checkpoint(folder)


def test_another_camera_set_is_refused_by_tensor(folder: Path) -> None:
    edit(folder / "contract.json", lambda contract: contract["cameras"][1].update(name="overhead"))
    with pytest.raises(CheckpointError, match=r"lacks tensor backbone\.cameras\.overhead"):
        load_checkpoint(folder)


def test_missing_and_extra_tensors_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="unknown tensor extra"):
        load_checkpoint(folder)
    del weights["head.mlp.0.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks tensor head\.mlp\.0\.bias"):
        load_checkpoint(folder)


def test_files_of_two_checkpoints_cannot_be_mixed(folder: Path) -> None:
    edit(folder / "contract.json", lambda contract: contract["language"].update(tokenizer="bpe-sha256:0"))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_checkpoint(folder)


def test_loading_imports_no_training_code(folder: Path) -> None:
    code = (
        "import sys; from vla_ros.policy.checkpoint import load_checkpoint; "
        "from vla_ros.policy.inference import PolicyRunner; PolicyRunner(load_checkpoint(sys.argv[1])).warm_up(); "
        "print(sorted({'pytorch_lightning', 'transformers', 'rclpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("key", [{"max_delay_steps": 2}, {"max_delay_steps": 2, "delay_mode": "shifted_state"}])
def test_a_policy_trained_with_delays_is_refused_with_a_way_out(folder: Path, key) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **key}))
    with pytest.raises(
        CheckpointError,
        match=r"config\.json: max_delay_steps is 2; .*path_following.* train such a checkpoint again.*"
        r"config/train/tabletop\.json.*init_from.* with vla_ros 0\.1",
    ):
        load_checkpoint(folder)


def test_a_configuration_names_only_its_own_sections(policy, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "plain", policy)
    written = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert written.keys() == {"backbone", "head", "compact", "lstm"}
