# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks for is what the training runs on, or an error that names it."""

from __future__ import annotations

import dataclasses
import re

import pytest
from pytorch_lightning.strategies import StrategyRegistry

from vla_ros.train.config import ConfigError, TrainConfig, TrainerConfig
from vla_ros.train.fit import fit
from vla_ros.train.machine import STRATEGIES, Machine, choose
from vla_ros.train.processes import ALONE, Processes
from vla_ros.train.trainer import make_trainer

CPU, CUDA, MAC, TPU = Machine(), Machine(cuda=True), Machine(mps=True), Machine(tpu=True)
EIGHT = Processes(0, 8, 4)


@pytest.mark.parametrize(
    ("asked", "processes", "machine", "accelerator", "strategy"),
    [
        ({}, ALONE, CPU, "cpu", "auto"),
        ({}, ALONE, CUDA, "cuda", "auto"),
        ({}, ALONE, MAC, "mps", "auto"),
        ({}, ALONE, TPU, "tpu", "auto"),
        ({}, ALONE, Machine(cuda=True, tpu=True), "tpu", "auto"),
        ({}, EIGHT, CPU, "cpu", "ddp_find_unused_parameters_true"),
        ({}, EIGHT, CUDA, "cuda", "ddp_find_unused_parameters_true"),
        ({"accelerator": "cpu"}, ALONE, CUDA, "cpu", "auto"),
        ({"accelerator": "gpu"}, ALONE, CUDA, "cuda", "auto"),
        ({"accelerator": "gpu"}, ALONE, MAC, "mps", "auto"),
        ({"accelerator": "mps"}, ALONE, MAC, "mps", "auto"),
        ({"accelerator": "tpu"}, ALONE, TPU, "tpu", "auto"),
        ({"accelerator": "cpu"}, EIGHT, MAC, "cpu", "ddp_find_unused_parameters_true"),
        ({"strategy": "ddp"}, EIGHT, CPU, "cpu", "ddp_find_unused_parameters_true"),
        ({"precision": "bf16-mixed"}, ALONE, CPU, "cpu", "auto"),
        ({"precision": "16-mixed"}, ALONE, CUDA, "cuda", "auto"),
        ({"strategy": "fsdp", "ema_decay": 0.0}, EIGHT, CUDA, "cuda", "fsdp"),
        ({"strategy": "fsdp", "ema_decay": 0.0, "precision": "bf16-mixed"}, EIGHT, CUDA, "cuda", "fsdp"),
        ({"strategy": "deepspeed", "ema_decay": 0.0}, EIGHT, Machine(cuda=True, deepspeed=True), "cuda",
         "deepspeed_stage_2"),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_what_runs(asked, processes, machine, accelerator, strategy) -> None:
    assert choose(TrainerConfig(**asked), processes, machine) == (accelerator, strategy)


SHARDED = {"ema_decay": 0.0}


@pytest.mark.parametrize(
    ("asked", "processes", "machine", "message"),
    [
        ({"accelerator": "gpu"}, ALONE, CPU, "is 'gpu', but torch finds no NVIDIA GPU; this machine has: cpu"),
        ({"accelerator": "mps"}, ALONE, CUDA, "'mps', but torch finds no Apple GPU; this machine has: cuda, cpu"),
        ({"accelerator": "tpu"}, ALONE, CPU, "'tpu', but there is no TPU, or torch_xla is not installed"),
        ({"precision": "bf16-mixed"}, ALONE, MAC, "'bf16-mixed', but the accelerator is mps; allowed: 32-true"),
        ({"precision": "bf16-mixed"}, ALONE, TPU, "'bf16-mixed', but the accelerator is tpu; allowed: 32-true"),
        ({"precision": "16-mixed"}, ALONE, CPU, "accelerator is cpu; allowed: 32-true, bf16-mixed"),
        ({"strategy": "ddp"}, ALONE, MAC, "trainer.strategy=ddp asks for several processes.*mps.*strategy=auto"),
        ({}, EIGHT, TPU, "train/run.sh asks for several processes, but the accelerator is tpu"),
        ({"strategy": "fsdp", **SHARDED}, EIGHT, CPU, "'fsdp', which needs an NVIDIA GPU, but the accelerator is cpu"),
        ({"strategy": "deepspeed", **SHARDED}, EIGHT, CPU, "'deepspeed', which needs an NVIDIA GPU"),
        ({"strategy": "deepspeed", **SHARDED}, EIGHT, CUDA, "deepspeed is not installed: pip install deepspeed"),
        ({"strategy": "fsdp"}, EIGHT, CUDA, "set trainer.ema_decay=0 to train without the moving average"),
        ({"strategy": "deepspeed"}, EIGHT, Machine(cuda=True, deepspeed=True), "set trainer.ema_decay=0"),
        (
            {"strategy": "deepspeed", "precision": "bf16-mixed", **SHARDED},
            EIGHT, Machine(cuda=True, deepspeed=True), "allowed: '32-true', or trainer.strategy=fsdp",
        ),
        (
            {"strategy": "deepspeed", "export": "best_validation", **SHARDED},
            EIGHT, Machine(cuda=True, deepspeed=True), "allowed: 'last', or trainer.strategy=fsdp",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_had_is_named(asked, processes, machine, message: str) -> None:
    with pytest.raises(ConfigError, match=re.sub(r"([.()])(?!\*)", r"\\\1", message)):
        choose(TrainerConfig(**asked), processes, machine)


def test_lightning_knows_the_strategies_by_these_names() -> None:
    assert set(STRATEGIES.values()) <= set(StrategyRegistry.available_strategies())


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_training_that_is_refused_has_read_and_written_nothing(config, episodes, strategy: str) -> None:
    asked = dataclasses.replace(config.trainer, strategy=strategy, ema_decay=0.0, accelerator="cpu")
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        fit(dataclasses.replace(config, trainer=asked), episodes)
    assert not config.run_folder.exists()


def test_a_checkpoint_of_deepspeed_is_not_gone_on_from(config, episodes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("vla_ros.train.fit.check_machine", lambda *_: None)
    asked = dataclasses.replace(config.trainer, strategy="deepspeed", ema_decay=0.0)
    with pytest.raises(
        ConfigError, match=r"--resume with trainer\.strategy 'deepspeed', whose checkpoints are pickles"
    ):
        fit(dataclasses.replace(config, trainer=asked), episodes, resume=tmp_path)


def test_one_process_can_be_of_the_strategy_ddp(config: TrainConfig, tmp_path) -> None:
    asked = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, strategy="ddp"))
    trainer = make_trainer(asked, tmp_path, validates=False)
    assert (type(trainer.strategy).__name__, trainer.world_size) == ("DDPStrategy", 1)
