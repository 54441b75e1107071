# SPDX-License-Identifier: Apache-2.0
"""How the families of vision-language models differ, as far as reading a feature out of them goes.

Every family sees images with its own vision tower and projector, and runs its own language model over embeddings that
we lay out (``backbones/vlm.py``). Nothing of a model's code is replaced: what a family computes for a sequence is, bit
for bit, what its own ``forward`` computes for it (``test/policy/test_vlm_families.py``).

transformers is imported where it is used: policies without a vision-language model do without.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Sequence(NamedTuple):
    """B sequences of S embeddings for a language model."""

    embeddings: Tensor  # (B, S, H), or (B, S, H (1 + n)) where a family adds n features to deeper layers
    valid: Tensor  # (B, S), False on padding, which may be anywhere
    positions: Tensor  # (3, B, S) temporal, vertical and horizontal; equal but inside images of the Qwen families
    blocks: Tensor  # (B, S), tokens with the same number see each other both ways; -1: causal
    visual: Tensor  # (B, S), True on the tokens of images


class Family:
    """A decoder with causal attention: LLaVA, InternVL; the other families say what is different."""

    images_first = False  # before the text; else the text is first, as the frames are what changes
    looks_ahead = "nowhere"  # where attention is not causal: "nowhere", within an "image", or within the "prefix"
    sequences = True  # whether several frames can stand in one sequence, each seeing the past only
    first_position = 0
    prompt = "{command}"  # what a command is put into, where a recipe does not say

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    @property
    def language_model(self) -> Any:
        """The module that takes embeddings and returns ``last_hidden_state``."""
        return self.model.language_model

    @property
    def hidden_size(self) -> int:
        """H, the size of an embedding and of a feature."""
        return self.model.config.get_text_config().hidden_size

    @property
    def embedding_size(self) -> int:
        """The last dimension of ``see``: H, and more where a family adds features to deeper layers."""
        return self.hidden_size

    @property
    def embedding(self) -> Any:
        """The module from tokens (...) to embeddings (..., H), scaled as the language model expects them."""
        return self.model.get_input_embeddings()

    def see(self, pixels: Tensor) -> Tensor:
        """Return the image tokens (F, T, embedding_size) of ``pixels`` (F, 3, h, w)."""
        features = self.model.get_image_features(pixels).pooler_output
        return features if isinstance(features, Tensor) else torch.stack(list(features))

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the rows and columns in which an image's tokens have their positions; None: one after the other."""
        return None

    def run(self, sequence: Sequence) -> Tensor:
        """Return the language model's last hidden states (B, S, H)."""
        output = self.language_model(
            inputs_embeds=sequence.embeddings,
            attention_mask=self.attention_mask(sequence),
            position_ids=sequence.positions[0] + self.first_position,
            use_cache=False,
        )
        return output.last_hidden_state

    def attention_mask(self, sequence: Sequence) -> Any:
        """Return which tokens see which (B, 1, S, S), by kind of layer where a model has several kinds."""
        size = sequence.valid.shape[1]
        index = torch.arange(size, device=sequence.valid.device)
        causal = index[:, None] >= index
        allowed = causal | ((sequence.blocks[:, :, None] == sequence.blocks[:, None]) & (sequence.blocks[:, None] >= 0))
        allowed = allowed & sequence.valid[:, None]
        allowed = (allowed | (index[:, None] == index))[:, None]  # padding sees itself: a softmax needs something
        text = self.language_model.config
        if "sliding_attention" not in (getattr(text, "layer_types", None) or ()):
            return allowed
        there = sequence.positions[0]  # distances over what is there, as without padding
        near = (there[:, None] > there[:, :, None] - text.sliding_window)[:, None]
        return {"full_attention": allowed, "sliding_attention": allowed & near}


class Idefics3(Family):
    """Idefics3 and SmolVLM: another name for the language model; one tile an image."""

    @property
    def language_model(self) -> Any:
        return self.model.text_model

    def see(self, pixels: Tensor) -> Tensor:
        # get_image_features drops images that are black after normalisation, as padding; a camera may be dark.
        patch = self.model.config.vision_config.patch_size
        shape = (len(pixels), pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        everywhere = torch.ones(shape, dtype=torch.bool, device=pixels.device)
        seen = self.model.vision_model(pixel_values=pixels, patch_attention_mask=everywhere)
        return self.model.connector(seen.last_hidden_state)


class PaliGemma(Family):
    """Images, then text, all of it seeing all of it; positions count from 1."""

    images_first = True
    looks_ahead = "prefix"
    first_position = 1
    prompt = "{command}\n"  # it was trained with a line's end between what it is told and what it says


class Gemma3(Family):
    """The tokens of an image see each other both ways."""

    looks_ahead = "image"


class Qwen25(Family):
    """Images are rows and columns of patches, and their positions are too (multimodal rotary embedding)."""

    def see(self, pixels: Tensor) -> Tensor:
        features = self._look(pixels).pooler_output
        return torch.stack(list(features))

    def _look(self, pixels: Tensor) -> Any:
        vision = self.model.config.vision_config
        patch, merge, repeat = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        # As the image processor lays patches out: neighbours that will be merged come together (Qwen2-VL).
        tiles = pixels.unflatten(3, (columns // merge, merge, patch)).unflatten(2, (rows // merge, merge, patch))
        tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (F, rows', columns', merge, merge, 3, patch, patch)
        patches = tiles[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, repeat, -1, -1)
        grid = torch.tensor([[1, rows, columns]] * len(pixels), device=pixels.device)
        return self.model.get_image_features(patches.reshape(len(pixels) * rows * columns, -1), grid)

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        vision = self.model.config.vision_config
        edge = vision.patch_size * vision.spatial_merge_size
        if height % edge or width % edge:
            raise ValueError(f"multiples of {edge} pixels are allowed")
        return height // edge, width // edge

    def run(self, sequence: Sequence) -> Tensor:
        output = self.language_model(
            inputs_embeds=sequence.embeddings,
            attention_mask=self.attention_mask(sequence),
            position_ids=sequence.positions,
            use_cache=False,
        )
        return output.last_hidden_state


class Qwen3(Qwen25):
    """Besides, features of earlier vision layers are added in the first layers of the language model (DeepStack)."""

    @property
    def embedding_size(self) -> int:
        return self.hidden_size * (1 + len(self.model.config.vision_config.deepstack_visual_indexes))

    def see(self, pixels: Tensor) -> Tensor:
        seen = self._look(pixels)
        return torch.cat([torch.stack(list(part)) for part in (seen.pooler_output, *seen.deepstack_features)], dim=-1)

    def run(self, sequence: Sequence) -> Tensor:
        embeddings, *deeper = sequence.embeddings.split(self.hidden_size, dim=-1)
        visual = sequence.visual
        output = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=self.attention_mask(sequence),
            position_ids=sequence.positions,
            visual_pos_masks=visual,
            deepstack_visual_embeds=[part[visual] for part in deeper],
            use_cache=False,
        )
        return output.last_hidden_state


class Kosmos2(Family):
    """Positions are embedded, counted from the padding token's number on; the model makes its own causal mask."""

    prompt = "<grounding>An image of a robot {command}"  # RoboVLMs' (arXiv:2412.14058)

    @property
    def language_model(self) -> Any:
        return self.model.text_model

    @property
    def first_position(self) -> int:  # type: ignore[override]
        return self.model.config.text_config.pad_token_id + 1

    def attention_mask(self, sequence: Sequence) -> Any:
        return sequence.valid.long()


class Florence2(Family):
    """An encoder that sees everything, with learned absolute positions: one frame a sequence, the text at its end.

    Its decoder, which would write text, is not run and not kept.
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

    def run(self, sequence: Sequence) -> Tensor:
        output = self.language_model(inputs_embeds=sequence.embeddings, attention_mask=sequence.valid.long())
        return output.last_hidden_state


# model_type of transformers -> what is special about it
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
