# SPDX-License-Identifier: Apache-2.0
"""Train everything but the camera encoders, for `ablations.py`; the frozen encoders see each frame once.

The encoders are the shipped checkpoint's. Everything after them, from the fusion with proprioception to the head,
starts at random and is trained as by `vla fit`: the same windows, targets and losses. Commands use each task's first
phrasing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_ros import resources
from vla_ros.contract import ActionSpace
from vla_ros.datasets.episode import Episode
from vla_ros.imaging import images
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.config import ForwardPredictionConfig, LossConfig
from vla_ros.policy.forward_prediction import ForwardPrediction, forward_losses
from vla_ros.policy.module import Batch
from vla_ros.policy.policy import Policy
from vla_ros.policy.tuning import OptimizerConfig
from vla_ros.sim.tasks import TASKS
from vla_ros.train.data import DemonstrationData
from vla_ros.train.demonstrations import split_episodes
from vla_ros.train.statistics import action_bounds, proprioception_statistics

SHIPPED, RECIPE = resources.path("config/checkpoints/tabletop"), resources.path("config/train/tabletop.json")
FEATURE_SIZE = 128
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=1e-3, warmup_steps=50)
LOSS = LossConfig(huber_delta=0.1, gripper_weight=0.1)
AUGMENT = AugmentConfig(proprioception_noise=0.05)
DRAWN_FRAMES = 16  # of a step, whose future is predicted: decoding images costs more than everything else


class PassThrough(nn.Module):
    """Replaces a camera encoder, taking its features as input."""

    def forward(self, features: Tensor, _text: Tensor) -> Tensor:
        return features


def command(task: str) -> str:
    """Return the command of a task."""
    return TASKS[task].phrasings[0]


def _text(policy: Policy, task: str) -> Tensor:
    with torch.no_grad():
        return policy.encode_text(*policy.tokenize([command(task)]))


@torch.no_grad()
def encode_frames(policy: Policy, episodes: Sequence[Episode]) -> dict[str, Tensor]:
    """Return the camera features of all frames, camera -> (frames, K), episode by episode."""
    seen: dict[str, list[Tensor]] = {name: [] for name in policy.contract.camera_names}
    for episode in episodes:
        text = _text(policy, episode.task).expand(len(episode), -1)
        for camera in policy.contract.cameras:
            pictures = images.to_network(torch.from_numpy(np.array(episode.images[camera.name])), camera)
            seen[camera.name].append(policy.backbone.cameras[camera.name](pictures, text))
    return {name: torch.cat(parts) for name, parts in seen.items()}


def numbered(episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes with each image reduced to one pixel that holds the frame's overall index."""
    result, first = [], 0
    for episode in episodes:
        numbers = np.arange(first, first + len(episode))
        first += len(episode)
        pixel = np.stack([numbers // 256**2, numbers // 256 % 256, numbers % 256], axis=1).astype(np.uint8)
        pictures: Mapping[str, NDArray[np.uint8]] = dict.fromkeys(episode.images, pixel[:, None, None])
        result.append(dataclasses.replace(episode, images=pictures, command=command(episode.task), phrasings=()))
    return result


def frame_numbers(pixels: Tensor) -> Tensor:
    """Return the frame indices (B, W) of images (B, W, 1, 1, 3)."""
    return (pixels[..., 0, 0, :].long() * torch.tensor([256**2, 256, 1])).sum(dim=-1)


def untrained(
    encoders: Policy, training: Sequence[Episode], *, head: str, history: int, chunk: int, proprioception: bool
) -> Policy:
    """Return a policy with the encoders of ``encoders``, frozen; with proprioception or without."""
    known = encoders.contract.proprioception
    names = known.names if known is not None and proprioception else ()
    low, high = action_bounds(training)
    contract = dataclasses.replace(
        encoders.contract,
        proprioception=proprioception_statistics(training, names),
        timing=dataclasses.replace(encoders.contract.timing, history=history, chunk=chunk),
        action=ActionSpace(low=low, high=high),
        provenance=dataclasses.replace(encoders.contract.provenance, head=head),
    )
    compact = dataclasses.replace(encoders.config.compact, feature_size=FEATURE_SIZE)
    policy = Policy(contract, dataclasses.replace(encoders.config, head=head, compact=compact), encoders.tokenizer)
    for part in ("cameras", "text"):
        getattr(policy.backbone, part).load_state_dict(getattr(encoders.backbone, part).state_dict())
        getattr(policy.backbone, part).requires_grad_(False)
    return policy


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Demonstrations: the recorded ``episodes`` and the camera features of their frames."""

    episodes: Sequence[Episode]
    features: Mapping[str, Tensor]


def train(
    policy: Policy, seen: Encoded, seed: int, *, steps: int, frames: int, forward: ForwardPredictionConfig | None = None
) -> float:
    """Train ``policy`` and return the arm's mean absolute error on held-out episodes, in normalised units.

    Args:
        frames: of a step, whatever the history.
    """
    training, validation = split_episodes(numbered(seen.episodes), 0.1, seed)
    data = DemonstrationData(
        policy, training=training, validation=validation, batch_windows=frames // policy.contract.timing.history,
        max_steps=steps, steps_ahead=forward.steps_ahead if forward else 0, seed=seed,
    )  # fmt: skip
    cameras, policy.backbone.cameras = policy.backbone.cameras, nn.ModuleDict({n: PassThrough() for n in seen.features})
    decoder = None if forward is None else _make_decoder(policy, forward)
    weights = [w for module in (policy, decoder) if module for w in module.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=OPTIMIZER.learning_rate, weight_decay=OPTIMIZER.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: OPTIMIZER.learning_rate_scale(step, steps))
    pictures = {} if forward is None else {n: _all_images(seen.episodes, n) for n in seen.features}
    policy.train()
    for batch in data.train_dataloader():
        terms, features = _losses(policy, seen, batch, training=True)
        loss = terms["loss"]
        if decoder is not None and forward is not None:
            loss = loss + forward.weight * _forward_loss(policy, decoder, pictures, batch, features)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    policy.eval()
    with torch.no_grad():
        errors = [float(_losses(policy, seen, batch, training=False)[0]["arm_l1"]) for batch in data.val_dataloader()]
    policy.backbone.cameras = cameras
    return float(np.mean(errors))


def _losses(policy: Policy, seen: Encoded, batch: Batch, *, training: bool) -> tuple[dict[str, Tensor], Tensor]:
    numbers = frame_numbers(next(iter(batch["images"].values())))
    feels = batch["proprioception"]
    if training:
        feels = AUGMENT.perturb_proprioception(feels, policy.contract)
    text = policy.encode_text(batch["tokens"], batch["token_mask"])
    views = {name: features[numbers] for name, features in seen.features.items()}
    readout = policy.read(views, feels, text, batch["valid"])
    mask = batch["action_valid"] & readout.valid[..., None]
    return policy.head.losses(readout.features, batch["actions"], mask, LOSS), readout.features


def _make_decoder(policy: Policy, config: ForwardPredictionConfig) -> ForwardPrediction:
    sizes = {camera.name: (camera.height, camera.width) for camera in policy.contract.cameras}
    return ForwardPrediction(camera_sizes=sizes, feature_size=policy.backbone.feature_size, config=config)


def _all_images(episodes: Sequence[Episode], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([episode.images[name] for episode in episodes]))


def _forward_loss(
    policy: Policy, decoder: ForwardPrediction, pictures: Mapping[str, Tensor], batch: Batch, features: Tensor
) -> Tensor:
    """Return the prediction error of future images for some of the batch's frames."""
    chosen = torch.nonzero(batch["future_valid"])
    window, frame = chosen[torch.randperm(len(chosen))[:DRAWN_FRAMES]].T
    cameras = {camera.name: camera for camera in policy.contract.cameras}
    now, later = (
        {n: images.to_network(pictures[n][frame_numbers(views[n])[window, frame]], cameras[n]) for n in cameras}
        for views in (batch["images"], batch["future_images"])
    )
    there = torch.ones(len(window), dtype=torch.bool)
    return forward_losses(decoder(now, features[window, frame]), now, later, there)["forward_loss"]
