# SPDX-License-Identifier: Apache-2.0
"""What all heads share: their inputs and outputs, the history window, and the default loss.

Shapes: B windows, W frames, K features, D feature size, C context size, N actions per chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from vla_ros.policy.config import LossConfig

ARM_SIZE = 6
ACTION_SIZE = ARM_SIZE + 1


class ActionPrediction(NamedTuple):
    """One chunk per position; the first action of a chunk belongs to the frame at that position."""

    arm: Tensor  # (B, W, N, 6), normalised
    gripper_logit: Tensor  # (B, W, N), positive = open


class Readout(NamedTuple):
    """The features that a backbone reads from B windows, oldest first.

    `frames` maps features to frames of the window; None if there is one feature per frame.
    """

    features: Tensor  # (B, K, D)
    valid: Tensor  # (B, K), True on features, which come first
    frames: Tensor | None = None  # (B, K)

    def pick(self, values: Tensor) -> Tensor:
        """Return the rows (B, K, ...) of per-frame `values` (B, W, ...) that belong to the features."""
        if self.frames is None:
            return values
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.frames]


class History(NamedTuple):
    """The last frames of B streams, padded as in training: oldest first, zeros at the end.

    Its shape never changes, so that a step can be compiled or captured.
    """

    frames: Tensor  # (B, W, ...)
    seen: Tensor  # (B,) long, the number of frames present

    @property
    def valid(self) -> Tensor:
        """Mask (B, W), True on frames that are present."""
        return torch.arange(self.frames.shape[1], device=self.frames.device) < self.seen[:, None]


def slide(history: History | None, newest: Tensor, length: int) -> History:
    """Append `newest` (B, ...) to `history`, dropping the oldest frame if it holds `length`; None starts a new one.

    The operations do not depend on any value: the same ones run at every step.
    """
    if history is None:
        frames = newest.new_zeros(len(newest), length, *newest.shape[1:])
        history = History(frames, torch.zeros(len(newest), dtype=torch.long, device=newest.device))
    slot = torch.arange(length, device=newest.device)
    full = (history.seen == length).long()  # (B,)
    source = (slot + full[:, None]).clamp(max=length - 1)  # (B, W)
    ones = [1] * (newest.ndim - 1)
    kept = history.frames.gather(1, source.view(*source.shape, *ones).expand(history.frames.shape))
    last = history.seen - full  # slot of the newest frame
    placed = torch.where((slot == last[:, None]).view(*source.shape, *ones), newest[:, None], kept)
    # Absent frames must be zero, not merely masked: attention weights them with 0, and 0 times NaN is NaN.
    present = (slot <= last[:, None]).view(*source.shape, *ones)
    return History(torch.where(present, placed, 0), last + 1)


def at_end(values: Tensor, valid: Tensor) -> Tensor:
    """Return the last valid row (B, ...) of `values` (B, W, ...); `valid` (B, W) starts with its True entries."""
    return values[torch.arange(len(values), device=values.device), valid.sum(dim=1) - 1]


class Head(nn.Module):
    """Features of the last frames -> an action chunk at every frame.

    A head defines two functions: `context` fuses time, causally, and `decode` turns one position into a chunk. All else
    follows from them, so that a window in training and a stream on the robot are the same computation.

    Args:
        chunk: N.
        history: the number of newest frames that the prediction depends on.
    """

    def __init__(self, *, chunk: int, history: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.history = history

    def context(self, features: Tensor) -> Tensor:
        """Return (B, W, C) for `features` (B, W, D), oldest first; position t depends on positions up to t only."""
        raise NotImplementedError

    def decode(self, context: Tensor) -> ActionPrediction:
        """Return the chunks (B, W, N, ...) for `context` (B, W, C), each position by itself."""
        raise NotImplementedError

    def forward(self, features: Tensor, valid: Tensor) -> ActionPrediction:
        """Predict at every position.

        Args:
            features: (B, W, D), oldest first.
            valid: (B, W), True on frames. Padding is on the right, where it cannot reach a valid position; predictions
                at padding are zero.
        """
        prediction = self.decode(self.context(features))
        mask = valid[..., None]
        return ActionPrediction(prediction.arm * mask[..., None], prediction.gripper_logit * mask)

    def step(self, feature: Tensor, state: History | None) -> tuple[ActionPrediction, History]:
        """Predict for the newest frame: what `forward` predicts at the end of the window of the last W frames.

        Pure: one head serves any number of robots. The state is a window of features, and the head runs over it from
        the start at each step, exactly as in training; a recurrent state carried on forever would differ.

        Args:
            feature: (B, D) of the newest frame.
            state: as returned by the last step; None at the start.

        Returns:
            The chunk, arm (B, N, 6) and gripper_logit (B, N), and the state for the next step.
        """
        state = slide(state, feature, self.history)
        return self.newest(state.frames, state.valid), state

    def newest(self, features: Tensor, valid: Tensor) -> ActionPrediction:
        """Return the chunk, arm (B, N, 6) and gripper_logit (B, N), at the last valid of `features` (B, W, D)."""
        arm, gripper_logit = self.decode(at_end(self.context(features), valid)[:, None])
        return ActionPrediction(arm[:, 0], gripper_logit[:, 0])

    def losses(self, features: Tensor, actions: Tensor, mask: Tensor, config: LossConfig) -> dict[str, Tensor]:
        """Return the loss terms by name: `loss` is minimised, the others are logged.

        Args:
            features: (B, W, D).
            actions: (B, W, N, 7) normalised, gripper opening in [0, 1] last.
            mask: (B, W, N), True on actions to learn from.
        """
        return action_loss(self.decode(self.context(features)), actions, mask, config)


def split_actions(values: Tensor) -> ActionPrediction:
    """Return `values` (..., N, 7), six arm axes and the gripper's logit, as a prediction."""
    return ActionPrediction(arm=values[..., :ARM_SIZE], gripper_logit=values[..., ARM_SIZE])


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` is True; zero, with zero gradient, if it is True nowhere.

    In distributed training the mean of the processes' results is the mean over all their batches. In validation,
    without gradients, processes may have different numbers of batches, and each returns its own mean.
    """
    count = mask.sum()
    if not (_several_processes() and torch.is_grad_enabled()):
        return (values * mask).sum() / count.clamp(min=1)
    total = count.to(torch.float32)
    distributed.all_reduce(total)
    return (values * mask).sum() / (total.clamp(min=1) / distributed.get_world_size())


def mean_of_processes(values: Tensor) -> Tensor:
    """Return the mean of `values` over the processes that train together."""
    if _several_processes():
        distributed.all_reduce(values)
        values = values / distributed.get_world_size()
    return values


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def action_loss(prediction: ActionPrediction, actions: Tensor, mask: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Return Huber loss on the arm plus cross-entropy on the gripper; arguments as for `Head.losses`.

    The Huber loss is divided by its delta: with slope 1 far out, `gripper_weight` and gradient clipping mean the same
    for every delta.
    """
    arm_target, opening = actions[..., :ARM_SIZE], actions[..., ARM_SIZE]
    huber = F.smooth_l1_loss(prediction.arm, arm_target, beta=config.huber_delta, reduction="none").mean(dim=-1)
    entropy = F.binary_cross_entropy_with_logits(prediction.gripper_logit, opening, reduction="none")
    return weighted_loss(huber, entropy, mask, config) | action_errors(prediction, actions, mask)


def weighted_loss(arm: Tensor, gripper: Tensor, mask: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Return the total and the masked means of the losses (B, W, N) of arm and gripper."""
    arm_loss, gripper_loss = masked_mean(arm, mask), masked_mean(gripper, mask)
    loss = arm_loss + config.gripper_weight * gripper_loss
    return {"loss": loss, "arm_loss": arm_loss, "gripper_loss": gripper_loss}


def action_errors(prediction: ActionPrediction, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return metrics that all heads share: the arm's mean absolute error and the gripper's accuracy."""
    arm_target, opening = actions[..., :ARM_SIZE], actions[..., ARM_SIZE]
    correct = (prediction.gripper_logit > 0) == (opening > 0.5)
    return {
        "arm_l1": masked_mean((prediction.arm - arm_target).abs().mean(dim=-1), mask).detach(),
        "gripper_accuracy": masked_mean(correct.to(arm_target.dtype), mask).detach(),
    }
