# SPDX-License-Identifier: Apache-2.0
"""A recipe's hardware reaches Lightning, or an error says what is not possible."""

from __future__ import annotations

import dataclasses

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
    ],
)
def test_hardware_names_are_handed_to_lightning(config, asked, processes, strategy: str) -> None:
    for accelerator in ("auto", "cpu", "gpu", "mps", "tpu"):
        trainer = with_trainer(config, accelerator=accelerator, precision="bf16-mixed", **asked).trainer
        hardware = _hardware(trainer, processes)
        assert (hardware["accelerator"], hardware["strategy"]) == (accelerator, strategy)
        assert (hardware["precision"], hardware["devices"]) == ("bf16-mixed", processes.on_machine)
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
    ],
)
def test_a_training_that_is_refused_has_read_and_written_nothing(config, episodes, asked, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(with_trainer(config, **asked), episodes)
    assert not config.run_folder.exists()


@pytest.mark.parametrize("asked", [{}, {"accelerator": "cpu"}, {"precision": "bf16-mixed"}, {"strategy": "ddp"}])
def test_what_a_cpu_supports_is_accepted(config, asked) -> None:
    check_machine(with_trainer(config, **asked), ALONE)


def test_only_a_file_can_be_resumed_from(config, episodes, tmp_path) -> None:
    """The checkpoints of deepspeed are folders of pickles, which could run code."""
    with pytest.raises(ConfigError, match=r"--resume is .*, which is not a file; use the last\.ckpt"):
        fit(config, episodes, resume=tmp_path)


def test_one_process_can_use_ddp(config: TrainConfig, tmp_path) -> None:
    trainer = make_trainer(with_trainer(config, strategy="ddp"), tmp_path, validates=False)
    assert (type(trainer.strategy).__name__, trainer.world_size) == ("DDPStrategy", 1)
