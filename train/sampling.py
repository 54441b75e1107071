# SPDX-License-Identifier: Apache-2.0
"""Which windows a training step sees, where sources of demonstrations have weights, and in which words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

_DRAWN_AT_ONCE = 4096


class MixtureSampler(Sampler[int]):
    """Draws ``count`` of the windows 0 .. sum(sizes) - 1; group g, the next ``sizes[g]``, gets ``shares[g]`` of them.

    Shares are relative. Within a group every window comes once before any comes again. Draws follow ``generator``.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], count: int, generator: torch.Generator) -> None:
        self._sizes, self._shares, self._count, self._generator = sizes, shares, count, generator

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = self._generator
        starts = [sum(self._sizes[:group]) for group in range(len(self._sizes))]
        groups = [_endless(start, size, generator) for start, size in zip(starts, self._sizes, strict=True)]
        shares = torch.tensor(self._shares, dtype=torch.float64)
        for done in range(0, self._count, _DRAWN_AT_ONCE):
            number = min(_DRAWN_AT_ONCE, self._count - done)
            for group in torch.multinomial(shares, number, replacement=True, generator=generator).tolist():
                yield next(groups[group])


class PhrasingSampler(Sampler[tuple[int, int]]):
    """Gives each window that ``windows`` draws a number, which chooses among the ways to say its command.

    The numbers are uniform in 0 .. 2^31 - 1 and follow ``generator``.
    """

    def __init__(self, windows: Sampler[int], generator: torch.Generator) -> None:
        self._windows, self._generator = windows, generator

    def __len__(self) -> int:
        return len(self._windows)  # type: ignore[arg-type]  # both of ours have a length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for window in self._windows:
            yield window, int(torch.randint(2**31, (), generator=self._generator))


class Remaining(Sampler):
    """What ``sampler`` draws after its first ``done``; the length counts these too, as Lightning's own counts do."""

    def __init__(self, sampler: Sampler, done: int) -> None:
        self._sampler, self._done = sampler, done

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # all of ours have a length

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._sampler), self._done, None)


def _endless(start: int, size: int, generator: torch.Generator) -> Iterator[int]:
    """Yield start .. start + size - 1 in one shuffle after another."""
    while True:
        for index in torch.randperm(size, generator=generator):
            yield start + int(index)
