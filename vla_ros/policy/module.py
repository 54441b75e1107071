# SPDX-License-Identifier: Apache-2.0
"""The LightningModule: how a policy learns from batches of windows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from vla_ros.contract import ContractError, PolicyContract
from vla_ros.imaging import images
from vla_ros.policy.augmentation import AugmentConfig
from vla_ros.policy.backbones.vlm import VlmBackbone
from vla_ros.policy.config import LossConfig
from vla_ros.policy.forward_prediction import ForwardPrediction, forward_losses
from vla_ros.policy.heads.head import Readout, mean_of_processes
from vla_ros.policy.policy import Policy
from vla_ros.policy.tuning import OptimizerConfig, TuningError, add_adapters, freeze, merge_adapters, parameter_groups


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
    """Windows plus what only some trainings need."""

    features: Tensor  # (B, W, ...) from `Policy.encode`, zero at padding; `images` is then empty
    future_images: dict[str, Tensor]  # camera -> (B, W, h, w, 3) uint8, for forward prediction
    future_valid: Tensor  # (B, W) bool


class NetworkInputs(NamedTuple):
    """Inputs of `Policy.read` except the text."""

    images: dict[str, Tensor]  # camera -> (B, W, 3, h, w)
    proprioception: Tensor  # (B, W, P)
    valid: Tensor  # (B, W)
    camera_keep: Tensor | None = None  # (B, cameras)

    def read(self, policy: Policy, text: Any) -> Readout:
        """Return what `policy` reads from these windows under `text`."""
        return policy.read(self.images, self.proprioception, text, self.valid, self.camera_keep)

    def first(self, count: int) -> NetworkInputs:
        """Return the first `count` windows."""
        keep = None if self.camera_keep is None else self.camera_keep[:count]
        images = {name: frames[:count] for name, frames in self.images.items()}
        return NetworkInputs(images, self.proprioception[:count], self.valid[:count], keep)


@dataclass(frozen=True)
class RetainConfig:
    """Self-distillation against forgetting: given old commands, still act as the starting policy does.

    Attributes:
        weight: of the term in the loss; 0 switches it off.
        commands: the old commands, drawn uniformly.
        fraction: share of each batch's windows that the term uses, at the cost of a second pass over them.
    """

    weight: float = 0.0
    commands: tuple[str, ...] = ()
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if self.weight and not self.commands:
            raise ValueError("weight is set but commands is empty; list the commands of the tasks to retain")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must be in (0, 1]")


class VLAModule(pl.LightningModule):
    """Trains `policy`; `teacher` is the frozen starting policy that `retain` distils from.

    Args:
        steps_per_epoch: optimizer steps in which every training window comes up once.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        max_steps: int,
        steps_per_epoch: int = 1,
        optimizer: OptimizerConfig,
        loss: LossConfig,
        augment: AugmentConfig,
        retain: RetainConfig | None = None,
        teacher: Policy | None = None,
    ) -> None:
        super().__init__()
        _check_cameras(augment, policy.contract.camera_names)
        if optimizer.lora is not None:
            if not isinstance(policy.backbone, VlmBackbone):
                raise TuningError(
                    f"optimizer.lora is set, but the backbone is {policy.config.backbone!r}; it must be 'vlm'"
                )
            add_adapters(policy.backbone.model, optimizer.lora)
        freeze(policy, optimizer.freeze)
        self.policy = policy
        self.optimizer_config = optimizer
        self.loss_config = loss
        self.augment_config = augment
        self.retain_config = retain or RetainConfig()
        self.max_steps, self.steps_per_epoch = max_steps, steps_per_epoch
        self.forward_prediction: ForwardPrediction | None = None  # outside the policy: not deployed
        if loss.forward_prediction is not None:
            self.forward_prediction = ForwardPrediction(
                camera_sizes={camera.name: (camera.height, camera.width) for camera in policy.contract.cameras},
                feature_size=policy.backbone.feature_size,
                config=loss.forward_prediction,
            )
        self._forward_weight = loss.forward_prediction.weight if loss.forward_prediction is not None else 0.0
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]  # a list: not a submodule

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        return self.model_step(batch, "train")

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.model_step(batch, "val")

    def model_step(self, batch: Batch, phase: str) -> Tensor:
        """Return the loss of a batch and log each of its terms as `{phase}/{name}`."""
        training = phase == "train"
        inputs, tokens, future = self.network_inputs(batch, training=training)
        text = self.policy.encode_text(tokens, batch["token_mask"])
        if "features" in batch:
            readout = self.policy.backbone.read(batch["features"], batch["valid"], text)
        else:
            readout = inputs.read(self.policy, text)
        mask = readout.pick(batch["action_valid"]) & readout.valid[..., None]
        terms = self.policy.head.losses(readout.features, readout.pick(batch["actions"]), mask, self.loss_config)
        if self.loss_config.forward_prediction is not None:
            terms |= self._forward_losses(readout, inputs.images, future, batch["future_valid"])
            terms["loss"] = terms["loss"] + self.loss_config.forward_prediction.weight * terms["forward_loss"]
        if training and self._teacher and self.retain_config.weight:
            terms["retain_loss"] = self._retain_loss(inputs)
            terms["loss"] = terms["loss"] + self.retain_config.weight * terms["retain_loss"]
        if training:
            self._log_training({name: value.detach() for name, value in terms.items()}, len(text))
        else:
            self._log_validation(terms, actions=mask.sum(), frames=self._predicted_frames(readout, batch))
        return terms["loss"]

    def _log_training(self, terms: dict[str, Tensor], windows: int) -> None:
        """Log the means over the batches of all processes."""
        means = dict(zip(terms, mean_of_processes(torch.stack(list(terms.values()))), strict=True))
        self.log_dict({f"train/{name}": value for name, value in means.items()}, batch_size=windows)
        self.log("loss", means["loss"], prog_bar=True, logger=False, batch_size=windows)

    def _log_validation(self, terms: dict[str, Tensor], actions: Tensor, frames: Tensor) -> None:
        """Log each term by what it is the mean of, so that Lightning's mean is that over the set, in any batches."""
        for name, value in terms.items():
            count = frames if name.startswith("forward") else actions
            options: dict[str, Any] = {"batch_size": count.clamp(min=1e-9), "on_epoch": True, "sync_dist": True}
            if name != "loss":
                self.log(f"val/{name}", value, **options)
            elif self.forward_prediction is None:
                self.log("val/loss", value, **options)
                self.log("val_loss", value, prog_bar=True, logger=False, **options)
            else:  # a sum of means of different things, made in on_validation_epoch_end
                self.log("val/action_loss", value - self._forward_weight * terms["forward_loss"], **options)

    def on_validation_epoch_end(self) -> None:
        epoch = float(self.global_step // self.steps_per_epoch)  # Lightning knows one only, of `max_steps`
        self.log("epoch", epoch, logger=False, sync_dist=True)
        if self.forward_prediction is not None:
            means = self.trainer.callback_metrics
            loss = means["val/action_loss"] + self._forward_weight * means["val/forward_loss"]
            self.log("val/loss", loss)
            self.log("val_loss", loss, prog_bar=True, logger=False)

    def _predicted_frames(self, readout: Readout, batch: Batch) -> Tensor:
        """Return the number of frames whose future is known."""
        if self.forward_prediction is None:
            return readout.valid.sum()
        return (readout.pick(batch["future_valid"]) & readout.valid).sum()

    def _forward_losses(
        self, readout: Readout, now: dict[str, Tensor], future: dict[str, Tensor], future_valid: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of forward prediction at the frames that have features."""
        assert self.forward_prediction is not None
        before, after = ({name: readout.pick(part).flatten(0, 1) for name, part in x.items()} for x in (now, future))
        mask = (readout.pick(future_valid) & readout.valid).flatten()
        predicted = self.forward_prediction(before, readout.features.flatten(0, 1))
        return forward_losses(predicted, before, after, mask)

    def network_inputs(self, batch: Batch, *, training: bool) -> tuple[NetworkInputs, Tensor, dict[str, Tensor]]:
        """Return the policy's inputs, the tokens (B, L) and the future images, augmented in training."""
        contract, augment = self.policy.contract, self.augment_config
        now, future = self._network_images(batch, training)
        if not training:
            return NetworkInputs(now, batch["proprioception"], batch["valid"]), batch["tokens"], future
        proprioception = augment.perturb_proprioception(batch["proprioception"], contract)
        dropped_id = self.policy.tokenizer.dropped_id
        tokens = augment.drop_tokens(batch["tokens"], batch["token_mask"], dropped_id)
        keep = augment.draw_cameras_to_keep(len(tokens), contract.camera_names, self.device)
        return NetworkInputs(now, proprioception, batch["valid"], keep), tokens, future

    def _network_images(self, batch: Batch, training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the current and the future images, (B, W, 3, h, w) by camera, as network input."""
        now: dict[str, Tensor] = {}
        future: dict[str, Tensor] = {}
        for camera in () if "features" in batch else self.policy.contract.cameras:
            pixels = batch["images"][camera.name]
            window = pixels.shape[1]
            if self.forward_prediction is not None:  # one draw for both: only the world may change between them
                pixels = torch.cat([pixels, batch["future_images"][camera.name]], dim=1)
            if training:
                pixels = self.augment_config.shift_images(pixels, camera.name)
            frames = images.to_network(pixels, camera)
            if training:
                frames = self.augment_config.jitter_colours(frames)
            now[camera.name], future[camera.name] = frames[:, :window], frames[:, window:]
        return now, future

    def _retain_loss(self, inputs: NetworkInputs) -> Tensor:
        """Return the distance from the teacher on some of the windows, each under a random old command."""
        count = max(1, round(self.retain_config.fraction * len(inputs.valid)))
        inputs = inputs.first(count)
        commands = self.retain_config.commands
        drawn = [commands[i] for i in torch.randint(len(commands), (count,)).tolist()]
        tokens, token_mask = (tensor.to(self.device) for tensor in self.policy.tokenize(drawn))
        teacher = self._teacher[0].to(self.device)
        with torch.no_grad():
            taught = inputs.read(teacher, teacher.encode_text(tokens, token_mask))
            target = teacher.head(taught.features, taught.valid)
        readout = inputs.read(self.policy, self.policy.encode_text(tokens, token_mask))
        actions = torch.cat([target.arm, target.gripper_logit.sigmoid()[..., None]], dim=-1)
        mask = readout.valid[..., None].expand(target.gripper_logit.shape)
        return self.policy.head.losses(readout.features, actions, mask, self.loss_config)["loss"]

    def deployable(self) -> Policy:
        """Return the policy for a checkpoint, with adapters merged into its weights; this ends the training."""
        if isinstance(self.policy.backbone, VlmBackbone) and self.optimizer_config.lora is not None:
            merge_adapters(self.policy.backbone.model)
        return self.policy

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the contract with the weights, which mean nothing without its statistics and tokenizer."""
        checkpoint["contract"] = self.policy.contract.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_contract(checkpoint, self.policy.contract)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW and its schedule, which Lightning steps once per optimizer step."""
        config = self.optimizer_config
        groups = parameter_groups(self, config.weight_decay, config.backbone_learning_rate)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: config.learning_rate_scale(step, self.max_steps, self.steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def check_same_contract(checkpoint: dict[str, Any], contract: PolicyContract) -> None:
    """Raise ContractError if the weights of a Lightning `checkpoint` belong to another contract."""
    written = checkpoint.get("contract", "{}")
    if written != contract.to_json():
        old, new = json.loads(written), json.loads(contract.to_json())
        other = [key for key, value in new.items() if old.get(key) != value]
        raise ContractError(
            f"the run to resume has another contract (different: {', '.join(other)}), so it was started with other "
            "demonstrations or another recipe; use the same ones, or start a new run with another --name and "
            "without --resume"
        )


def _check_cameras(augment: AugmentConfig, cameras: Sequence[str]) -> None:
    for key, chosen in (("shift_px", augment.shift_px), ("camera_dropout", augment.camera_dropout)):
        for camera in chosen:
            if camera not in cameras:
                raise ContractError(
                    f"augment.{key} names the camera {camera!r}; it must be one of the policy's: {', '.join(cameras)}"
                )
