# SPDX-License-Identifier: Apache-2.0
"""The DataModule: which windows a training step sees, of which source and in which phrasing, and the loaders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler

from vla_ros.datasets.episode import Episode
from vla_ros.policy.module import Batch
from vla_ros.policy.policy import Policy
from vla_ros.train.demonstrations import WindowDataset
from vla_ros.train.distributed import ALONE, Processes

_DRAWS_AT_ONCE = 4096


class DemonstrationData(pl.LightningDataModule):
    """Training and validation loaders over episodes.

    The windows of a training step depend only on `seed` and the step, so that a resumed training continues with the
    right ones. If episodes have several phrasings, each training window gets a random one whenever it comes up;
    validation uses the original command.

    Args:
        shares: (number of episodes, weight) of each source in `training`, if sources have weights: windows are then
            drawn from the sources by weight, whatever their sizes.
        rehearsed: episodes of old tasks; `rehearsed_fraction` of the training windows are drawn from them.
        accumulate_batches: batches per training step.
        processes: share the training windows; each uses all validation windows.
        seed: of the draws.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        training: Sequence[Episode],
        validation: Sequence[Episode],
        batch_windows: int,
        max_steps: int,
        shares: Sequence[tuple[int, float]] = (),
        rehearsed: Sequence[Episode] = (),
        rehearsed_fraction: float = 0.0,
        steps_ahead: int = 0,
        accumulate_batches: int = 1,
        processes: Processes = ALONE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.batch_windows, self.accumulate_batches = batch_windows, accumulate_batches
        self._processes, self._seed = processes, seed
        episodes = [*training, *rehearsed]
        self.train_windows = WindowDataset(episodes, policy, steps_ahead=steps_ahead)
        self._history = policy.contract.timing.history
        self.val_windows: WindowDataset | None = None
        if validation:
            self.val_windows = WindowDataset(validation, policy, stride=self._history, steps_ahead=steps_ahead)
        total = sum(weight for _, weight in shares)
        groups = [(count, weight / total) for count, weight in shares] or [(len(training), 1.0)]
        self._groups = [(count, share * (1 - rehearsed_fraction)) for count, share in groups]
        if rehearsed:
            self._groups.append((len(rehearsed), rehearsed_fraction))
        self._lengths = [len(episode) for episode in episodes]
        self._draws = max_steps * accumulate_batches * batch_windows * processes.count
        self._several_phrasings = any(len(episode.commands) > 1 for episode in episodes)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of training steps in which as many windows are drawn as there are."""
        per_step = self.batch_windows * self.accumulate_batches * self._processes.count
        return math.ceil(len(self.train_windows) / per_step)

    def encode(self, policy: Policy) -> None:
        """Encode every frame once and train on the features; see `WindowDataset.encode`."""
        for dataset in (self.train_windows, self.val_windows):
            if dataset is not None:
                dataset.encode(policy)

    def sampler(self, done_windows: int = 0) -> Sampler[Any]:
        """Return the sampler of training windows, with as many shuffles in its one epoch as it takes.

        Args:
            done_windows: this process's windows to skip, as they have been trained on.
        """
        sampler: Sampler[Any] = self._shuffler(torch.Generator().manual_seed(self._seed))
        if self._processes.count > 1:
            sampler = ProcessSampler(sampler, self._processes)
        if self._several_phrasings:
            own_seed = np.random.SeedSequence([self._seed, self._processes.rank]).generate_state(1)
            sampler = PhrasingSampler(sampler, torch.Generator().manual_seed(int(own_seed[0])))
        return RemainingSampler(sampler, done_windows)

    def _shuffler(self, generator: torch.Generator) -> Sampler[int]:
        if len(self._groups) == 1:
            return RandomSampler(self.train_windows, num_samples=self._draws, generator=generator)
        ends = np.cumsum([episodes for episodes, _ in self._groups])
        groups = np.split(np.array(self._lengths), ends[:-1])
        sizes = [sum(lengths) + (self._history - 1) * len(lengths) for lengths in groups]
        return MixtureSampler(sizes, [share for _, share in self._groups], self._draws, generator)

    def train_dataloader(self) -> DataLoader[Batch]:
        done_steps = self.trainer.global_step if self.trainer is not None else 0
        sampler = self.sampler(done_steps * self.accumulate_batches * self.batch_windows)
        return DataLoader(
            self.train_windows,
            batch_size=self.batch_windows,
            sampler=sampler,
            collate_fn=_identity,
            drop_last=True,
            generator=torch.Generator(),  # otherwise iterating draws from the training's
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.val_windows is None:
            return []
        return DataLoader(
            self.val_windows, batch_size=self.batch_windows, collate_fn=_identity, generator=torch.Generator()
        )


class MixtureSampler(Sampler[int]):
    """Draws `count` of the windows 0 .. sum(sizes) - 1; group g, the next `sizes[g]`, gets a share of `shares[g]`.

    Shares are relative. Within a group every window comes once before any comes again.
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
        for done in range(0, self._count, _DRAWS_AT_ONCE):
            number = min(_DRAWS_AT_ONCE, self._count - done)
            for group in torch.multinomial(shares, number, replacement=True, generator=generator).tolist():
                yield next(groups[group])


class _Wrapper(Sampler[Any]):
    def __init__(self, sampler: Sampler[Any]) -> None:
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # all samplers here have a length


class ProcessSampler(_Wrapper):
    """Every n-th draw of `sampler`, for one of n processes.

    The sampler's generator has the same seed in all processes, so that a step's batches are together what one process
    would have drawn, and no window is seen twice before all were seen once.
    """

    def __init__(self, sampler: Sampler[int], processes: Processes) -> None:
        super().__init__(sampler)
        self._processes = processes

    def __len__(self) -> int:
        return super().__len__() // self._processes.count

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self._sampler), self._processes.rank, None, self._processes.count)


class PhrasingSampler(_Wrapper):
    """Pairs each window of `sampler` with a random number in 0 .. 2^31 - 1, which selects a phrasing."""

    def __init__(self, sampler: Sampler[int], generator: torch.Generator) -> None:
        super().__init__(sampler)
        self._generator = generator

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for window in self._sampler:
            yield window, int(torch.randint(2**31, (), generator=self._generator))


class RemainingSampler(_Wrapper):
    """The draws of `sampler` after the first `done`; its length includes these, as Lightning's counts do."""

    def __init__(self, sampler: Sampler[Any], done: int) -> None:
        super().__init__(sampler)
        self._done = done

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._sampler), self._done, None)


def _endless(start: int, size: int, generator: torch.Generator) -> Iterator[int]:
    """Yield start .. start + size - 1 in one shuffle after another."""
    while True:
        for index in torch.randperm(size, generator=generator):
            yield start + int(index)


def _identity(batch: Any) -> Any:
    return batch
