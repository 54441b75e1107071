# SPDX-License-Identifier: Apache-2.0
"""One training in several processes, one for each GPU, on one machine or more; torchrun starts them (train/run.sh)."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Sampler


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is.

    Attributes:
        rank: of this process, 0 for the one that prints and writes.
        count: on all machines.
        on_machine: on this one; the same on every machine.
    """

    rank: int = 0
    count: int = 1
    on_machine: int = 1


ALONE = Processes()


def started_processes() -> Processes:
    """Return what torchrun says in the environment; one process where it did not start this one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    return Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


@contextlib.contextmanager
def in_turn(processes: Processes, folder: Path) -> Iterator[None]:
    """Let one process of a machine after the other in: the first decodes bags, the others find them decoded."""
    if processes.count == 1:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".reading.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def only_first_prints(processes: Processes) -> Iterator[None]:
    """Drop what the other processes print."""
    if processes.rank == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class Share(Sampler[int]):
    """Every n-th of what ``sampler`` draws, for one of n processes.

    All processes draw the same, since the sampler's generator has the same seed in all of them, and share it out: so a
    step's batches are together what one process would have drawn, and no window is seen twice before all were once.
    """

    def __init__(self, sampler: Sampler[int], processes: Processes) -> None:
        self._sampler, self._processes = sampler, processes

    def __len__(self) -> int:
        return len(self._sampler) // self._processes.count  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self._sampler), self._processes.rank, None, self._processes.count)
