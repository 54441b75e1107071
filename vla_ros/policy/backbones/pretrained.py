# SPDX-License-Identifier: Apache-2.0
"""Load pretrained vision-language models from a folder or the Hugging Face hub: safetensors only, no remote code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vla_ros.errors import UserError, first_line
from vla_ros.policy.backbones.families import FAMILIES
from vla_ros.policy.config import VlmConfig
from vla_ros.policy.tokenizer import CommandTokenizer

# The tokens that a family was trained with before and after an image's.
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
    """Pretrained weights that cannot be used; says what to download or name instead."""


class Pretrained(NamedTuple):
    """What a policy starts from.

    Attributes:
        config: with the model's own configuration, as written to a checkpoint.
        revision: the name and, from the hub, the commit.
        image_mean, image_std: what its images were normalised with; None if unknown.
    """

    config: VlmConfig
    model: nn.Module
    tokenizer: CommandTokenizer
    revision: str
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None


def load_pretrained(config: VlmConfig) -> Pretrained:
    """Read the weights, tokenizer and normalisation of `config.pretrained`, a folder or a hub id (cached or online).

    Raises:
        PretrainedError: it does not exist, is not of a known family, has no safetensors, or lacks weights.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    name = config.pretrained
    assert name is not None
    _check_files(Path(name))
    try:
        described = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = described.model_type
        if kind not in FAMILIES:
            raise PretrainedError(
                f"policy.vlm.pretrained is {name!r}, a {kind!r} model; it must be one of {', '.join(sorted(FAMILIES))}"
            )
        model, report = AutoModel.from_pretrained(
            name,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        backend = AutoTokenizer.from_pretrained(name, trust_remote_code=False).backend_tokenizer
    except UserError:
        raise
    except Exception as error:  # transformers raises anything for what is missing or malformed
        raise PretrainedError(_how_to_get(name, error)) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise PretrainedError(
            f"policy.vlm.pretrained is {name!r}, which lacks {len(missing)} weights, {missing[0]} among them; download "
            "the model again"
        )
    tokenizer = CommandTokenizer.adapt(backend)
    marks = AROUND_IMAGE.get(kind, ())
    around = tuple(number for number in map(backend.token_to_id, marks) if number is not None)
    if len(around) < len(marks):
        raise PretrainedError(
            f"policy.vlm.pretrained is {name!r}, whose tokenizer lacks {marks}; use the tokenizer of a {kind} model"
        )
    chosen = dataclasses.replace(config, pretrained=None, model=plain_config(described), around_image=around)
    commit = getattr(described, "_commit_hash", None)
    mean, std = _normalisation(name)
    return Pretrained(chosen, model, tokenizer, f"{name}@{commit}" if commit else name, mean, std)


def wants_code(error: Exception) -> bool:
    """Return whether transformers raised `error` because it was not allowed to run the model's own code."""
    return "trust_remote_code" in str(error)


def _check_files(folder: Path) -> None:
    """Raise PretrainedError if a local model would have files read that are outside `folder` or may be pickles."""
    if (folder / "adapter_config.json").is_file():
        raise PretrainedError(
            f"policy.vlm.pretrained is {str(folder)!r}, which has adapters (adapter_config.json); merge them into the "
            "weights with peft's merge_and_unload, and save the model again"
        )
    for index in sorted(folder.glob("*.index.json")) if folder.is_dir() else ():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PretrainedError(f"{index} is damaged ({error!r}); download the model again") from None
        wrong = [one for one in shards if Path(str(one)).name != one or not one.endswith(".safetensors")]
        if index.name.endswith(".safetensors.index.json") and wrong:
            raise PretrainedError(
                f"{index} lists the shard {wrong[0]!r}; each must be a .safetensors file in {folder}. Download the "
                "model again, from someone you trust"
            )


def plain_config(described: Any) -> dict[str, Any]:
    """Return a transformers configuration as plain types, for `VlmConfig.model`."""
    return _plain(json.loads(described.to_json_string(use_diff=False)))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Drop keys that name code, files or the class it was saved from."""
    dropped = ("auto_map", "_name_or_path", "transformers_version", "architectures", "dtype")
    return {key: _plain(v) if isinstance(v, dict) else v for key, v in values.items() if key not in dropped}


def _normalisation(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    # Reads the numbers only: some families' processors would need torchvision.
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name)  # reads JSON, whatever class it names
    except OSError:
        return None, None
    mean, std = values.get("image_mean"), values.get("image_std")
    return (tuple(mean), tuple(std)) if mean and std else (None, None)


def _how_to_get(name: str, error: Exception) -> str:
    if wants_code(error):
        return (
            f"policy.vlm.pretrained is {name!r}, which brings code of its own, and that is never run; use a model that "
            f"transformers implements: {', '.join(sorted(FAMILIES))}"
        )
    return (
        f"policy.vlm.pretrained is {name!r}, neither a usable model folder nor available from the hub "
        f"({first_line(error)}); run `hf download {name} --local-dir FOLDER` on a machine with network "
        "access, copy FOLDER here, and set policy.vlm.pretrained=FOLDER"
    )
