# SPDX-License-Identifier: Apache-2.0
"""The order in which a bag was written is evidence: where it contradicts the receive times, two runs lie in one bag.

Sorted by time, the pictures of one would get the commands of the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.storage.container import StorageFile
from vla_ros.datasets.errors import BagError

# Threads of a recorder write messages out of order by milliseconds; a simulation that is reset goes back by seconds.
JITTER_NS = 10**9


def check_order(bag: Path, files: Sequence[StorageFile]) -> None:
    """Refuse a bag in which the time of a topic runs backwards as it was written, or whose files overlap.

    What a converter wrote topic by topic is in order, and a single message with a wrong time is no second run.

    Raises:
        BagError: where, and the spans of both runs.
    """
    for file in files:
        _check_file(bag, file)
    filled = [file for file in files if len(file.index)]
    for before, after in itertools.pairwise(filled):
        if after.index.time_ns[0] < before.index.time_ns[-1] - JITTER_NS:
            spans = " and ".join(f"{file.path.name} has {_span(file.index.time_ns)}" for file in (before, after))
            raise BagError(
                f"bag {bag}: its files overlap: {spans}. They are recordings of their own: use each file by its path"
            )


def _check_file(bag: Path, file: StorageFile) -> None:
    index = file.index
    written = np.lexsort((index.offset, index.block))
    times_ns, topics = index.time_ns[written], index.topic[written]
    for key in np.unique(topics):
        own_ns = times_ns[topics == key]
        if len(own_ns) > 2:
            own_ns = np.sort(np.stack([own_ns[:-2], own_ns[1:-1], own_ns[2:]]), axis=0)[1]  # no single message counts
        back = np.flatnonzero(np.maximum.accumulate(own_ns) - own_ns > JITTER_NS)
        if len(back):
            first, second = _span(own_ns[: back[0]]), _span(own_ns[back[0] :])
            raise BagError(
                f"bag {bag}: time runs backwards in {file.path.name}: on {file.topics[int(key)].name}, {second} was "
                f"written after {first}. A simulation was reset or a clock was set back while recording, and both runs "
                "lie over each other: record each into a bag of its own"
            )


def _span(times_ns: NDArray[np.int64]) -> str:
    return f"{times_ns.min() / 1e9:.3f} s to {times_ns.max() / 1e9:.3f} s"
