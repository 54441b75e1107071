# SPDX-License-Identifier: Apache-2.0
"""A vision-language model as backbone: frames and the command as one sequence, a learned token reads the feature out.

    policy_head   [command] [frame] R                      each frame alone; the head fuses time
    interleaved   [command] [frame] R [frame] R ...        a feature after every frame, which sees the frames before
    video         [command] [frame] [frame] ... R          one feature, after the newest frame

A frame is the image tokens of every camera, in the contract's order, and one token of the proprioception. Families that
learned to see images first get [frame] [command] R; with ``layout`` "robovlms" it is [command's first token] [frame]
[rest of the command] R. Positions are counted over what is there, not over padding, so that neither the longest command
of a batch nor a short history changes a feature.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vla_ros.policy.backbones.families import FAMILIES, Family, Sequence
from vla_ros.policy.backbones.parts import EmbeddedText, Part, image_positions, plain_part
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.prediction import Readout
from vla_ros.policy.tokenizer import CommandTokenizer

PROPRIOCEPTION_LIMIT = 5.0  # standard deviations; further out the robot is where no demonstration was
_FIRST, _REST = slice(0, 1), slice(1, None)


class VlmBackbone(nn.Module):
    """A model of one of the ``FAMILIES``, whole.

    See ``VlmConfig`` for the modes and ``backbones/__init__.py`` for the methods.

    Args:
        camera_sizes: camera name -> (height, width) of its network input, which the model must accept.
        proprioception_size: P, 0 for none.
        tokenizer: its padding and dropped tokens embed to zero: the model was not trained with them, and where its
            table has rows to spare, theirs are noise.
        model: taken as it is where it is given; None makes one of ``config.model`` with random weights.

    Raises:
        ValueError: the model is of no known family, can't take a camera's size, or can't do the history mode.
    """

    around_image: Tensor

    pools_text = False

    def __init__(
        self,
        *,
        camera_sizes: Mapping[str, tuple[int, int]],
        proprioception_size: int,
        tokenizer: CommandTokenizer,
        config: VlmConfig,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = build_model(config.model) if model is None else model
        kind: str = self.model.config.model_type  # type: ignore[union-attr,assignment]
        self._families = [FAMILIES[kind](self.model)]  # a list: not a module itself
        self._blank = (tokenizer.padding_id, tokenizer.dropped_id)
        rows = self.family.embedding.num_embeddings
        if any(number not in self._blank for number in range(rows, tokenizer.vocabulary_size)):
            raise ValueError(
                f"the tokenizer has {tokenizer.vocabulary_size} tokens, the vision-language model embeds {rows}; use "
                "the model's own tokenizer (vlm.pretrained), or a smaller contract.vocabulary_size"
            )
        self.mode = config.history_mode
        self.layout = config.layout
        self.fuses_time = config.history_mode != "policy_head"
        if self.fuses_time and not self.family.sequences:
            raise ValueError(
                f"vlm.history_mode is {config.history_mode!r}, which {config.model['model_type']} can't do: all its "
                "tokens see each other; allowed: 'policy_head'"
            )
        if self.layout == "robovlms" and not self.family.sequences:
            raise ValueError(f"vlm.layout is 'robovlms', which {config.model['model_type']} can't do; allowed: 'own'")
        self.feature_size = self.family.hidden_size
        self.camera_sizes = dict(camera_sizes)
        around = torch.tensor(config.around_image, dtype=torch.long)
        self.register_buffer("around_image", around, persistent=False)
        self._tokens = {name: self._count_tokens(name, *size) for name, size in camera_sizes.items()}
        self.readout = nn.Parameter(0.02 * torch.randn(self.feature_size))
        self.proprioception = nn.Linear(proprioception_size, self.feature_size) if proprioception_size else None

    @property
    def family(self) -> Family:
        """What is special about the model."""
        return self._families[0]

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> EmbeddedText:
        """Return the embedded commands ``tokens`` (B, L)."""
        blank = (tokens == self._blank[0]) | (tokens == self._blank[1])
        embeddings = self.family.embedding(tokens.masked_fill(blank, 0)) * ~blank[..., None]
        return EmbeddedText(embeddings, token_mask)

    def encode(
        self,
        images: Mapping[str, Tensor],
        proprioception: Tensor,
        text: EmbeddedText,
        camera_keep: Tensor | None = None,
    ) -> Tensor:
        """Return the feature (F, D) of each of F frames alone, or its tokens (F, T, E) where ``read`` fuses time.

        Args:
            images: camera name -> (F, 3, h, w), normalised.
            proprioception: (F, P), standardised.
            text: of the F frames' commands.
            camera_keep: (F, cameras) of 0 and 1; where 0, that camera's tokens are zero (camera dropout).
        """
        frame = self._frame(images, proprioception, camera_keep)
        return frame if self.fuses_time else self._read_sequence(frame[:, None], _all(frame[:, None]), text)[:, 0]

    def read(self, frames: Tensor, valid: Tensor, text: EmbeddedText) -> Readout:
        """Return the features of windows ``frames`` (B, W, ...), ``valid`` (B, W): of every frame, or of the last."""
        if not self.fuses_time:
            return Readout(frames, valid)
        features = self._read_sequence(frames, valid, text)
        if self.mode == "interleaved":
            return Readout(features, valid)
        last = valid.sum(dim=1, keepdim=True) - 1  # (B, 1)
        return Readout(features, last >= 0, last.clamp(min=0))

    def _frame(self, images: Mapping[str, Tensor], proprioception: Tensor, camera_keep: Tensor | None) -> Tensor:
        """Return the tokens (F, T, E) of frames: the cameras', each with its marks, then one of the proprioception."""
        if len(set(self.camera_sizes.values())) == 1:  # one pass of the vision tower
            together = self.family.see(torch.cat([images[name] for name in self.camera_sizes]))
            seen = list(together.chunk(len(self.camera_sizes)))
        else:
            seen = [self.family.see(images[name]) for name in self.camera_sizes]
        if camera_keep is not None:
            seen = [tokens * camera_keep[:, index, None, None] for index, tokens in enumerate(seen)]
        if len(self.around_image):
            before, after = self._widen(self.family.embedding(self.around_image)).split(1)  # each (1, E)
            around = [token.expand(len(proprioception), 1, -1) for token in (before, after)]
            seen = [torch.cat([around[0], tokens, around[1]], dim=1) for tokens in seen]
        if self.proprioception is not None:
            bounded = proprioception.clamp(-PROPRIOCEPTION_LIMIT, PROPRIOCEPTION_LIMIT)
            seen.append(self._widen(self.proprioception(bounded)[:, None]))
        return torch.cat(seen, dim=1)

    def _widen(self, tokens: Tensor) -> Tensor:
        """Return ``tokens`` (..., H) with zeros up to the size E of image tokens."""
        return nn.functional.pad(tokens, (0, self.family.embedding_size - tokens.shape[-1]))

    def _read_sequence(self, frames: Tensor, valid: Tensor, text: EmbeddedText) -> Tensor:
        """Return the language model's states (B, K, H) at the readout tokens of windows ``frames`` (B, W, T, E)."""
        parts, readouts = self._layout(frames, valid, text)
        states, ends = self._run(parts)
        # Not by a tensor of indices: that would have to be brought to the device, at every step.
        return torch.stack([states[:, ends[index] - 1] for index in readouts], dim=1)

    def _run(self, parts: list[Part]) -> tuple[Tensor, list[int]]:
        """Return the language model's states (B, S, H) over ``parts`` in order, and where each part ends."""
        first = parts[0].valid
        start = torch.zeros(len(first), dtype=torch.long, device=first.device)
        positions = []
        for part in parts:
            positions.append(start[:, None] + part.offsets)  # (3, B, s)
            start = start + part.advance
        sequence = Sequence(
            embeddings=torch.cat([part.embeddings for part in parts], dim=1),
            valid=torch.cat([part.valid for part in parts], dim=1),
            positions=torch.cat(positions, dim=2),
            blocks=torch.cat([torch.full_like(part.valid, part.block, dtype=torch.long) for part in parts], dim=1),
            visual=torch.cat([torch.full_like(part.valid, part.visual) for part in parts], dim=1),
        )
        ends = list(itertools.accumulate(part.embeddings.shape[1] for part in parts))
        return self.family.run(sequence), ends

    def _layout(self, frames: Tensor, valid: Tensor, text: EmbeddedText) -> tuple[list[Part], list[int]]:
        """Return the parts of the sequences in order, and the indices of those that end with a readout token."""
        alone = frames.shape[1] == 1 and not self.fuses_time
        prefix = self.family.looks_ahead == "prefix" and alone
        if self.layout == "robovlms":
            *seen, tail = self._frame_parts(frames[:, 0], valid[:, 0], readout=True, first_block=0)
            first, rest = (self._command_part(text[:, part], 0 if prefix else -1) for part in (_FIRST, _REST))
            return [first, *seen, rest, tail], [len(seen) + 2]
        command = self._command_part(text, block=0 if prefix else -1)
        if alone and self.family.images_first:
            *seen, tail = self._frame_parts(frames[:, 0], valid[:, 0], readout=True, first_block=0)
            parts = [*seen, command, tail] if self.family.sequences else [*seen, tail, command]
            return parts, [len(seen) + (1 if self.family.sequences else 0)]
        parts, readouts = [command], []
        for index in range(frames.shape[1]):
            each = self.mode != "video"
            parts += self._frame_parts(frames[:, index], valid[:, index], readout=each, first_block=len(parts))
            readouts += [len(parts) - 1] if each else []
        if self.mode == "video":
            parts.append(self._tail_part(frames.new_zeros(len(frames), 0, frames.shape[-1]), valid.any(dim=1), True))
            readouts.append(len(parts) - 1)
        return parts, readouts

    def _command_part(self, text: EmbeddedText, block: int) -> Part:
        offsets = (text.mask.long().cumsum(dim=1) - 1).clamp(min=0)
        embeddings = self._widen(text.embeddings)
        return Part(embeddings, text.mask, offsets.expand(3, -1, -1), text.mask.sum(dim=1), block=block)

    def _frame_parts(self, tokens: Tensor, valid: Tensor, *, readout: bool, first_block: int) -> list[Part]:
        """Return the parts of the cameras in ``tokens`` (B, T, E), and the rest of the frame with its readout token."""
        parts, rest = [], tokens
        marks = len(self.around_image) // 2
        for index, (name, size) in enumerate(self.camera_sizes.items()):
            counts = [marks, self._tokens[name], marks]
            before, image, after, rest = rest.split([*counts, rest.shape[1] - sum(counts)], dim=1)
            offsets, advance = image_positions(counts[1], self.family.grid(*size), tokens.device)
            block = {"nowhere": -1, "image": first_block + index, "prefix": first_block}[self.family.looks_ahead]
            mark_block = first_block if self.family.looks_ahead == "prefix" else -1
            there = valid[:, None].expand(image.shape[:2])
            offsets = offsets[:, None].expand(-1, len(image), -1)
            parts += [
                plain_part(before, valid, mark_block),
                Part(image, there, offsets, valid * advance, block, visual=True),
                plain_part(after, valid, mark_block),
            ]
        return [*parts, self._tail_part(rest, valid, readout)]

    def _tail_part(self, rest: Tensor, valid: Tensor, readout: bool) -> Part:
        """Return the tokens ``rest`` (B, s, E), s >= 0, and the readout token after them."""
        if readout:
            token = self._widen(self.readout.to(rest.dtype)).expand(len(rest), 1, -1)
            rest = torch.cat([rest, token], dim=1)
        return plain_part(rest, valid)

    def _count_tokens(self, name: str, height: int, width: int) -> int:
        """Return how many tokens an image of a camera gives."""
        try:
            self.family.grid(height, width)
            with torch.no_grad():
                return self.family.see(torch.zeros(1, 3, height, width)).shape[1]
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"the camera {name} is {height}x{width}, which the vision-language model can't take ({error}); give "
                "the size it was made for in contract.cameras"
            ) from None


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Return the model that ``config`` describes, with random weights; nothing is looked up anywhere.

    Raises:
        ValueError: ``config`` names no family that is known.
    """
    from transformers import CONFIG_MAPPING, AutoModel

    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"vlm.model has the model_type {kind!r}; allowed: {', '.join(sorted(FAMILIES))}. Name pretrained weights "
            "in vlm.pretrained, or give the configuration of such a model"
        )
    described = CONFIG_MAPPING[kind].from_dict(dict(config))
    return AutoModel.from_config(described, attn_implementation="sdpa", dtype=torch.float32)


def _all(frames: Tensor) -> Tensor:
    return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
