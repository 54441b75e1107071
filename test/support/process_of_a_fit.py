# SPDX-License-Identifier: Apache-2.0
"""One of the processes of a training: writes the windows it saw, its losses, and its first step's gradient and batch.

torchrun ... process_of_a_fit.py FOLDER
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny_training import make_episode, make_recipe

from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.module import VLAModule
from vla_ros.train.config import TrainConfig
from vla_ros.train.demonstrations import WindowDataset
from vla_ros.train.fit import fit


def still(folder: Path, steps: int = 7) -> TrainConfig:
    """A recipe in which nothing is random but the order of the windows."""
    values = make_recipe(folder)
    values["policy"]["compact"]["dropout"] = 0.0
    config = TrainConfig.from_dict(values)
    augment = AugmentConfig(brightness=0.0, contrast=0.0, proprioception_noise=0.0)
    trainer = dataclasses.replace(config.trainer, max_steps=steps, gradient_clip_norm=1e9, validate_every_steps=7)
    return dataclasses.replace(config, augment=augment, trainer=trainer)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seen: list[int] = []
    first: dict = {}
    losses: list[torch.Tensor] = []
    fetch, step, optimize = WindowDataset.__getitems__, VLAModule.training_step, torch.optim.AdamW.step

    def training_step(self, batch, index):
        if not first:
            first.update(batch=batch, weights={k: v.clone() for k, v in self.state_dict().items()})
        loss = step(self, batch, index)
        losses.append(loss.detach().clone())
        return loss

    def optimizer_step(self, closure=None):
        result = optimize(self, closure)
        if "gradients" not in first:
            first["gradients"] = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return result

    def remember(self, indices):
        if len(self) > 20:  # not the validation's
            seen.extend(indices)
        return fetch(self, indices)

    WindowDataset.__getitems__, VLAModule.training_step = remember, training_step
    torch.optim.AdamW.step = optimizer_step
    config = still(folder)
    fit(config, [make_episode(index) for index in range(6)])
    torch.save({**first, "seen": seen, "losses": losses}, folder / f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
