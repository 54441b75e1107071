# SPDX-License-Identifier: Apache-2.0
"""Pretrained vision-language models: from a folder or the Hugging Face hub, safetensors only, no code of theirs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import torch
from torch import nn

from vla_ros.errors import UserError
from vla_ros.policy.backbones.families import FAMILIES
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.tokenizer import CommandTokenizer

# The tokens that a family was trained to see before and after an image's, where it has any.
AROUND_IMAGE = {
    "kosmos-2": ("<image>", "</image>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"),
    "qwen3_vl": ("<|vision_start|>", "<|vision_end|>"),
    "smolvlm": ("<fake_token_around_image>", "<fake_token_around_image>"),
    "idefics3": ("<fake_token_around_image>", "<fake_token_around_image>"),
    "internvl": ("<img>", "</img>"),
    "gemma3": ("<start_of_image>", "<end_of_image>"),
}


class PretrainedError(UserError):
    """Pretrained weights that can't be used; says what to download, or what to name instead."""


class Pretrained(NamedTuple):
    """What a policy starts from."""

    config: VlmConfig  # with the model's own configuration, as it goes into a checkpoint
    model: nn.Module
    tokenizer: CommandTokenizer
    revision: str  # the name and, from the hub, the commit
    image_mean: tuple[float, ...] | None  # what its images were normalised with; None where it does not say
    image_std: tuple[float, ...] | None


def load_pretrained(config: VlmConfig) -> Pretrained:
    """Read the weights, tokenizer and normalisation of ``config.pretrained``; the hub's cache is used where it is.

    Raises:
        PretrainedError: nothing is there, it is of no known family, has no safetensors, or lacks weights.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    name = config.pretrained
    assert name is not None
    try:
        described = AutoConfig.from_pretrained(name)
        kind = described.model_type
        if kind not in FAMILIES:
            raise PretrainedError(
                f"policy.vlm.pretrained is {name!r}, a model of the type {kind!r}; "
                f"allowed: {', '.join(sorted(FAMILIES))}"
            )
        model, report = AutoModel.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
        backend = AutoTokenizer.from_pretrained(name, use_fast=True).backend_tokenizer
    except (OSError, ValueError, ImportError) as error:  # what transformers raises for anything that is not there
        raise PretrainedError(_how_to_get(name, error)) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise PretrainedError(
            f"policy.vlm.pretrained is {name!r}, which lacks the weights {missing[0]} and maybe others"
        )
    tokenizer = CommandTokenizer.adapt(backend)
    marks = AROUND_IMAGE.get(kind, ())
    around = tuple(number for number in map(backend.token_to_id, marks) if number is not None)
    if len(around) < len(marks):
        raise PretrainedError(
            f"policy.vlm.pretrained is {name!r}, whose tokenizer lacks {marks}; is it a {kind} model's?"
        )
    chosen = dataclasses.replace(config, pretrained=None, model=plain_config(described), around_image=around)
    commit = getattr(described, "_commit_hash", None)
    mean, std = _normalisation(name)
    return Pretrained(chosen, model, tokenizer, f"{name}@{commit}" if commit else name, mean, std)


def plain_config(described: Any) -> dict[str, Any]:
    """Return a configuration of transformers as ``VlmConfig.model`` has it."""
    return _plain(json.loads(described.to_json_string(use_diff=False)))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration without what names code, files or the class that it was saved from."""
    dropped = ("auto_map", "_name_or_path", "transformers_version", "architectures", "dtype")
    return {key: _plain(v) if isinstance(v, dict) else v for key, v in values.items() if key not in dropped}


def _normalisation(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    # The numbers are all that is wanted; the processors themselves need torchvision for some families.
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return None, None
    mean, std = values.get("image_mean"), values.get("image_std")
    return (tuple(mean), tuple(std)) if mean and std else (None, None)


def _how_to_get(name: str, error: Exception) -> str:
    return (
        f"policy.vlm.pretrained is {name!r}: no usable model in a folder of that name, nor at hand from the hub "
        f"({str(error).splitlines()[0]}). On a machine with network: `hf download {name} --local-dir FOLDER`; bring "
        "FOLDER here (config.json, *.safetensors, tokenizer and preprocessor files), set policy.vlm.pretrained=FOLDER"
    )
