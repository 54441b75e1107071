# SPDX-License-Identifier: Apache-2.0
"""Tiny pretrained vision-language models on disk, as a hub would give them."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import TINY_MODELS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from vla_ros.policy.backbones.pretrained import AROUND_IMAGE


def save_model(folder: Path, family: str, *, safe: bool = True, tokens: bool = True):
    """Write a folder as ``hf download`` leaves one: the whole model with its language head, tokenizer, processor."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedTokenizerFast

    torch.manual_seed(3)
    described = CONFIG_MAPPING[family].from_dict(dict(TINY_MODELS[family]))
    model = AutoModelForImageTextToText.from_config(described)
    model.save_pretrained(folder)
    if not safe:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", *(dict.fromkeys(AROUND_IMAGE.get(family, ())) if tokens else ())]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["open the drawer"], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>").save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]}')
    return model
