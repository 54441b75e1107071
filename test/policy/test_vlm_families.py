# SPDX-License-Identifier: Apache-2.0
"""For one frame, the features are what each family's own ``forward`` computes for the same sequence, bit for bit.

The models are tiny and random: sizes and weights do not matter for that, the code that runs is the real one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import IMAGE_PX, TINY_MODELS

from vla_ros.policy.backbones.families import FAMILIES
from vla_ros.policy.backbones.vlm import VlmBackbone
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.tokenizer import CommandTokenizer

TEXT = [5, 77, 301, 42, 9]
READOUT = 33
BEFORE, AFTER = 502, 503
TOKENIZER = CommandTokenizer.train([], 300)
CAMERAS = dict.fromkeys(("static", "wrist"), (IMAGE_PX, IMAGE_PX))


def make(family: str, **changes) -> VlmBackbone:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = VlmConfig(model=TINY_MODELS[family], around_image=(BEFORE, AFTER), **changes)
    return VlmBackbone(camera_sizes=CAMERAS, proprioception_size=0, tokenizer=TOKENIZER, config=config).eval()


def stock(family: str):
    """The family's own model, as transformers makes it."""
    from transformers import CONFIG_MAPPING, AutoModel

    torch.manual_seed(1)
    described = CONFIG_MAPPING[family].from_dict(dict(TINY_MODELS[family]))
    model = AutoModel.from_config(described, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        if not parameter.any():  # biases, and Gemma 3's projection of images: all zero would compare nothing
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def qwen_patches(image: np.ndarray, config) -> np.ndarray:
    """What the real image processor makes of (3, h, w)."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = config.vision_config
    patches, rows, columns = Qwen2VLImageProcessorPil().patchify(
        image, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    )
    assert rows * columns == len(patches)
    return patches


def stock_states(family: str, model, pixels: torch.Tensor, ids: list[int], suffix: int) -> torch.Tensor:
    """The last hidden states of ``ids`` with pixels (2, 3, h, w), by the model's forward.

    The last ``suffix`` of the ids are what PaliGemma would say."""
    image = image_id(family, model)
    input_ids = torch.tensor([ids])
    is_image = (input_ids == image).long()
    arguments: dict = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "pixel_values": pixels}
    if family == "paligemma":
        arguments["token_type_ids"] = (torch.arange(len(ids)) >= len(ids) - suffix).long()[None]
    if family == "gemma3":
        arguments["token_type_ids"] = is_image
    if family in ("smolvlm", "idefics3"):
        arguments["pixel_values"] = pixels[None]
    if family == "kosmos-2":
        arguments["image_embeds_position_mask"] = is_image
        arguments["image_embeds"] = model.get_image_features(arguments.pop("pixel_values")).pooler_output
    if family.startswith("qwen"):
        patches = [qwen_patches(image.numpy(), model.config) for image in pixels]
        edge = IMAGE_PX // model.config.vision_config.patch_size
        arguments["pixel_values"] = torch.from_numpy(np.concatenate(patches))
        arguments["image_grid_thw"] = torch.tensor([[1, edge, edge]] * 2)
        arguments["mm_token_type_ids"] = is_image
    output = model(**arguments)
    return (output.encoder_last_hidden_state if family == "florence2" else output.last_hidden_state)[0]


def image_id(family: str, model) -> int:
    return model.config.image_token_id if family != "kosmos-2" else 7


def stock_state(family: str, model, pixels: torch.Tensor, tokens: int) -> torch.Tensor:
    """The last hidden state at the readout token, by the model's forward; ``tokens`` of an image."""
    seen = 2 * [BEFORE, *[image_id(family, model)] * tokens, AFTER]
    ids = [*TEXT, *seen, READOUT]
    if family == "paligemma":
        ids = [*seen, *TEXT, READOUT]
    if family == "florence2":
        ids = [*seen, READOUT, *TEXT]
    return stock_states(family, model, pixels, ids, suffix=1)[ids.index(READOUT)]


def test_every_family_has_a_tiny_model() -> None:
    assert TINY_MODELS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_a_feature_is_what_the_model_itself_computes(family: str) -> None:
    backbone, model = make(family), stock(family)
    backbone.model.load_state_dict(model.state_dict(), strict=family != "florence2")  # its decoder is not kept
    backbone.readout.data = model.get_input_embeddings().weight[READOUT].clone()
    if family in ("paligemma", "gemma3", "florence2"):  # their embeddings are scaled on the way in
        backbone.readout.data = backbone.family.embedding(torch.tensor(READOUT))
    pixels = torch.randn(2, 3, IMAGE_PX, IMAGE_PX)
    text = backbone.encode_text(torch.tensor([TEXT]), torch.ones(1, len(TEXT), dtype=torch.bool))
    feature = backbone.encode({"static": pixels[:1], "wrist": pixels[1:]}, torch.zeros(1, 0), text)[0]
    expected = stock_state(family, model, pixels, backbone._tokens["static"])
    assert torch.equal(feature, expected), (feature - expected).abs().max()
