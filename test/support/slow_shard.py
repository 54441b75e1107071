# SPDX-License-Identifier: Apache-2.0
"""Parts that take their time or kill who decodes them: here because a new process finds this folder on its path."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vla_ros.datasets.episode import Episode
from vla_ros.datasets.shards import DecodeReport, SourceShard
from vla_ros.datasets.store.store import load_shards


def slow_shard(folder: Path, pause_s: float) -> SourceShard:
    """Two episodes made of `folder`/file, with a pause after each; every decoding leaves a line in `folder`/log."""
    return SourceShard("slow", folder, (folder / "file",), {}, functools.partial(_decode, folder / "log", pause_s))


def deadly_shard(folder: Path, name: str = "deadly") -> SourceShard:
    """A shard whose decoding kills the process that does it, as the system does when memory runs out."""
    return SourceShard(name, folder, (folder / "file",), {"name": name}, _die)


def _die(add: Callable[[Episode], None]) -> DecodeReport:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _decode(log: Path, pause_s: float, add: Callable[[Episode], None]) -> DecodeReport:
    with log.open("a") as file:
        file.write("decoding\n")
    for index in range(2):
        add(_episode(index))
        time.sleep(pause_s)
    return DecodeReport({})


def _episode(index: int) -> Episode:
    return Episode(
        images={"static": np.full((4, 3, 5, 3), index, np.uint8)},
        proprioception=np.zeros((4, 0), np.float32),
        actions=np.full((4, 7), 0.5 * index),
        command="go", task="go", outcome="unknown", source="one#0", start_ns=0, ticks=np.arange(4, dtype=np.int64),
    )  # fmt: skip


if __name__ == "__main__":
    print(len(load_shards([slow_shard(Path(sys.argv[1]), float(sys.argv[2]))], workers=1)[0]))
