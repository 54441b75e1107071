# SPDX-License-Identifier: Apache-2.0
"""The LightningModule: how a policy learns from batches of windows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from vla_ros.contract import ContractError
from vla_ros.imaging import images
from vla_ros.policy.augment import (
    AugmentConfig,
    augment_proprioception,
    draw_cameras_to_keep,
    drop_tokens,
    jitter_colours,
    shift_pixels,
)
from vla_ros.policy.committed import draw_delays
from vla_ros.policy.forward_prediction import ForwardPrediction, forward_losses
from vla_ros.policy.losses import LossConfig
from vla_ros.policy.policy import Policy
from vla_ros.policy.prediction import ActionPrediction, Readout
from vla_ros.policy.tuning import LoraConfig, TuningError, add_adapters, freeze, merge_adapters, parameter_groups


class Windows(TypedDict):
    """B windows of W frames, N actions each; padding is on the right."""

    images: dict[str, Tensor]  # camera -> (B, W, h, w, 3) uint8
    proprioception: Tensor  # (B, W, P) float, physical units
    tokens: Tensor  # (B, L) long
    token_mask: Tensor  # (B, L) bool
    actions: Tensor  # (B, W, N, 7) float, normalised, gripper opening last
    action_valid: Tensor  # (B, W, N) bool
    valid: Tensor  # (B, W) bool


class Batch(Windows, total=False):
    """The same, with what only some trainings have: what moved the arm, for policies that are told of it; features in
    place of images, where a frozen backbone has encoded them; the frames some steps later, for forward prediction."""

    committed: Tensor  # (B, W, N, 7) float, as ``actions.network_commitment`` makes them
    features: Tensor  # (B, W, ...) what ``Policy.encode`` returned, zero at padding; the images are empty then
    future_images: dict[str, Tensor]  # camera -> (B, W, h, w, 3) uint8
    future_valid: Tensor  # (B, W) bool


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a schedule, per step.

    Attributes:
        schedule: after the warm-up a "cosine" down to ``learning_rate * min_lr_scale``, or "constant".
        backbone_learning_rate: of the backbone's parameters, where it is another one.
        freeze: patterns of the names of parameters that are not trained (``backbone.model.vision_tower.*``).
        lora: adapters in the vision-language model, whose own weights are then frozen; None trains these.
    """

    learning_rate: float = 8e-4
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    min_lr_scale: float = 0.01
    backbone_learning_rate: float | None = None
    freeze: tuple[str, ...] = ()
    lora: LoraConfig | None = None


@dataclass(frozen=True)
class RetainConfig:
    """Self-distillation against forgetting: on new frames, under old commands, still do as the starting policy does.

    Attributes:
        weight: of the term in the loss; 0 switches it off.
        commands: the old commands, drawn evenly.
        fraction: the part of each batch's windows that the term sees (it costs a second pass of these).
    """

    weight: float = 0.0
    commands: tuple[str, ...] = ()
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if self.weight and not self.commands:
            raise ValueError("weight is set but commands is empty; list the commands of the tasks to retain")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; allowed: above 0, up to 1")


class VLAModule(pl.LightningModule):
    """Train ``policy``; ``teacher`` is the frozen starting policy of ``RetainConfig``, if it is on."""

    def __init__(
        self,
        policy: Policy,
        *,
        max_steps: int,
        optimizer: OptimizerConfig,
        loss: LossConfig,
        augment: AugmentConfig,
        retain: RetainConfig | None = None,
        teacher: Policy | None = None,
    ) -> None:
        super().__init__()
        for key in ("shift_px", "camera_dropout"):
            for camera in getattr(augment, key):
                if camera not in policy.contract.camera_names:
                    known = ", ".join(policy.contract.camera_names)
                    raise ContractError(f"augment.{key} names the camera {camera!r}; the policy's cameras are {known}")
        if optimizer.lora is not None:
            if policy.config.backbone != "vlm":
                raise TuningError(
                    f"optimizer.lora is set, but the backbone is {policy.config.backbone!r}; allowed: 'vlm'"
                )
            add_adapters(policy.backbone.model, optimizer.lora)
        freeze(policy, optimizer.freeze)
        self.policy = policy
        self.optimizer_config = optimizer
        self.loss_config = loss
        self.augment_config = augment
        self.retain_config = retain or RetainConfig()
        self.max_steps = max_steps
        self.forward_prediction: ForwardPrediction | None = None  # outside the policy: the robot does not need it
        if loss.forward_prediction is not None:
            self.forward_prediction = ForwardPrediction(
                camera_sizes={camera.name: (camera.height, camera.width) for camera in policy.contract.cameras},
                feature_size=policy.backbone.feature_size,
                config=loss.forward_prediction,
            )
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]  # a list: not a submodule

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        return self.model_step(batch, "train")

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.model_step(batch, "val")

    def model_step(self, batch: Batch, phase: str) -> Tensor:
        """Return the loss of a batch and log every term of it as ``{phase}/{name}``."""
        inputs, future = self._inputs(batch, training=phase == "train")
        text = self.policy.encode_text(inputs.pop("tokens"), batch["token_mask"])
        if "features" in batch:
            readout = self.policy.backbone.read(batch["features"], batch["valid"], text)
        else:
            readout = self.policy.read(**inputs, text=text)
        mask = readout.pick(batch["action_valid"]) & readout.valid[..., None]
        actions = readout.pick(batch["actions"])
        added = None
        if self.policy.committed is not None:
            added, mask = self._committed(readout.pick(batch["committed"]), mask, training=phase == "train")
        terms = self.policy.head.losses(readout.features, actions, mask, self.loss_config, added)
        if self.loss_config.forward_prediction is not None:
            terms |= self._forward_losses(readout, inputs["images"], future, batch["future_valid"])
            terms["loss"] = terms["loss"] + self.loss_config.forward_prediction.weight * terms["forward_loss"]
        if phase == "train" and self._teacher and self.retain_config.weight:
            terms["retain_loss"] = self._retain_loss(inputs)
            terms["loss"] = terms["loss"] + self.retain_config.weight * terms["retain_loss"]
        logged = {f"{phase}/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, prog_bar=False, on_step=phase == "train", on_epoch=phase == "val", batch_size=len(text),
                      sync_dist=phase == "val")  # fmt: skip
        self.log("loss" if phase == "train" else "val_loss", terms["loss"].detach(), prog_bar=True, logger=False,
                 batch_size=len(text), sync_dist=phase == "val")  # fmt: skip
        return terms["loss"]

    def _committed(self, done: Tensor, mask: Tensor, *, training: bool) -> tuple[Tensor, Tensor]:
        """Return what the committed actions of a drawn delay add to the context, and the mask of what is left to learn.

        They are those that moved the arm, not what was meant (the labels): where a demonstrator strays (DART), the next
        label answers to where that led. A policy told of what was meant could only learn to go on with it.

        A window has one delay. Where the demonstration ends before it does, fewer actions are committed.
        """
        assert self.policy.committed is not None
        longest = self.policy.committed.max_delay_steps
        drawn = draw_delays(len(done), longest, done.device, training=training)[:, None]  # (B, 1)
        delays = torch.minimum(drawn, mask.sum(dim=-1))  # (B, W)
        later = torch.arange(done.shape[2], device=done.device) >= delays[..., None]  # (B, W, N)
        return self.policy.committed(done, delays), mask & later

    def _forward_losses(
        self, readout: Readout, images: dict[str, Tensor], future: dict[str, Tensor], future_valid: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of forward prediction at the frames that features were read out of."""
        assert self.forward_prediction is not None
        now, later = ({name: readout.pick(part).flatten(0, 1) for name, part in x.items()} for x in (images, future))
        mask = (readout.pick(future_valid) & readout.valid).flatten()
        return forward_losses(self.forward_prediction(now, readout.features.flatten(0, 1)), now, later, mask)

    def _inputs(self, batch: Batch, *, training: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what the policy is called with (and the tokens) and the future images, augmented in training."""
        contract, config = self.policy.contract, self.augment_config
        images, future = self._network_images(batch, training)
        inputs: dict[str, Any] = {
            "images": images,
            "proprioception": batch["proprioception"],
            "tokens": batch["tokens"],
            "valid": batch["valid"],
        }
        if training:
            inputs["proprioception"] = augment_proprioception(inputs["proprioception"], contract, config)
            dropped_id = self.policy.tokenizer.dropped_id
            inputs["tokens"] = drop_tokens(inputs["tokens"], batch["token_mask"], dropped_id, config)
            keep = draw_cameras_to_keep(len(batch["tokens"]), contract.camera_names, config, self.device)
            inputs["camera_keep"] = keep
        return inputs, future

    def _network_images(self, batch: Batch, training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the images and the future ones, (B, W, 3, h, w) by camera, as the network takes them."""
        now: dict[str, Tensor] = {}
        future: dict[str, Tensor] = {}
        for camera in () if "features" in batch else self.policy.contract.cameras:
            pixels = batch["images"][camera.name]
            window = pixels.shape[1]
            if self.forward_prediction is not None:  # one draw for both: what changes between them must be the world
                pixels = torch.cat([pixels, batch["future_images"][camera.name]], dim=1)
            if training:
                pixels = shift_pixels(pixels, camera.name, self.augment_config)
            frames = images.to_network(pixels, camera)
            if training:
                frames = jitter_colours(frames, self.augment_config)
            now[camera.name], future[camera.name] = frames[:, :window], frames[:, window:]
        return now, future

    def _retain_loss(self, inputs: dict[str, Any]) -> Tensor:
        """Return how far the policy is from its teacher on some of the windows, each under a random old command."""
        count = max(1, round(self.retain_config.fraction * len(inputs["valid"])))
        part = {name: _first(value, count) for name, value in inputs.items()}
        commands = self.retain_config.commands
        drawn = [commands[i] for i in torch.randint(len(commands), (count,)).tolist()]
        tokens, token_mask = (tensor.to(self.device) for tensor in self.policy.tokenize(drawn))
        teacher = self._teacher[0].to(self.device)
        with torch.no_grad():
            target: ActionPrediction = teacher(**part, text=teacher.encode_text(tokens, token_mask))
        readout = self.policy.read(**part, text=self.policy.encode_text(tokens, token_mask))
        actions = torch.cat([target.arm, target.gripper_logit.sigmoid()[..., None]], dim=-1)
        mask = readout.valid[..., None].expand(target.gripper_logit.shape)
        return self.policy.head.losses(readout.features, actions, mask, self.loss_config)["loss"]

    def deployable(self) -> Policy:
        """Return the policy as a checkpoint holds it, adapters merged into its weights; training ends with that."""
        if self.optimizer_config.lora is not None:
            merge_adapters(self.policy.backbone.model)
        return self.policy

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the contract beside the weights: they mean something with its statistics and tokenizer only."""
        checkpoint["contract"] = self.policy.contract.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ContractError when the weights belong to another contract than this policy's."""
        written = checkpoint.get("contract", "{}")
        if written != self.policy.contract.to_json():
            old, new = json.loads(written), json.loads(self.policy.contract.to_json())
            other = [key for key, value in new.items() if old.get(key) != value]
            raise ContractError(
                f"the run to resume has another contract, in {', '.join(other)}: it was started with other "
                "demonstrations or another recipe. Give the bags and the recipe of its start, or start a new run "
                "without --resume and with another --name"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW and its schedule, stepped once per optimizer step."""
        config = self.optimizer_config
        groups = parameter_groups(self, config.weight_decay, config.backbone_learning_rate)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_scale(step, self.max_steps, config)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_scale(step: int, max_steps: int, config: OptimizerConfig) -> float:
    """Return the factor on the learning rate at ``step``: linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    return config.min_lr_scale + (1 - config.min_lr_scale) * 0.5 * (1 + math.cos(math.pi * progress))


def _first(value: Any, count: int) -> Any:
    """Return the first ``count`` rows of a tensor, of each tensor of a dict, or None of None."""
    if isinstance(value, dict):
        return {name: _first(item, count) for name, item in value.items()}
    return None if value is None else value[:count]
