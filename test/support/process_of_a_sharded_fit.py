# SPDX-License-Identifier: Apache-2.0
"""One of the processes of a training with the strategy fsdp, on a CPU: Lightning's own check wants a GPU.

torchrun ... process_of_a_sharded_fit.py FOLDER
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from pathlib import Path

import torch
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.strategies import fsdp as lightning_fsdp
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
    fully_sharded_data_parallel,
)
from torch.distributed.fsdp._common_utils import _FSDPDeviceHandle

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny_models import TINY_MODELS
from tiny_training import make_episode, make_recipe

from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.config import PolicyConfig, VlmConfig
from vla_ros.train import fit as fitting
from vla_ros.train import sharding
from vla_ros.train.callbacks import ProgressLines
from vla_ros.train.config import TrainConfig

STEPS, WINDOWS = 4, 4


class OnCpu(FSDPStrategy):
    """The same strategy; Lightning refuses the class itself without a GPU. There is no event to wait for on a CPU."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, limit_all_gathers=False)


def on_cpu(state, *_):
    """Torch's own takes no CPU, though all that it does afterwards does."""
    state._device_handle = _FSDPDeviceHandle.from_device(torch.device("cpu"))
    return state


def recipe(folder: Path, name: str, **changes) -> TrainConfig:
    """A recipe in which nothing is random but the order of the windows, and gradients are cut to a tenth or so."""
    config = TrainConfig.from_dict(make_recipe(folder))
    cameras = tuple(dataclasses.replace(camera, height=32, width=32) for camera in config.contract.cameras)
    return dataclasses.replace(
        config,
        name=name,
        contract=dataclasses.replace(config.contract, cameras=cameras),
        policy=PolicyConfig(backbone="vlm", vlm=VlmConfig(model=TINY_MODELS["paligemma"])),
        augment=AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0),
        optimizer=dataclasses.replace(config.optimizer, freeze=("backbone.model.vision_tower.*",)),
        trainer=dataclasses.replace(
            config.trainer,
            accelerator="cpu",
            max_steps=STEPS,
            validate_every_steps=2,
            gradient_clip_norm=0.05,
            ema_decay=0.0,
            **changes,
        ),
    )


def larger_episodes() -> list:
    """Episodes with pictures of 32x32."""
    episodes = [make_episode(index) for index in range(6)]
    return [
        dataclasses.replace(
            episode, images={name: x.repeat(2, axis=1).repeat(2, axis=2) for name, x in episode.images.items()}
        )
        for episode in episodes
    ]


def whole_state(module, **_):
    """Lightning has it brought to the CPU, where it is here, and so would not be copied out of what torch reuses."""
    options = FullStateDictConfig(), FullOptimStateDictConfig(offload_to_cpu=True)  # the latter by Tensor.cpu
    return FullyShardedDataParallel.state_dict_type(module, StateDictType.FULL_STATE_DICT, *options)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    fully_sharded_data_parallel._init_device_handle = on_cpu
    torch.Tensor.cpu = torch.Tensor.clone
    lightning_fsdp._get_full_state_dict_context = whole_state
    sharding.FSDPStrategy = OnCpu
    fitting.check_machine = lambda *_: None
    episodes = larger_episodes()
    sizes: list[int] = []

    def watch(self, trainer, module, *_) -> None:
        sizes.append(sum(parameter.numel() for parameter in module.parameters()))
        if interrupts and trainer.global_step == 3:
            raise KeyboardInterrupt

    ProgressLines.on_train_batch_end = watch
    sharded = recipe(folder, "sharded", strategy="fsdp", batch_windows=WINDOWS, export="best_validation")
    interrupts = True
    with contextlib.suppress(KeyboardInterrupt):
        fitting.fit(sharded, episodes)
    interrupts = False
    fitting.fit(dataclasses.replace(sharded, name="whole"), episodes)
    last = dataclasses.replace(sharded.trainer, export="last")
    fitting.fit(dataclasses.replace(sharded, trainer=last), episodes, resume=sharded.run_folder / "last.ckpt")
    torch.save(sizes, folder / f"sizes{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
