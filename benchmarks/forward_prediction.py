# SPDX-License-Identifier: Apache-2.0
"""Does forward prediction see the future? Its error on held-out episodes, against repeating the last frame.

A policy is trained with forward prediction; then, for every frame of held-out episodes, the predicted later image is
compared with the recorded one. "feature of another frame" gives the decoder the policy's feature of an unrelated frame:
the increase in error is what the feature contributes. "moving" counts only pixels that change by more than a tenth of
the range.

    vla record-demo --task pick_up_red open_drawer --episodes 50 --output bags
    python benchmarks/forward_prediction.py --bags bags --steps 1500 --json runs/forward_prediction.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import figures
import pytorch_lightning as pl
import torch
from torch import Tensor

from vla_ros import resources
from vla_ros.datasets.bags.reader import bag_shards
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.store.store import load_shards
from vla_ros.imaging import images
from vla_ros.policy.module import VLAModule
from vla_ros.robot import load_robot
from vla_ros.train.callbacks import ProgressLines
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import DemonstrationData
from vla_ros.train.demonstrations import split_episodes
from vla_ros.train.initial_policy import new_policy, observation_spec
from vla_ros.train.recipes import load_config
from vla_ros.train.trainer import make_module

MOVING = 0.2  # of normalised units, whose range is 2
REGIONS = ("all pixels", "moving")
PREDICTORS = ("repeating the last frame", "forward prediction", "feature of another frame")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", nargs="+", required=True, help="bags or folders of bags")
    parser.add_argument("--config", type=Path, default=resources.path("config/train/tabletop.json"))
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--steps-ahead", type=int, default=4, help="prediction horizon in control periods (default: %(default)s)"
    )
    parser.add_argument(
        "--weight", type=float, default=0.3, help="weight of the term in the loss (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a recipe value"
    )
    parser.add_argument("--json", type=Path, help="results file")
    arguments = parser.parse_args()
    config = load_config(
        arguments.config,
        [
            f"trainer.max_steps={arguments.steps}",
            f"seed={arguments.seed}",
            "data.validation_fraction=0.2",
            "loss.forward_prediction=" + json.dumps({"steps_ahead": arguments.steps_ahead, "weight": arguments.weight}),
            *arguments.overrides,
        ],
    )
    pl.seed_everything(config.seed, verbose=False)
    spec, timing = observation_spec(config)
    episodes = load_shards(bag_shards(arguments.bags, load_robot(config.data.robot), spec, timing)).episodes
    started_s = time.monotonic()
    module, data = train(config, episodes)
    errors = compare(module, data)
    rows = [
        (camera, predictor, *(f"{row[what]:.5f} ({row[what + ' of repeating']:.0%})" for what in REGIONS))
        for camera, by_predictor in errors.items()
        for predictor, row in by_predictor.items()
    ]
    for row in rows:
        print("{:8} {:26} {:>18} {:>18}".format(*row))
    if arguments.json:
        figures.write(
            arguments.json,
            title="Forward prediction",
            runs=1,
            note=f"Images {arguments.steps_ahead} control periods ahead. Mean squared error on held-out episodes, "
            "in normalised pixels (range 2), and relative to repeating the last frame. Moving: pixels that change "
            f"by more than {MOVING / 2:.0%} of the range. {len(episodes)} episodes, {arguments.steps} optimizer "
            f"steps, {(time.monotonic() - started_s) / 60:.1f} min.",
            columns=("camera", "predictor", *REGIONS),
            rows=rows,
            details=errors,
        )


def train(config: TrainConfig, episodes: Sequence[Episode]) -> tuple[VLAModule, DemonstrationData]:
    """Return the trained module and its data, which holds the held-out windows."""
    training, validation = split_episodes(episodes, config.data.validation_fraction, config.seed)
    policy = new_policy(config, training)
    assert config.loss.forward_prediction is not None
    data = DemonstrationData(
        policy,
        training=training,
        validation=validation,
        batch_windows=config.trainer.batch_windows,
        max_steps=config.trainer.max_steps,
        steps_ahead=config.loss.forward_prediction.steps_ahead,
    )
    module = make_module(config, policy)
    trainer = pl.Trainer(
        max_steps=config.trainer.max_steps,
        accelerator=config.trainer.accelerator,
        devices=1,
        gradient_clip_val=config.trainer.gradient_clip_norm,
        callbacks=[ProgressLines()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    return module.cpu().eval(), data


@torch.no_grad()
def compare(module: VLAModule, data: DemonstrationData) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean squared errors (normalised units) by camera and predictor, over all held-out frames with a future."""
    assert module.forward_prediction is not None
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str], float] = defaultdict(float)
    for batch in data.val_dataloader():
        mask = batch["valid"] & batch["future_valid"]
        cameras = module.policy.contract.cameras
        now = {camera.name: images.to_network(batch["images"][camera.name], camera) for camera in cameras}
        later = {
            camera.name: images.to_network(batch["future_images"][camera.name], camera)[mask] for camera in cameras
        }
        text = module.policy.encode_text(batch["tokens"], batch["token_mask"])
        features = module.policy.read(now, batch["proprioception"], text, batch["valid"]).features[mask]
        current = {name: frames[mask] for name, frames in now.items()}
        others = features[torch.randperm(len(features))]
        pictures = (current, module.forward_prediction(current, features), module.forward_prediction(current, others))
        for name in later:
            moving = ((later[name] - current[name]).abs().amax(dim=1, keepdim=True) > MOVING).expand_as(later[name])
            counts[name, "all pixels"] += moving.numel()
            counts[name, "moving"] += float(moving.sum())
            for predictor, predicted in zip(PREDICTORS, pictures, strict=True):
                error: Tensor = (predicted[name] - later[name]).square()
                sums[name, predictor, "all pixels"] += float(error.sum())
                sums[name, predictor, "moving"] += float((error * moving).sum())
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for (name, predictor, what), total in sums.items():
        row = errors.setdefault(name, {}).setdefault(predictor, {})
        row[what] = total / counts[name, what]
        row[f"{what} of repeating"] = total / sums[name, PREDICTORS[0], what]
    return errors


if __name__ == "__main__":
    main()
