# SPDX-License-Identifier: Apache-2.0
"""What all heads share: the window in training, one frame at a time on the robot, and the loss."""

from __future__ import annotations

from torch import Tensor, nn

from vla_ros.policy.history import History, at_end, slide
from vla_ros.policy.losses import LossConfig, action_loss
from vla_ros.policy.prediction import ActionPrediction


class Head(nn.Module):
    """Features of the last frames -> an action chunk at every frame.

    A head is two functions: ``context`` fuses time and must be causal, ``decode`` turns one position into a chunk.
    Everything else follows from them, so that a window in training and the stream on the robot are one computation.

    Shapes: B windows, W frames, D features, C context, N actions a chunk.

    Args:
        chunk: N.
        history: how many of the newest frames the prediction depends on.
        context_size: C.

    Wherever ``added`` is an argument, it is what is added to the context, of committed actions for instance.
    """

    def __init__(self, *, chunk: int, history: int, context_size: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.history = history
        self.context_size = context_size

    def context(self, features: Tensor) -> Tensor:
        """Return (B, W, C) for ``features`` (B, W, D), oldest first; position t depends on positions up to t only."""
        raise NotImplementedError

    def decode(self, context: Tensor) -> ActionPrediction:
        """Return the chunks (B, W, N, ...) of ``context`` (B, W, C); positions do not see each other."""
        raise NotImplementedError

    def context_with(self, features: Tensor, added: Tensor | None) -> Tensor:
        """Return ``context``, plus ``added`` (B, W, C) where there is any."""
        context = self.context(features)
        return context if added is None else context + added

    def forward(self, features: Tensor, valid: Tensor, added: Tensor | None = None) -> ActionPrediction:
        """Predict at every position.

        Args:
            features: (B, W, D), oldest first.
            valid: (B, W), True on frames; they come first, padding is on the right, so that it cannot reach a valid
                position. Predictions at padding are zero.
            added: (B, W, C) or None.
        """
        prediction = self.decode(self.context_with(features, added))
        mask = valid[..., None]
        return ActionPrediction(prediction.arm * mask[..., None], prediction.gripper_logit * mask)

    def step(
        self, feature: Tensor, state: History | None, added: Tensor | None = None
    ) -> tuple[ActionPrediction, History]:
        """Predict for the newest frame only: what ``forward`` says at the end of the window of the last W frames.

        Pure: one head serves any number of robots. The state is a window of features and the head runs over it from
        the start at each step, exactly as in training, where a recurrent state that is carried on forever is not.

        Args:
            feature: (B, D) of the newest frame.
            state: what the last step returned, None at the start.
            added: (B, C) or None.

        Returns:
            The chunk, arm (B, N, 6) and gripper_logit (B, N), and the state for the next step.
        """
        state = slide(state, feature, self.history)
        return self.newest(state.frames, state.valid, added), state

    def newest(self, features: Tensor, valid: Tensor, added: Tensor | None = None) -> ActionPrediction:
        """Return the chunk, arm (B, N, 6) and gripper_logit (B, N), of the last valid one of ``features`` (B, W, D)."""
        context = at_end(self.context(features), valid)
        arm, gripper_logit = self.decode((context if added is None else context + added)[:, None])
        return ActionPrediction(arm[:, 0], gripper_logit[:, 0])

    def losses(
        self, features: Tensor, actions: Tensor, mask: Tensor, config: LossConfig, added: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return every term by name; ``loss`` is what to minimise, the others are for the log or parts of it.

        Args:
            features: (B, W, D).
            actions: (B, W, N, 7) normalised, gripper opening in [0, 1] last.
            mask: (B, W, N), True where the action exists and is to be learned.
            added: (B, W, C) or None.
        """
        return action_loss(self.decode(self.context_with(features, added)), actions, mask, config)
