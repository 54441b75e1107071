# SPDX-License-Identifier: Apache-2.0
"""A vision-language model as backbone: command and frames form a sequence, and a learned token R reads the feature.

    policy_head   [command] [frame] R                      one sequence per frame; the head fuses time
    interleaved   [command] [frame] R [frame] R ...        a feature after every frame, which sees all earlier frames
    video         [command] [frame] [frame] ... R          one feature, after the newest frame

A frame is the image tokens of every camera, in the contract's order, and one token of proprioception. Families trained
with images first get [frame] [command] R; layout "robovlms" is [command's first token] [frame] [rest of the command] R.
Positions skip padding, so that neither the longest command of a batch nor a short history changes a feature.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vla_ros.errors import first_line
from vla_ros.policy.backbones.backbone import PROPRIOCEPTION_LIMIT, Backbone
from vla_ros.policy.backbones.families import FAMILIES, Family
from vla_ros.policy.backbones.sequence import EmbeddedText, TokenSpan, image_positions, join, plain_span
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.heads.head import Readout
from vla_ros.policy.tokenizer import CommandTokenizer

_FIRST, _REST = slice(0, 1), slice(1, None)


class VlmBackbone(Backbone):
    """A vision-language model of one of the `FAMILIES`; `VlmConfig` explains the modes.

    Args:
        camera_sizes: camera name -> (height, width) of its network input, which the model must accept.
        proprioception_size: P, 0 for none.
        tokenizer: its padding and dropped tokens embed to zero, as the model was not trained with them.
        model: None builds `config.model` with random weights.

    Raises:
        ValueError: the model is not of a known family, or cannot take a camera's size or the history mode.
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
        self.model = cast(Any, build_model(config.model) if model is None else model)
        kind = self.model.config.model_type
        self.family: Family = FAMILIES[kind](self.model)
        self._blank = (tokenizer.padding_id, tokenizer.dropped_id)
        rows = self.family.embedding.num_embeddings
        if any(number not in self._blank for number in range(rows, tokenizer.vocabulary_size)):
            raise ValueError(
                f"the tokenizer has {tokenizer.vocabulary_size} tokens, but the vision-language model embeds only "
                f"{rows}; use the model's own tokenizer (vlm.pretrained) or a smaller contract.vocabulary_size"
            )
        self.mode = config.history_mode
        self.layout = config.layout
        self.fuses_time = config.history_mode != "policy_head"
        if self.fuses_time and not self.family.sequences:
            raise ValueError(
                f"vlm.history_mode is {config.history_mode!r}, but for {config.model['model_type']}, whose tokens all "
                "attend to each other, it must be 'policy_head'"
            )
        if self.layout == "robovlms" and not self.family.sequences:
            raise ValueError(f"vlm.layout is 'robovlms', but for {config.model['model_type']} it must be 'own'")
        self.feature_size = self.family.hidden_size
        self.camera_sizes = dict(camera_sizes)
        around = torch.tensor(config.around_image, dtype=torch.long)
        self.register_buffer("around_image", around, persistent=False)
        self._tokens = {name: self._count_tokens(name, *size) for name, size in camera_sizes.items()}
        self.readout = nn.Parameter(0.02 * torch.randn(self.feature_size))
        self.proprioception = nn.Linear(proprioception_size, self.feature_size) if proprioception_size else None

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> EmbeddedText:
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
        """Return the feature (F, D) of each frame, or its tokens (F, T, E) if `read` fuses time."""
        frame = self._frame(images, proprioception, camera_keep)
        if self.fuses_time:
            return frame
        present = torch.ones((len(frame), 1), dtype=torch.bool, device=frame.device)
        return self._read_sequence(frame[:, None], present, text)[:, 0]

    def read(self, frames: Tensor, valid: Tensor, text: EmbeddedText) -> Readout:
        """Return one feature per frame of the windows or, in mode "video", one per window."""
        if not self.fuses_time:
            return Readout(frames, valid)
        features = self._read_sequence(frames, valid, text)
        if self.mode == "interleaved":
            return Readout(features, valid)
        last = valid.sum(dim=1, keepdim=True) - 1  # (B, 1)
        return Readout(features, last >= 0, last.clamp(min=0))

    def _frame(self, images: Mapping[str, Tensor], proprioception: Tensor, camera_keep: Tensor | None) -> Tensor:
        """Return the tokens (F, T, E) of frames: each camera's, with the tokens around it, then proprioception."""
        if len(set(self.camera_sizes.values())) == 1:  # one pass of the vision tower
            tokens = self.family.see(torch.cat([images[name] for name in self.camera_sizes]))
            seen = list(tokens.chunk(len(self.camera_sizes)))
        else:
            seen = [self.family.see(images[name]) for name in self.camera_sizes]
        if camera_keep is not None:
            seen = [tokens * camera_keep[:, index, None, None] for index, tokens in enumerate(seen)]
        if len(self.around_image):
            before, after = torch.split(self._widen(self.family.embedding(self.around_image)), 1)  # each (1, E)
            around = [token.expand(len(proprioception), 1, -1) for token in (before, after)]
            seen = [torch.cat([around[0], tokens, around[1]], dim=1) for tokens in seen]
        if self.proprioception is not None:
            bounded = proprioception.clamp(-PROPRIOCEPTION_LIMIT, PROPRIOCEPTION_LIMIT)
            seen.append(self._widen(self.proprioception(bounded)[:, None]))
        return torch.cat(seen, dim=1)

    def _widen(self, tokens: Tensor) -> Tensor:
        """Pad `tokens` (..., H) with zeros to the size E of image tokens."""
        return nn.functional.pad(tokens, (0, self.family.embedding_size - tokens.shape[-1]))

    def _read_sequence(self, frames: Tensor, valid: Tensor, text: EmbeddedText) -> Tensor:
        """Return the language model's states (B, K, H) at the readout tokens of windows `frames` (B, W, T, E)."""
        spans, readouts = self._layout(frames, valid, text)
        states = self.family.run(join(spans))
        ends = list(itertools.accumulate(span.embeddings.shape[1] for span in spans))
        # No tensor of indices: it would be copied to the device at every step.
        return torch.stack([states[:, ends[index] - 1] for index in readouts], dim=1)

    def _layout(self, frames: Tensor, valid: Tensor, text: EmbeddedText) -> tuple[list[TokenSpan], list[int]]:
        """Return the spans of the sequences in order, and the indices of those that end with a readout token."""
        alone = frames.shape[1] == 1 and not self.fuses_time
        prefix = self.family.looks_ahead == "prefix" and alone
        if self.layout == "robovlms":
            *seen, tail = self._frame_spans(frames[:, 0], valid[:, 0], readout=True, first_block=0)
            first, rest = (self._command_span(text[:, part], 0 if prefix else -1) for part in (_FIRST, _REST))
            return [first, *seen, rest, tail], [len(seen) + 2]
        command = self._command_span(text, block=0 if prefix else -1)
        if alone and self.family.images_first:
            *seen, tail = self._frame_spans(frames[:, 0], valid[:, 0], readout=True, first_block=0)
            spans = [*seen, command, tail] if self.family.sequences else [*seen, tail, command]
            return spans, [len(seen) + (1 if self.family.sequences else 0)]
        spans, readouts = [command], []
        for index in range(frames.shape[1]):
            each = self.mode != "video"
            spans += self._frame_spans(frames[:, index], valid[:, index], readout=each, first_block=len(spans))
            readouts += [len(spans) - 1] if each else []
        if self.mode == "video":
            spans.append(self._tail_span(frames.new_zeros(len(frames), 0, frames.shape[-1]), valid.any(dim=1), True))
            readouts.append(len(spans) - 1)
        return spans, readouts

    def _command_span(self, text: EmbeddedText, block: int) -> TokenSpan:
        offsets = (text.mask.long().cumsum(dim=1) - 1).clamp(min=0)
        embeddings = self._widen(text.embeddings)
        return TokenSpan(embeddings, text.mask, offsets.expand(3, -1, -1), text.mask.sum(dim=1), block=block)

    def _frame_spans(self, tokens: Tensor, valid: Tensor, *, readout: bool, first_block: int) -> list[TokenSpan]:
        """Return the spans of the cameras in `tokens` (B, T, E), then the rest of the frame with its readout token."""
        spans, rest = [], tokens
        marks = len(self.around_image) // 2
        for index, (name, size) in enumerate(self.camera_sizes.items()):
            counts = [marks, self._tokens[name], marks]
            before, image, after, rest = torch.split(rest, [*counts, rest.shape[1] - sum(counts)], dim=1)
            offsets, advance = image_positions(counts[1], self.family.grid(*size), tokens.device)
            block = {"nowhere": -1, "image": first_block + index, "prefix": first_block}[self.family.looks_ahead]
            mark_block = first_block if self.family.looks_ahead == "prefix" else -1
            present = valid[:, None].expand(image.shape[:2])
            offsets = offsets[:, None].expand(-1, len(image), -1)
            spans += [
                plain_span(before, valid, mark_block),
                TokenSpan(image, present, offsets, valid * advance, block, visual=True),
                plain_span(after, valid, mark_block),
            ]
        return [*spans, self._tail_span(rest, valid, readout)]

    def _tail_span(self, rest: Tensor, valid: Tensor, readout: bool) -> TokenSpan:
        """Return the tokens `rest` (B, s, E), s >= 0, followed by the readout token if wanted."""
        if readout:
            token = self._widen(self.readout.to(rest.dtype)).expand(len(rest), 1, -1)
            rest = torch.cat([rest, token], dim=1)
        return plain_span(rest, valid)

    def _count_tokens(self, name: str, height: int, width: int) -> int:
        """Return the number of tokens of a camera's image."""
        try:
            self.family.grid(height, width)
            with torch.no_grad():
                return self.family.see(torch.zeros(1, 3, height, width)).shape[1]
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"the camera {name} is {height}x{width}, which the vision-language model does not accept ({error}); "
                "set the size it was trained with in contract.cameras"
            ) from None


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Build the model that `config` describes, with random weights and offline.

    Raises:
        ValueError: its `model_type` is not supported, or transformers cannot build it.
    """
    from transformers import CONFIG_MAPPING, AutoModel

    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"vlm.model has the model_type {kind!r}; it must be one of {', '.join(sorted(FAMILIES))}. Set "
            "vlm.pretrained, or give the configuration of such a model"
        )
    factory: Any = AutoModel  # untyped
    try:
        model: nn.Module = factory.from_config(
            CONFIG_MAPPING[kind].from_dict(dict(config)),
            trust_remote_code=False,
            attn_implementation="sdpa",
            dtype=torch.float32,
        )
    except Exception as error:  # transformers raises anything for a malformed configuration
        raise ValueError(f"vlm.model describes no {kind} model: {first_line(error)}") from None
    return model
