# SPDX-License-Identifier: Apache-2.0
"""Where messages of a bag are, many at a time: in which of its files, which of the file's entries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int]  # file, entry
Marked = Mapping[int, NDArray[np.bool_]]  # for each file which of its entries

_RUN = 4096


class Places(NamedTuple):
    """Where messages are: the number of their file (n,), of their entry in it (n,), and their receive times (n,)."""

    file: NDArray[np.int64]
    entry: NDArray[np.int64]
    receive_ns: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        """All of the messages, in the order of receipt: of those of equal times the earlier file's and entry first."""
        columns = [np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*parts)]
        file, entry, receive_ns = columns or [np.zeros(0, np.int64)] * 3
        return cls(file, entry, receive_ns).chosen(np.lexsort((entry, file, receive_ns)))

    def chosen(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Places:
        """Some of the messages."""
        return Places(*(column[which] for column in self))

    def runs(self) -> Iterator[tuple[int, int]]:
        """Cut into stretches [first, stop) of messages of one file, none of them long."""
        changes = np.flatnonzero(np.diff(self.file)) + 1
        cuts = np.union1d(changes, np.arange(0, len(self.file) + 1, _RUN)).tolist()
        yield from itertools.pairwise(sorted({*cuts, len(self.file)}))
