# SPDX-License-Identifier: Apache-2.0
"""An interrupted training, resumed, is the training that was not interrupted: bit for bit, whatever interrupted it."""

from __future__ import annotations

import csv
import dataclasses
import os
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import make_episode, make_recipe

from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.module import VLAModule
from vla_ros.train import fit as fitting
from vla_ros.train.callbacks import ProgressLines
from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.fit import fit
from vla_ros.train.resuming import SaveError

# Six steps of two batches, a validation and a last.ckpt after every second.
STEP = 3
PLACES = ("forward", "optimizer", "between", "validation")


def recipe(folder: Path, **trainer: Any) -> TrainConfig:
    """All that is random is on, and all that depends on validations."""
    config = TrainConfig.from_dict(make_recipe(folder))
    assert config.policy is not None and config.policy.compact.dropout > 0
    chosen = {"accumulate_batches": 2, "validate_every_steps": 2, "patience_validations": 50, "batch_windows": 2}
    return dataclasses.replace(
        config,
        augment=AugmentConfig(
            shift_px={"static": 1}, camera_dropout={"wrist": 0.3}, token_dropout=0.2, proprioception_dropout=0.2
        ),
        trainer=dataclasses.replace(config.trainer, **{**chosen, "export": "best_validation", **trainer}),
    )


def demonstrations() -> list:
    episodes = [make_episode(index) for index in range(6)]
    return [dataclasses.replace(episode, phrasings=(episode.command, "do it")) for episode in episodes]


def state(folder: Path) -> dict[str, Any]:
    """All that a training ends with: last.ckpt without its paths, the exported weights, and what was logged."""
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    for name, values in saved["callbacks"].items():
        if name.startswith(("ModelCheckpoint", "LastCheckpoint")):
            saved["callbacks"][name] = values["best_model_score"]
    saved["loops"]["fit_loop"].pop("epoch_loop.automatic_optimization.optim_progress")  # counts steps begun in vain
    exported = torch.load(folder / "best.ckpt", weights_only=True)
    logged: dict[str, str] = {}
    for file in ("metrics.before.csv", "metrics.csv"):
        if (folder / file).exists():
            with (folder / file).open(newline="") as text:
                for row in csv.DictReader(text):  # of a step done twice, the last counts
                    logged |= {
                        f"{row['step']} {k}": v for k, v in row.items() if v and k.startswith(("train/", "val/"))
                    }
    return {"last": saved, "best": (exported["global_step"], exported["state_dict"]), "logged": logged}


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ, if only in a bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(other.keys() - one.keys())]
        return [each for key in keys for each in differences(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for index, pair in pairs for each in differences(*pair, f"{where}/{index}")]
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return [] if (torch.equal(one, other) if tensors else one == other) else [where]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, Any]:
    torch.set_num_threads(1)
    config = recipe(tmp_path_factory.mktemp("whole"))
    fit(config, demonstrations())
    return state(config.run_folder)


def happens(monkeypatch, place: str, event: Callable[[], None]) -> None:
    """Let `event` happen once, at a place of the step after `STEP`; in a validation, of the one at the end of it."""
    calls = []

    def hooked(kind: type, method: str, steps: Callable[..., bool]) -> None:
        original = getattr(kind, method)

        def call(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            if not calls and steps(self, *args):
                calls.append(place)
                event()
            return result

        monkeypatch.setattr(kind, method, call)

    if place == "forward":  # with random numbers drawn, of the second of two batches
        hooked(VLAModule, "training_step", lambda module, _, index: (module.global_step, index % 2) == (STEP, 1))
    elif place == "optimizer":  # the weights are new, the count of steps is not
        taken: list[int] = []
        hooked(torch.optim.AdamW, "step", lambda *_: taken.append(1) or len(taken) == STEP + 1)
    elif place == "between":
        hooked(ProgressLines, "on_train_batch_end", lambda _, trainer, *__: trainer.global_step == STEP)
    else:
        hooked(VLAModule, "validation_step", lambda module, *_: module.global_step == STEP + 1)


def interrupt(monkeypatch, config: TrainConfig, kind: str, place: str) -> None:
    """Train until it happens."""

    def send(number: signal.Signals) -> Callable[[], None]:
        return lambda: os.kill(os.getpid(), number)

    def fail() -> None:
        raise ValueError("a broken file, say")

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, unlimited[1]))

    events: dict[str, tuple[Callable[[], None], type[BaseException]]] = {
        "Ctrl-C": (send(signal.SIGINT), KeyboardInterrupt),
        "SIGTERM": (send(signal.SIGTERM), KeyboardInterrupt),
        "exception": (fail, ValueError),
        "full disk": (fill_the_disk, SaveError),
    }
    with monkeypatch.context() as patch:
        if kind == "kill -9":
            child = os.fork()
            if child == 0:
                happens(patch, place, send(signal.SIGKILL))
                fit(config, demonstrations())
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            return
        event, raised = events[kind]
        happens(patch, place, event)
        try:
            with pytest.raises(raised):
                fit(config, demonstrations())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["Ctrl-C", "SIGTERM", "exception", "kill -9", "full disk"])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(
    uninterrupted, monkeypatch, tmp_path: Path, kind: str, place: str
) -> None:
    config = recipe(tmp_path)
    interrupt(monkeypatch, config, kind, place)
    last = config.run_folder / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    if kind in ("Ctrl-C", "SIGTERM"):
        assert step == (STEP if place == "between" else STEP + 1)
    elif kind == "exception":
        assert step == {"optimizer": 2, "validation": STEP + 1}.get(place, STEP)
    torch.rand(7)  # what else the process draws
    fit(config, demonstrations(), resume=last)
    assert not list(config.run_folder.glob("*.partial"))
    assert differences(uninterrupted, state(config.run_folder)) == []


def test_a_second_ctrl_c_stops_at_once(config, episodes, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.train.resuming._REPEATED_WITHIN_S", -1.0)
    done = []

    def press_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        done.append("too late")

    happens(monkeypatch, "between", press_twice)
    with pytest.raises(KeyboardInterrupt):
        fit(config, episodes)
    assert not done


def test_an_error_says_how_to_continue(config, episodes, monkeypatch, capsys) -> None:
    def fail() -> None:
        raise ValueError("broken")

    happens(monkeypatch, "between", fail)
    with pytest.raises(ValueError, match="broken"):
        fit(config, episodes)
    assert f"after 3 steps; to continue, repeat the command with --resume {config.run_folder / 'last.ckpt'}" in (
        capsys.readouterr().out
    )


def test_a_training_that_had_only_to_export_its_checkpoint_does(config, episodes, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space"):
            fit(config, episodes)
    assert fit(config, episodes, resume=config.run_folder / "last.ckpt").is_dir()
    assert torch.load(config.run_folder / "last.ckpt", weights_only=True)["global_step"] == config.trainer.max_steps


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    config = TrainConfig.from_dict(make_recipe(tmp_path_factory.mktemp("finished")))
    fit(config, demonstrations())
    return config.run_folder / "last.ckpt"


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def one_bit(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    written = bytearray(file.read_bytes())
    written[largest.header_offset + largest.file_size] ^= 1
    file.write_bytes(written)


def weights_only(file: Path) -> None:
    torch.save({"state_dict": {}}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "which is damaged"),
        (one_bit, "which is damaged"),
        (lambda file: file.write_bytes(b""), "which is damaged"),
        (lambda file: file.write_text("hello"), "which is damaged"),
        (weights_only, "it lacks optimizer_states"),
        (lambda file: torch.save(print, file), "which is damaged"),
    ],
    ids=["truncated", "one bit", "empty", "text", "only weights", "code"],
)
def test_a_damaged_file_is_refused_and_leaves_no_folder_behind(
    config, episodes, finished, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damaged = tmp_path / "last.ckpt"
    shutil.copy(finished, damaged)
    damage(damaged)
    before = damaged.read_bytes()
    with pytest.raises(ConfigError, match=rf"--resume is \S+last\.ckpt, {message}|{message}"):
        fit(config, episodes, resume=damaged)
    assert not config.run_folder.parent.exists() and damaged.read_bytes() == before


def test_a_run_of_other_demonstrations_leaves_no_folder_behind(config, episodes, finished) -> None:
    with pytest.raises(Exception, match="another contract"):
        fit(config, episodes[:4], resume=finished)
    assert not config.run_folder.exists()
