# SPDX-License-Identifier: Apache-2.0
"""What the sequence of a vision-language model is made of: tokens that stand together, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class EmbeddedText:
    """Embeddings (B, L, H) of commands and their mask (B, L), made once per command."""

    embeddings: Tensor
    mask: Tensor

    def __getitem__(self, rows: Any) -> EmbeddedText:
        return EmbeddedText(self.embeddings[rows], self.mask[rows])

    def __len__(self) -> int:
        return len(self.mask)

    def clone(self) -> EmbeddedText:
        """Return a copy in memory of its own, as a tensor's."""
        return EmbeddedText(self.embeddings.clone(), self.mask.clone())

    def copy_(self, other: EmbeddedText) -> EmbeddedText:
        """Take over what ``other`` holds, of the same shape, as a tensor does."""
        self.embeddings.copy_(other.embeddings)
        self.mask.copy_(other.mask)
        return self


class Part(NamedTuple):
    """s tokens of B sequences that stand together."""

    embeddings: Tensor  # (B, s, E)
    valid: Tensor  # (B, s)
    offsets: Tensor  # (3, B, s) positions from the part's first on
    advance: Tensor  # (B,) by how much the position of the next part is further on
    block: int = -1
    visual: bool = False


def plain_part(tokens: Tensor, valid: Tensor, block: int = -1) -> Part:
    """Return ``tokens`` (B, s, E), s >= 0, one after the other; ``valid`` (B,)."""
    count = tokens.shape[1]
    offsets = torch.arange(count, device=tokens.device).expand(3, len(tokens), -1)
    return Part(tokens, valid[:, None].expand(-1, count), offsets, valid * count, block)


def image_positions(tokens: int, grid: tuple[int, int] | None, device: torch.device) -> tuple[Tensor, int]:
    """Return the positions (3, tokens) of an image from its first on, and how far the next token is from that."""
    if grid is None:
        return torch.arange(tokens, device=device).expand(3, -1), tokens
    rows, columns = torch.meshgrid(*(torch.arange(count, device=device) for count in grid), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1), max(grid)
