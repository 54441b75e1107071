# SPDX-License-Identifier: Apache-2.0
"""The sequence of tokens that a vision-language model reads: its spans, their positions, and the embedded command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class EmbeddedText:
    """Embeddings (B, L, H) of commands and their mask (B, L), computed once per command."""

    embeddings: Tensor
    mask: Tensor

    def __getitem__(self, rows: Any) -> EmbeddedText:
        return EmbeddedText(self.embeddings[rows], self.mask[rows])

    def __len__(self) -> int:
        return len(self.mask)

    def clone(self) -> EmbeddedText:
        """Return a copy, like `Tensor.clone`."""
        return EmbeddedText(self.embeddings.clone(), self.mask.clone())

    def copy_(self, other: EmbeddedText) -> EmbeddedText:
        """Overwrite the values with those of `other`, of the same shape, like `Tensor.copy_`."""
        self.embeddings.copy_(other.embeddings)
        self.mask.copy_(other.mask)
        return self


class TokenSpan(NamedTuple):
    """s consecutive tokens of B sequences."""

    embeddings: Tensor  # (B, s, E)
    valid: Tensor  # (B, s)
    offsets: Tensor  # (3, B, s) positions relative to the span's first
    advance: Tensor  # (B,) distance from the span's first position to that of the next span
    block: int = -1
    visual: bool = False


class TokenSequence(NamedTuple):
    """B sequences of S embeddings for a language model."""

    embeddings: Tensor  # (B, S, H), or (B, S, H (1 + n)) if a family adds n features to deeper layers
    valid: Tensor  # (B, S), False on padding, which may be anywhere
    positions: Tensor  # (3, B, S) temporal, vertical, horizontal; equal except inside images of the Qwen families
    blocks: Tensor  # (B, S), tokens with the same number attend to each other both ways; -1: causal
    visual: Tensor  # (B, S), True on image tokens


def plain_span(tokens: Tensor, valid: Tensor, block: int = -1) -> TokenSpan:
    """Return `tokens` (B, s, E), s >= 0, at consecutive positions; `valid` (B,)."""
    count = tokens.shape[1]
    offsets = torch.arange(count, device=tokens.device).expand(3, len(tokens), -1)
    return TokenSpan(tokens, valid[:, None].expand(-1, count), offsets, valid * count, block)


def image_positions(tokens: int, grid: tuple[int, int] | None, device: torch.device) -> tuple[Tensor, int]:
    """Return the relative positions (3, tokens) of an image's tokens, and the distance to the next token's."""
    if grid is None:
        return torch.arange(tokens, device=device).expand(3, -1), tokens
    rows, columns = torch.meshgrid(*(torch.arange(count, device=device) for count in grid), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1), max(grid)


def join(spans: list[TokenSpan]) -> TokenSequence:
    """Return `spans`, in order, as one sequence."""
    first = spans[0].valid
    start = torch.zeros(len(first), dtype=torch.long, device=first.device)
    positions = []
    for span in spans:
        positions.append(start[:, None] + span.offsets)  # (3, B, s)
        start = start + span.advance
    return TokenSequence(
        embeddings=torch.cat([span.embeddings for span in spans], dim=1),
        valid=torch.cat([span.valid for span in spans], dim=1),
        positions=torch.cat(positions, dim=2),
        blocks=torch.cat([torch.full_like(span.valid, span.block, dtype=torch.long) for span in spans], dim=1),
        visual=torch.cat([torch.full_like(span.valid, span.visual) for span in spans], dim=1),
    )
