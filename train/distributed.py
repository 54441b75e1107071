# SPDX-License-Identifier: Apache-2.0
"""Training in several processes, one per GPU, on one machine or more; torchrun starts them (`train/run.sh`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: of this process; 0 prints and writes.
        count: on all machines.
        on_machine: on each machine.
    """

    rank: int = 0
    count: int = 1
    on_machine: int = 1


ALONE = Processes()


def started_processes() -> Processes:
    """Return the processes according to torchrun's environment variables; one if it did not start this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    return Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


@contextlib.contextmanager
def in_turn(processes: Processes, folder: Path) -> Iterator[None]:
    """Admit one process of a machine at a time: the first decodes bags, the others find them decoded."""
    if processes.count == 1:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".reading.lock"):
        yield


@contextlib.contextmanager
def only_first_prints(processes: Processes) -> Iterator[None]:
    """Silence all processes but the first."""
    if processes.rank == 0:
        yield
        return
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        yield
