# SPDX-License-Identifier: Apache-2.0
"""The policy: a backbone that encodes frames and a head over the history. Its contract states all its assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vla_ros.contract import ContractError, PolicyContract
from vla_ros.policy.backbones import BACKBONES
from vla_ros.policy.backbones.backbone import Backbone
from vla_ros.policy.config import PolicyConfig
from vla_ros.policy.heads import HEADS
from vla_ros.policy.heads.head import ActionPrediction, Head, History, Readout, slide
from vla_ros.policy.tokenizer import CommandTokenizer


class Policy(nn.Module):
    """Images, proprioception and a command -> chunks of normalised actions.

    Shapes: B windows, W frames per window (history), F frames, N actions per chunk, P proprioceptive values, L tokens,
    D frame feature. Text features are whatever the backbone's `encode_text` returns.

    Args:
        model: a vision-language model with the configuration in `config`; None builds one with random weights.

    Raises:
        ContractError: the contract names another backbone, head or tokenizer.
    """

    proprioception_mean: Tensor
    proprioception_std: Tensor

    def __init__(
        self,
        contract: PolicyContract,
        config: PolicyConfig,
        tokenizer: CommandTokenizer,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check(contract, config, tokenizer)
        self.contract = contract
        self.config = config
        self.tokenizer = tokenizer
        mean = contract.proprioception.mean if contract.proprioception else ()
        std = contract.proprioception.std if contract.proprioception else ()
        # Not persistent: statistics are saved in the contract, and a second copy could differ from it.
        self.register_buffer("proprioception_mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("proprioception_std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.backbone: Backbone = BACKBONES[config.backbone](
            camera_sizes={camera.name: (camera.height, camera.width) for camera in contract.cameras},
            proprioception_size=len(mean),
            tokenizer=tokenizer,
            config=getattr(config, config.backbone),
            **({} if model is None else {"model": model}),
        )
        self.head: Head = HEADS[config.head](
            feature_size=self.backbone.feature_size,
            chunk=contract.timing.chunk,
            history=contract.timing.history,
            config=getattr(config, config.head),
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.proprioception_mean.device

    def tokenize(self, commands: Sequence[str], *, fixed_length: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens and token_mask (B, L) of commands, in the contract's prompt template.

        Args:
            fixed_length: pad to the contract's `max_tokens` instead of the longest command.
        """
        language = self.contract.language
        prompts = [language.prompt(command) for command in commands]
        return self.tokenizer.batch(prompts, language.max_tokens, fixed_length=fixed_length)

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> Any:
        """Return the backbone's text features of `tokens` (B, L)."""
        return self.backbone.encode_text(tokens, token_mask)

    def encode(
        self, images: Mapping[str, Tensor], proprioception: Tensor, text: Any, camera_keep: Tensor | None = None
    ) -> Tensor:
        """Return the backbone's encoding (F, ...) of frames.

        Args:
            images: camera name -> (F, 3, h, w), as from `images.to_network`.
            proprioception: (F, P) in the contract's units.
            text: features of the F commands.
            camera_keep: (F, cameras) of 0 and 1, in training only.
        """
        standardised = (proprioception - self.proprioception_mean) / self.proprioception_std
        return self.backbone.encode(images, standardised, text, camera_keep)

    def forward(
        self,
        images: Mapping[str, Tensor],
        proprioception: Tensor,
        text: Any,
        valid: Tensor,
        camera_keep: Tensor | None = None,
    ) -> ActionPrediction:
        """Predict a chunk at every position of the readout; takes the arguments of `read`."""
        readout = self.read(images, proprioception, text, valid, camera_keep)
        prediction: ActionPrediction = self.head(readout.features, readout.valid)
        return prediction

    def read(
        self,
        images: Mapping[str, Tensor],
        proprioception: Tensor,
        text: Any,
        valid: Tensor,
        camera_keep: Tensor | None = None,
    ) -> Readout:
        """Return the features of B windows, which the head predicts from; only valid frames are encoded.

        Args:
            images: camera name -> (B, W, 3, h, w).
            proprioception: (B, W, P).
            text: features of the B commands.
            valid: (B, W), True on frames, which come first.
            camera_keep: (B, cameras) of 0 and 1, the same for all frames of a window.
        """
        window = torch.nonzero(valid)[:, 0]  # (F,) the window of each frame
        frames = self.encode(
            {name: frames[valid] for name, frames in images.items()},
            proprioception[valid],
            text[window],
            None if camera_keep is None else camera_keep[window],
        )
        padded = frames.new_zeros(*valid.shape, *frames.shape[1:])
        padded[valid] = frames
        return self.backbone.read(padded, valid, text)

    def step(
        self, images: Mapping[str, Tensor], proprioception: Tensor, text: Any, state: History | None
    ) -> tuple[ActionPrediction, History]:
        """Predict for the newest frame: what `forward` predicts at the end of the window of the last W frames.

        Pure, with the same operations and shapes at every step, so that it can be compiled or captured. Only the newest
        frame is encoded; the state is the window of earlier encodings. The head computes in float32 regardless of
        autocast: it is small, and its outputs are velocities.

        Args:
            images: camera name -> (B, 3, h, w).
            proprioception: (B, P).
            text: features of the B commands.
            state: as returned by the last step; None at the start.

        Returns:
            The chunk, arm (B, N, 6) and gripper_logit (B, N), and the state for the next step.
        """
        frame = self.encode(images, proprioception, text)
        if self.backbone.fuses_time:
            state = slide(state, frame, self.contract.timing.history)
            readout = self.backbone.read(state.frames, state.valid, text)
            with torch.autocast(frame.device.type, enabled=False):
                return self.head.newest(readout.features.float(), readout.valid), state
        with torch.autocast(frame.device.type, enabled=False):
            return self.head.step(frame.float(), state)


def _check(contract: PolicyContract, config: PolicyConfig, tokenizer: CommandTokenizer) -> None:
    names: tuple[tuple[str, str, Mapping[str, object]], ...] = (
        ("backbone", config.backbone, BACKBONES),
        ("head", config.head, HEADS),
    )
    for key, name, known in names:
        if name not in known:
            raise ContractError(f"{key} is {name!r}; it must be one of {', '.join(known)}")
    for key, stated, given in (
        ("backbone", contract.provenance.backbone, config.backbone),
        ("head", contract.provenance.head, config.head),
        ("tokenizer", contract.language.tokenizer, tokenizer.identity),
    ):
        if stated != given:
            raise ContractError(
                f"the contract states the {key} {stated!r}, but the checkpoint contains {given!r}; do not mix files of "
                "different checkpoints"
            )
