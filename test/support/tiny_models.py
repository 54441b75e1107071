# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family of vision-language models, for tests and benchmarks.

The values are configurations as transformers writes them, for `policy.vlm.model` in a recipe. Images are 32x32.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 512
IMAGE_PX = 32

_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    **_TOKENS,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_PX,
    "patch_size": 16,
}
_IMAGE_TOKEN = 500
_QWEN_TEXT = {**_TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
_QWEN_TOKENS = {
    "image_token_id": _IMAGE_TOKEN,
    "video_token_id": 501,
    "vision_start_token_id": 502,
    "vision_end_token_id": 503,
}

TINY_MODELS: dict[str, dict[str, Any]] = {
    "paligemma": {
        "model_type": "paligemma",
        "text_config": {"model_type": "gemma", **_TEXT},
        "vision_config": {
            "model_type": "siglip_vision_model", **_VISION, "projection_dim": 32, "vision_use_head": False,
        },
        "image_token_index": _IMAGE_TOKEN,
        "projection_dim": 32,
        "hidden_size": 32,
    },
    "kosmos-2": {
        "model_type": "kosmos-2",
        "text_config": {
            "embed_dim": 32, "layers": 2, "ffn_dim": 64, "attention_heads": 4, "vocab_size": VOCABULARY,
            "max_position_embeddings": 1024, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            "dropout": 0.0, "attention_dropout": 0.0,
        },
        "vision_config": _VISION,
        "latent_query_num": 4,
    },
    "llava": {
        "model_type": "llava",
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_VISION, "num_hidden_layers": 3},
        "image_token_index": _IMAGE_TOKEN,
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "text_config": {"model_type": "qwen2_5_vl_text", **_QWEN_TEXT},
        "vision_config": {
            "model_type": "qwen2_5_vl_vision", "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4,
            "patch_size": 8, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 16,
        },
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "text_config": {"model_type": "qwen3_vl_text", **_QWEN_TEXT},
        "vision_config": {
            "model_type": "qwen3_vl_vision", "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4,
            "patch_size": 8, "out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
        },
        **_QWEN_TOKENS,
    },
    "smolvlm": {
        "model_type": "smolvlm",
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "smolvlm_vision", **_VISION, "patch_size": 8},
        "image_token_id": _IMAGE_TOKEN,
        "scale_factor": 2,
    },
    "idefics3": {
        "model_type": "idefics3",
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "idefics3_vision", **_VISION, "patch_size": 8},
        "image_token_id": _IMAGE_TOKEN,
        "scale_factor": 2,
    },
    "internvl": {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen2", **_TEXT},
        "vision_config": {
            "model_type": "internvl_vision", **_VISION, "image_size": [32, 32], "patch_size": [8, 8],
        },
        "image_token_id": _IMAGE_TOKEN,
        "downsample_ratio": 0.5,
    },
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", **_TEXT, "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "vision_config": {"model_type": "siglip_vision_model", **_VISION, "patch_size": 8, "vision_use_head": False},
        "image_token_index": _IMAGE_TOKEN,
        "boi_token_index": 504,
        "eoi_token_index": 505,
        "mm_tokens_per_image": 4,
    },
    "florence2": {
        "model_type": "florence2",
        "text_config": {
            "model_type": "bart", "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "vocab_size": VOCABULARY, "max_position_embeddings": 256, "forced_eos_token_id": 2, **_TOKENS,
        },
        "vision_config": {
            "model_type": "florence_vision", "embed_dim": [16, 32], "num_heads": [2, 4], "num_groups": [2, 4],
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 32, "drop_path_rate": 0.0,
        },
        "image_token_id": _IMAGE_TOKEN,
    },
}  # fmt: skip
