# SPDX-License-Identifier: Apache-2.0
"""How families of vision-language models differ when a feature is read from them.

Every family encodes images with its own vision tower and projector, and runs its own language model over embeddings
that `backbones/vlm.py` lays out. No model code is replaced: the result is, bit for bit, that of the model's own
`forward` (`test/policy/test_vlm_families.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vla_ros.policy.backbones.sequence import TokenSequence


class Family:
    """A decoder with causal attention (LLaVA, InternVL); subclasses override what is different."""

    images_first = False  # images before the text; otherwise the text is first, as only frames change
    looks_ahead = "nowhere"  # where attention is not causal: "nowhere", within an "image", or within the "prefix"
    sequences = True  # whether one sequence can hold several frames, each attending to the past only
    prompt: ClassVar[str] = "{command}"  # the default prompt template

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    @property
    def first_position(self) -> int:
        """The position of a sequence's first token."""
        return 0

    @property
    def language_model(self) -> Any:
        """The module that maps embeddings to `last_hidden_state`."""
        return self.model.language_model

    @property
    def hidden_size(self) -> int:
        """H, the size of an embedding and of a feature."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def embedding_size(self) -> int:
        """The last dimension of `see`: H, or more if a family adds features to deeper layers."""
        return self.hidden_size

    @property
    def embedding(self) -> Any:
        """The module that maps tokens (...) to embeddings (..., H), scaled for the language model."""
        return self.model.get_input_embeddings()

    def see(self, pixels: Tensor) -> Tensor:
        """Return the image tokens (F, T, embedding_size) of `pixels` (F, 3, h, w)."""
        features = self.model.get_image_features(pixels).pooler_output
        return features if isinstance(features, Tensor) else torch.stack(list(features))

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the rows and columns of an image's token positions; None if they are consecutive."""
        return None

    def run(self, sequence: TokenSequence) -> Tensor:
        """Return the language model's last hidden states (B, S, H)."""
        return self._hidden_states(sequence, sequence.positions[0] + self.first_position)

    def _hidden_states(self, sequence: TokenSequence, positions: Tensor, **extra: Any) -> Tensor:
        states: Tensor = self.language_model(
            inputs_embeds=sequence.embeddings,
            attention_mask=self.attention_mask(sequence),
            position_ids=positions,
            use_cache=False,
            **extra,
        ).last_hidden_state
        return states

    def attention_mask(self, sequence: TokenSequence) -> Any:
        """Return which tokens attend to which (B, 1, S, S), per layer type if a model has several."""
        size = sequence.valid.shape[1]
        index = torch.arange(size, device=sequence.valid.device)
        causal = index[:, None] >= index
        allowed = causal | ((sequence.blocks[:, :, None] == sequence.blocks[:, None]) & (sequence.blocks[:, None] >= 0))
        allowed = allowed & sequence.valid[:, None]
        allowed = (allowed | (index[:, None] == index))[:, None]  # padding attends to itself: a softmax needs something
        text = self.language_model.config
        if "sliding_attention" not in (getattr(text, "layer_types", None) or ()):
            return allowed
        position = sequence.positions[0]  # does not count padding
        near = (position[:, None] > position[:, :, None] - text.sliding_window)[:, None]
        return {"full_attention": allowed, "sliding_attention": allowed & near}


class Idefics3(Family):
    """Idefics3 and SmolVLM: one tile per image."""

    @property
    def language_model(self) -> Any:
        return self.model.text_model

    def see(self, pixels: Tensor) -> Tensor:
        # get_image_features would drop black images as padding, but a camera may be dark.
        patch = self.model.config.vision_config.patch_size
        shape = (len(pixels), pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        everywhere = torch.ones(shape, dtype=torch.bool, device=pixels.device)
        seen = self.model.vision_model(pixel_values=pixels, patch_attention_mask=everywhere)
        tokens: Tensor = self.model.connector(seen.last_hidden_state)
        return tokens


class PaliGemma(Family):
    """Images, then text, with full attention; positions count from 1."""

    images_first = True
    looks_ahead = "prefix"
    prompt = "{command}\n"  # trained with a newline between input and output

    @property
    def first_position(self) -> int:
        return 1


class Gemma3(Family):
    """The tokens of an image attend to each other both ways."""

    looks_ahead = "image"


class Qwen25(Family):
    """Image positions are rows and columns of patches (multimodal rotary embedding)."""

    def see(self, pixels: Tensor) -> Tensor:
        features = self._look(pixels).pooler_output
        return torch.stack(list(features))

    def _look(self, pixels: Tensor) -> Any:
        vision = self.model.config.vision_config
        patch, merge, repeat = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        # The order of Qwen2-VL's image processor: neighbours that will be merged are consecutive.
        tiles = pixels.reshape(len(pixels), 3, rows // merge, merge, patch, columns // merge, merge, patch)
        tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (F, rows', columns', merge, merge, 3, patch, patch)
        patches = tiles[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, repeat, -1, -1)
        grid = torch.tensor([[1, rows, columns]] * len(pixels), device=pixels.device)
        return self.model.get_image_features(patches.reshape(len(pixels) * rows * columns, -1), grid)

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        vision = self.model.config.vision_config
        edge = vision.patch_size * vision.spatial_merge_size
        if height % edge or width % edge:
            raise ValueError(f"both must be multiples of {edge} pixels")
        return height // edge, width // edge

    def run(self, sequence: TokenSequence) -> Tensor:
        return self._hidden_states(sequence, sequence.positions)


class Qwen3(Qwen25):
    """Like Qwen2.5, and features of earlier vision layers enter the first layers of the language model (DeepStack)."""

    @property
    def embedding_size(self) -> int:
        return self.hidden_size * (1 + len(self.model.config.vision_config.deepstack_visual_indexes))

    def see(self, pixels: Tensor) -> Tensor:
        seen = self._look(pixels)
        return torch.cat([torch.stack(list(part)) for part in (seen.pooler_output, *seen.deepstack_features)], dim=-1)

    def run(self, sequence: TokenSequence) -> Tensor:
        embeddings, *deeper = torch.split(sequence.embeddings, self.hidden_size, dim=-1)
        features = [layer[sequence.visual] for layer in deeper]
        return self._hidden_states(
            sequence._replace(embeddings=embeddings),
            sequence.positions,
            visual_pos_masks=sequence.visual,
            deepstack_visual_embeds=features,
        )


class Kosmos2(Family):
    """Learned positions, counted from the padding token's id; the model makes its own causal mask."""

    prompt = "<grounding>An image of a robot {command}"  # RoboVLMs' (arXiv:2412.14058)

    @property
    def language_model(self) -> Any:
        return self.model.text_model

    @property
    def first_position(self) -> int:
        return int(self.model.config.text_config.pad_token_id) + 1

    def attention_mask(self, sequence: TokenSequence) -> Any:
        return sequence.valid.long()


class Florence2(Family):
    """An encoder with full attention and learned absolute positions: one frame per sequence, the text at its end.

    Its decoder, which would write text, is dropped.
    """

    images_first = True
    looks_ahead = "prefix"
    sequences = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.model.language_model.decoder = None
        self.model.language_model.shared = None  # the encoder's embedding under another name

    @property
    def language_model(self) -> Any:
        return self.model.language_model.encoder

    @property
    def embedding(self) -> Any:
        return self.model.language_model.encoder.embed_tokens

    def run(self, sequence: TokenSequence) -> Tensor:
        states: Tensor = self.language_model(
            inputs_embeds=sequence.embeddings, attention_mask=sequence.valid.long()
        ).last_hidden_state
        return states


# model_type of transformers -> family
FAMILIES: dict[str, type[Family]] = {
    "paligemma": PaliGemma,
    "kosmos-2": Kosmos2,
    "llava": Family,
    "qwen2_5_vl": Qwen25,
    "qwen3_vl": Qwen3,
    "smolvlm": Idefics3,
    "idefics3": Idefics3,
    "internvl": Family,
    "gemma3": Gemma3,
    "florence2": Florence2,
}
