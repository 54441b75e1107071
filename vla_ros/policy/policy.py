# SPDX-License-Identifier: Apache-2.0
"""The policy: a backbone per frame, a head over the history. Everything that it assumes stands in its contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vla_ros.contract import ContractError, PolicyContract
from vla_ros.policy.backbones import BACKBONES
from vla_ros.policy.committed import CommittedActions
from vla_ros.policy.config import PolicyConfig
from vla_ros.policy.heads import HEADS
from vla_ros.policy.heads.head import Head
from vla_ros.policy.history import History, slide
from vla_ros.policy.prediction import ActionPrediction, Readout
from vla_ros.policy.tokenizer import CommandTokenizer


class Policy(nn.Module):
    """Images, proprioception and a command -> chunks of normalised actions.

    Shapes: B windows, W frames a window (history), F frames, N actions a chunk, P proprioceptive values, L tokens,
    E text feature, D frame feature.

    Args:
        model: a vision-language model to take as it is, of the configuration that ``config`` has; None makes one.

    Raises:
        ContractError: the contract names another backbone, head or tokenizer than it is given.
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
        # Statistics live in the contract; a copy among the weights could differ from it.
        self.register_buffer("proprioception_mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("proprioception_std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.backbone = BACKBONES[config.backbone](
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
        self.committed: CommittedActions | None = None
        if config.max_delay_steps:
            self.committed = CommittedActions(
                max_delay_steps=config.max_delay_steps, context_size=self.head.context_size
            )

    def learn_delays(self, max_delay_steps: int) -> None:
        """Let a policy be told of so many committed actions; until it is trained they change nothing.

        Raises:
            ContractError: a chunk has no more actions than that.
            ValueError: the policy can be told of some already, or ``max_delay_steps`` is negative.
        """
        if self.config.max_delay_steps:
            raise ValueError(f"the policy can be told of {self.config.max_delay_steps} committed actions already")
        config = dataclasses.replace(self.config, max_delay_steps=max_delay_steps)
        _check(self.contract, config, self.tokenizer)
        self.config = config
        committed = CommittedActions(max_delay_steps=max_delay_steps, context_size=self.head.context_size)
        committed.silence()
        self.committed = committed.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.proprioception_mean.device

    def tokenize(self, commands: Sequence[str], *, fixed_length: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L) and token_mask (B, L) of commands, through the contract's prompt template.

        Args:
            fixed_length: pad to the contract's ``max_tokens`` and not to the longest.
        """
        language = self.contract.language
        prompts = [language.prompt(command) for command in commands]
        return self.tokenizer.batch(prompts, language.max_tokens, fixed_length=fixed_length)

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Return text features (B, E)."""
        return self.backbone.encode_text(tokens, token_mask)

    def encode(
        self, images: Mapping[str, Tensor], proprioception: Tensor, text: Tensor, camera_keep: Tensor | None = None
    ) -> Tensor:
        """Return features (F, D).

        Args:
            images: camera name -> (F, 3, h, w), as from ``images.to_network``.
            proprioception: (F, P) in the contract's units.
            text: (F, E).
            camera_keep: (F, cameras) of 0 and 1, in training only.
        """
        return self.backbone.encode(images, self.standardised(proprioception), text, camera_keep)

    def standardised(self, proprioception: Tensor) -> Tensor:
        """Return proprioception (..., P) as backbones take it, in standard deviations of the training data."""
        return (proprioception - self.proprioception_mean) / self.proprioception_std

    def forward(
        self,
        images: Mapping[str, Tensor],
        proprioception: Tensor,
        text: Tensor,
        valid: Tensor,
        camera_keep: Tensor | None = None,
    ) -> ActionPrediction:
        """Predict a chunk at every position that ``read`` returns, with its arguments."""
        readout = self.read(images, proprioception, text, valid, camera_keep)
        return self.head(readout.features, readout.valid)

    def read(
        self,
        images: Mapping[str, Tensor],
        proprioception: Tensor,
        text: Tensor,
        valid: Tensor,
        camera_keep: Tensor | None = None,
    ) -> Readout:
        """Return the features of B windows, which the head predicts from; only valid frames are encoded.

        Args:
            images: camera name -> (B, W, 3, h, w).
            proprioception: (B, W, P).
            text: (B, E).
            valid: (B, W), True on frames, which come first.
            camera_keep: (B, cameras) of 0 and 1, the same for all frames of a window.
        """
        window = torch.nonzero(valid)[:, 0]  # (F,) which window a frame is of
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
        self,
        images: Mapping[str, Tensor],
        proprioception: Tensor,
        text: Tensor,
        state: History | None,
        prefix: Tensor | None = None,
        delay_steps: Tensor | None = None,
    ) -> tuple[ActionPrediction, History]:
        """Predict for the newest frame: what ``forward`` says at the end of the window of the last W frames.

        Pure, and of the same operations and shapes at every step: only values differ, so it can be compiled or
        captured. Only the newest frame is encoded; the state is the window of what was encoded before. The head
        computes in float32, whatever autocast says: it is small, and its outputs are velocities.

        Args:
            images: camera name -> (B, 3, h, w).
            proprioception: (B, P).
            text: (B, E).
            state: what the last step returned, None at the start.
            prefix: (D, 7), or (B, D, 7), for policies that were trained with delays: the actions that are committed
                already for the first D ticks of the chunk, as ``actions.network_commitment`` makes them.
                None is D = 0.
            delay_steps: (B,), how many rows of the prefix count; None: all.

        Returns:
            The chunk, arm (B, N, 6) and gripper_logit (B, N), and the state for the next step. What the chunk says
            about its first D ticks means nothing: these are decided.

        Raises:
            ValueError: the policy can't be told of so many committed actions.
        """
        added = self._added(prefix, delay_steps, len(proprioception))
        frame = self.encode(images, proprioception, text)
        if self.backbone.fuses_time:
            state = slide(state, frame, self.contract.timing.history)
            readout = self.backbone.read(state.frames, state.valid, text)
            with torch.autocast(frame.device.type, enabled=False):
                return self.head.newest(readout.features.float(), readout.valid, added), state
        with torch.autocast(frame.device.type, enabled=False):
            return self.head.step(frame.float(), state, added)

    def check_delay(self, steps: int) -> None:
        """Raise ValueError where the policy can't be told of ``steps`` committed actions."""
        longest = self.config.max_delay_steps
        if steps > longest:
            raise ValueError(
                f"the prefix has {steps} committed actions; allowed: up to max_delay_steps = {longest}, "
                "which is what the policy was trained with (policy.max_delay_steps of its recipe)"
            )

    def _added(self, prefix: Tensor | None, delay_steps: Tensor | None, batch: int) -> Tensor | None:
        """Return what committed actions (D, 7) or (B, D, 7) add to the head's context (B, C)."""
        if prefix is None or prefix.shape[-2] == 0:
            return None
        self.check_delay(prefix.shape[-2])
        assert self.committed is not None  # as max_delay_steps is positive
        if delay_steps is None:
            delay_steps = torch.full((batch,), prefix.shape[-2], device=prefix.device)
        with torch.autocast(prefix.device.type, enabled=False):
            return self.committed(prefix.expand(batch, *prefix.shape[-2:]), delay_steps)


def _check(contract: PolicyContract, config: PolicyConfig, tokenizer: CommandTokenizer) -> None:
    for what, name, known in (("backbone", config.backbone, BACKBONES), ("head", config.head, HEADS)):
        if name not in known:
            raise ContractError(f"{what} is {name!r}; allowed: {', '.join(known)}")
    for what, stated, given in (
        ("backbone", contract.provenance.backbone, config.backbone),
        ("head", contract.provenance.head, config.head),
        ("tokenizer", contract.language.tokenizer, tokenizer.identity),
    ):
        if stated != given:
            raise ContractError(
                f"the contract states the {what} {stated!r}, but the checkpoint holds {given!r}; "
                "use the files of one checkpoint together"
            )
    if config.max_delay_steps >= contract.timing.chunk:
        raise ContractError(
            f"policy.max_delay_steps is {config.max_delay_steps}, but a chunk has {contract.timing.chunk} actions; "
            "allowed: less"
        )
