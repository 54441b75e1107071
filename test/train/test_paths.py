# SPDX-License-Identifier: Apache-2.0
"""A run writes, and lets Lightning delete, only where the one who started it said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.fit import fit
from vla_ros.train.recipes import load_config
from vla_ros.train.resuming import read_resumable

NAMES = ["", ".", "..", "../x", "/x", "a/b", "a/../../x", "..\\x", "x\0", "x\n", "\u2028", "é" * 101]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_name_that_leaves_the_output_is_refused(recipe, name: str) -> None:
    with pytest.raises(ConfigError, match=r"name is .*must be the name of a folder.*--output"):
        TrainConfig.from_dict({**recipe, "name": name})


def write(path: Path, recipe: dict, **values: object) -> Path:
    path.write_text(json.dumps({key: value for key, value in (recipe | values).items() if value is not None}))
    return path


@pytest.mark.parametrize("folder", ["/elsewhere", "../elsewhere", "runs/../../elsewhere"])
def test_a_recipe_cannot_write_outside_of_the_working_directory(recipe, folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output is .*below the working directory.*--output FOLDER"):
        load_config(write(tmp_path / "a.json", recipe, output=folder))
    store = write(tmp_path / "a.json", recipe, output="runs", data={"store": folder})
    with pytest.raises(ConfigError, match=r"data\.store is .*--set data\.store=FOLDER"):
        load_config(store)
    parent = write(tmp_path / "b.json", {}, parent="a.json")
    with pytest.raises(ConfigError, match=r"data\.store is"):
        load_config(parent)


def test_the_command_line_may_name_any_folder(recipe, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", recipe, output=None)
    loaded = load_config(path, [f"output={json.dumps(str(tmp_path))}", "data.store=/store"])
    assert loaded.run_folder.parent == tmp_path and loaded.data.store == "/store"


@pytest.mark.parametrize("linked", [".", "metrics.csv", "metrics.before.csv", "last.ckpt"])
def test_a_run_is_not_written_through_a_link(config: TrainConfig, episodes, linked: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = config.run_folder / linked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"is a link, through which the run would be written to .*elsewhere"):
        fit(config, episodes)
    assert not any((tmp_path / "elsewhere").iterdir())


def interrupted(config: TrainConfig, episodes) -> tuple[TrainConfig, Path]:
    """The recipe of a longer run, and the last.ckpt that a shorter one left in its folder."""
    fit(config, episodes)
    for file in (config.run_folder / "checkpoint").iterdir():
        file.unlink()
    (config.run_folder / "checkpoint").rmdir()
    last = config.run_folder / "last.ckpt"
    trainer = dataclasses.replace(config.trainer, max_steps=2 * config.trainer.max_steps)
    return dataclasses.replace(config, trainer=trainer), last


@pytest.mark.parametrize("outside", [True, False])
def test_resuming_deletes_nothing_that_the_checkpoint_names(config, episodes, outside: bool, tmp_path: Path) -> None:
    longer, last = interrupted(config, episodes)
    precious = tmp_path / "precious" if outside else last.parent / "precious"
    precious.mkdir()
    (precious / "file").touch()
    saved = torch.load(last, weights_only=True)
    named = str(last.parent.resolve() / ".." / ".." / "precious") if outside else str(precious.resolve())
    for state in saved["callbacks"].values():
        if "best_k_models" in state:
            state |= {
                "best_k_models": {named: torch.tensor(9e9)},
                "kth_best_model_path": named,
                "best_model_path": named,
            }
    torch.save(saved, last)
    with pytest.raises(ConfigError, match=r"would have Lightning read or delete .*precious"):
        fit(longer, episodes, resume=last)
    assert (precious / "file").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 1000, {"callbacks": 3}, {"a": 1}, {"callbacks": {}, "x": Path("x")}])
def test_a_damaged_or_foreign_checkpoint_is_not_resumed(content, config, episodes, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ConfigError, match=r"which is (damaged|no checkpoint of a training)"):
        read_resumable(file)
    with pytest.raises(ConfigError):
        fit(config, episodes, resume=file)
    assert not config.run_folder.exists()
