# SPDX-License-Identifier: Apache-2.0
"""A recipe's hardware reaches Lightning, or an error says what is not possible."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from pytorch_lightning.strategies import StrategyRegistry

from vla_ros.train.config import ConfigError, TrainConfig
from vla_ros.train.distributed import ALONE, Processes
from vla_ros.train.fit import fit
from vla_ros.train.trainer import STRATEGIES, _hardware, check_machine, make_trainer

EIGHT = Processes(0, 8, 4)
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="an NVIDIA GPU is here")


def with_trainer(config: TrainConfig, **changes) -> TrainConfig:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **changes))


@pytest.mark.parametrize(
    ("asked", "processes", "strategy"),
    [
        ({}, ALONE, "auto"),
        ({}, EIGHT, "ddp_find_unused_parameters_true"),
        ({"strategy": "ddp"}, ALONE, "ddp_find_unused_parameters_true"),
        ({"strategy": "ddp"}, EIGHT, "ddp_find_unused_parameters_true"),
        ({"strategy": "fsdp", "ema_decay": 0.0}, EIGHT, "fsdp"),
        ({"strategy": "deepspeed"}, EIGHT, "deepspeed_stage_2"),
        ({"strategy": "ddp_spawn"}, EIGHT, "ddp_spawn"),
    ],
)
def test_hardware_names_are_handed_to_lightning(config, asked, processes, strategy: str) -> None:
    for accelerator in ("auto", "cpu", "gpu", "mps", "tpu"):
        trainer = with_trainer(config, accelerator=accelerator, precision="bf16-mixed", **asked).trainer
        hardware = _hardware(trainer, processes)
        assert (hardware["accelerator"], hardware["strategy"]) == (accelerator, strategy)
        assert hardware["devices"] == processes.on_machine
        assert hardware["precision"] == ("32-true" if accelerator == "mps" else "bf16-mixed")
        assert hardware["devices"] * hardware["num_nodes"] == processes.count


def test_lightning_knows_the_strategies_by_these_names() -> None:
    assert set(STRATEGIES.values()) <= set(StrategyRegistry.available_strategies())


@needs_no_gpu
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"accelerator": "gpu"}, "accelerator 'gpu' .* is not possible here"),
        ({"accelerator": "mps"}, "accelerator 'mps' .* is not possible here"),
        ({"accelerator": "tpu"}, "accelerator 'tpu' .* is not possible here"),
        ({"precision": "16-mixed"}, "'16-mixed', but on a CPU it must be '32-true' or 'bf16-mixed'"),
        ({"strategy": "fsdp", "ema_decay": 0.0}, "strategy 'fsdp' .* is not possible here"),
        ({"strategy": "deepspeed"}, "strategy 'deepspeed' .* is not possible here"),
        ({"strategy": "fsdp", "ema_decay": 0.9}, r"set trainer\.ema_decay=0"),
        ({"strategy": "horovod"}, "strategy 'horovod' .* is not possible here"),
        ({"precision": "8-odd"}, "precision '8-odd' is not possible here"),
        ({"plugins": ("os",)}, "plugins has 'os'; it must be one of AsyncCheckpointIO"),
        ({"plugins": ("Precision", "HalfPrecision")}, "the plugins Precision, HalfPrecision is not possible here"),
    ],
)
def test_a_training_that_is_refused_has_read_and_written_nothing(config, episodes, asked, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(with_trainer(config, **asked), episodes)
    assert not config.run_folder.exists()


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"accelerator": "cpu"},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"strategy": "ddp"},
        {"strategy": "ddp", "plugins": ("TorchSyncBatchNorm",)},
    ],
)
def test_what_a_cpu_supports_is_accepted(config, asked) -> None:
    check_machine(with_trainer(config, **asked), ALONE)


def test_only_a_file_can_be_resumed_from(config, episodes, tmp_path) -> None:
    """The checkpoints of deepspeed are folders of pickles, which could run code."""
    with pytest.raises(ConfigError, match=r"--resume is .*, which is not a file; use the last\.ckpt"):
        fit(config, episodes, resume=tmp_path)


def test_one_process_can_use_ddp(config: TrainConfig, tmp_path) -> None:
    trainer = make_trainer(with_trainer(config, strategy="ddp"), tmp_path, validates=False)
    assert (type(trainer.strategy).__name__, trainer.world_size) == ("DDPStrategy", 1)


@needs_no_gpu
def test_mps_says_that_it_takes_32_true(config, capsys) -> None:
    with pytest.raises(ConfigError, match=r"'mps' .* is not possible here"):
        check_machine(with_trainer(config, accelerator="mps", precision="bf16-mixed"), ALONE)
    assert "training on mps in 32-true, not bf16-mixed" in capsys.readouterr().out


def test_gradients_are_clipped_by_value_too(config, tmp_path) -> None:
    asked = with_trainer(config, gradient_clip_norm=0.0, gradient_clip_value=0.25)
    trainer = make_trainer(asked, tmp_path, validates=False)
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (0.25, "value")


def test_the_best_validations_are_kept_under_names_with_epoch_step_and_loss(config, episodes) -> None:
    """28 windows in batches of 4 are 7 steps an epoch."""
    named = {"save_top_k": 2, "checkpoint_name": "checkpoint-{epoch:02d}-{step}-{val_loss:.2f}"}
    fit(with_trainer(config, max_steps=16, validate_every_steps=4, **named), episodes)
    found = [re.fullmatch(r"checkpoint-epoch=(\d\d)-step=(\d+)-val_loss=\d\.\d\d\.ckpt", path.name) for path in
             config.run_folder.glob("checkpoint-*.ckpt")]  # fmt: skip
    assert len(found) == 2
    assert all(match and int(match[1]) == int(match[2]) // 7 for match in found)


def test_another_metric_can_tell_which_validations_are_best(config, episodes) -> None:
    asked = with_trainer(config, monitor="val/gripper_accuracy", export="best_validation", patience_validations=9)
    trainer = make_trainer(asked, config.run_folder, validates=True)
    modes = {each.monitor: each.mode for each in trainer.checkpoint_callbacks if each.monitor}
    assert modes == {"val/gripper_accuracy": "max"} and trainer.early_stopping_callback.mode == "max"
    assert fit(asked, episodes).is_dir()


def test_an_unknown_metric_is_named(config, episodes) -> None:
    with pytest.raises(ConfigError, match=r"Lightning refuses the recipe: .*'val_los'"):
        fit(with_trainer(config, monitor="val_los"), episodes)
