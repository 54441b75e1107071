# SPDX-License-Identifier: Apache-2.0
"""Saying the command: the vision-language model's own next-token prediction as a second task, against forgetting.

A model that learns to move an arm need not keep what it knows of words and pictures. Here it goes on doing what it was
trained for: after the newest frame of a window, it says the command token by token (RoboVLMs' ``cap_loss_ratio``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from vla_ros.errors import UserError
from vla_ros.policy.losses import masked_mean
from vla_ros.policy.policy import Policy


class LanguageError(UserError):
    """The policy has nothing to say commands with."""


def check_speaks(policy: Policy) -> None:
    """Raise LanguageError where ``policy`` has no language head."""
    if policy.config.backbone != "vlm":
        raise LanguageError(
            f"loss.language_weight is set, but the backbone {policy.config.backbone!r} has no language head; "
            "allowed: 'vlm', or loss.language_weight=0"
        )
    if not policy.backbone.family.speaks:
        kind = policy.config.vlm.model["model_type"]
        raise LanguageError(
            f"loss.language_weight is set, but this {kind} has no language head here: a policy keeps the model's "
            "embeddings, which also are its head where its configuration has tie_word_embeddings; set "
            "loss.language_weight=0, or use such a model (PaliGemma, Kosmos-2, Gemma 3, Qwen2.5-VL-3B)"
        )


def language_loss(
    policy: Policy,
    images: Mapping[str, Tensor],
    proprioception: Tensor,
    valid: Tensor,
    tokens: Tensor,
    token_mask: Tensor,
) -> Tensor:
    """Return the mean cross-entropy of the commands' tokens, each after the newest frame and the tokens before it.

    Args:
        images: camera name -> (B, W, 3, h, w).
        proprioception: (B, W, P) in the contract's units.
        valid: (B, W), True on frames, which come first.
        tokens, token_mask: (B, L) of the commands, none of them hidden.
    """
    rows, newest = range(len(valid)), valid.sum(dim=1) - 1
    text = policy.encode_text(tokens, token_mask)
    states = policy.backbone.say(
        {name: frames[rows, newest] for name, frames in images.items()},
        policy.standardised(proprioception[rows, newest]),
        text,
    )
    logits = policy.backbone.family.score(states[token_mask])  # (tokens that are there, vocabulary)
    entropy = F.cross_entropy(logits.float(), tokens[token_mask], reduction="none")
    return masked_mean(entropy, token_mask[token_mask])
