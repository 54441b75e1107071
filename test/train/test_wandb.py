# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases: only on request, and offline unless the environment says otherwise."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from vla_ros.train import trainer
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.fit import fit
from vla_ros.train.trainer import make_trainer


@pytest.fixture
def asked(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, wandb_project="arms"))


class Recorded:
    """In place of Lightning's logger: what it was made with."""

    made: list[dict]

    def __init__(self, name, folder, **options) -> None:
        type(self).made.append({"name": name, "folder": folder, **options})

    def log_hyperparams(self, values) -> None:
        type(self).made[-1]["recipe"] = values


@pytest.mark.parametrize(("mode", "offline"), [(None, True), ("offline", True), ("online", False), ("dryrun", True)])
def test_a_run_goes_to_the_server_only_if_the_environment_says_so(
    asked, tmp_path, monkeypatch, mode: str | None, offline: bool
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(Recorded, "made", [], raising=False)
    monkeypatch.setattr(trainer, "WandbLogger", Recorded)
    loggers = make_trainer(asked, tmp_path, validates=False).loggers
    assert [type(logger).__name__ for logger in loggers] == ["CSVLogger", "TensorBoardLogger", "Recorded"]
    recipe = asked.to_dict()
    expected = {"name": "tiny", "folder": tmp_path, "offline": offline, "project": "arms", "recipe": recipe}
    assert Recorded.made == [expected]


def test_nothing_is_logged_there_unless_asked_for(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer, "WandbLogger", lambda *_, **__: pytest.fail("nobody asked for it"))
    assert len(make_trainer(config, tmp_path, validates=False).loggers) == 2


def test_without_wandb_installed_the_run_is_refused_before_it_starts(asked, episodes, monkeypatch) -> None:
    find = trainer.importlib.util.find_spec
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(ConfigError, match=r"not installed: pip install 'vla_ros\[wandb\]'"):
        fit(asked, episodes)
    assert not asked.run_folder.exists()


def test_a_run_is_written_into_its_folder_without_a_connection(asked, episodes, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install 'vla_ros[wandb]'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    connect = socket.socket.connect

    def refuse(self, address) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("localhost", "127.0.0.1", "::1"):
            pytest.fail(f"connected to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    fit(asked, episodes)
    assert wandb.run is None  # the next training of this process has its own
    (written,) = asked.run_folder.glob("wandb/offline-run-*/*.wandb")
    content = written.read_bytes()
    assert b"train/arm_loss" in content and b"batch_windows" in content
