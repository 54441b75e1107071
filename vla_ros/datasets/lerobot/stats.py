# SPDX-License-Identifier: Apache-2.0
"""The statistics that LeRobot keeps of a feature, exactly: no sampling, no histogram of guessed bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Stats = dict[str, NDArray]


def vector_stats(values: NDArray) -> Stats:
    """Return the statistics (D,) of values (n, D), and their count (1,)."""
    values = values.astype(np.float64)
    stats: Stats = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }
    return stats | {name: np.quantile(values, q, axis=0) for name, q in QUANTILES.items()}


class PictureStats:
    """Counts the values of each channel of uint8 pictures: all that their statistics need."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._pictures = 0

    def add(self, pictures: NDArray[np.uint8]) -> None:
        """Count pictures (T, h, w, 3)."""
        for channel in range(3):
            self._counts[channel] += np.bincount(pictures[..., channel].ravel(), minlength=256)
        self._pictures += len(pictures)

    def merge(self, other: PictureStats) -> None:
        """Count those of `other` too."""
        self._counts += other._counts
        self._pictures += other._pictures

    def stats(self) -> Stats:
        """Return the statistics (3, 1, 1) in [0, 1], and the count of pictures (1,)."""
        values = np.arange(256)
        total = int(self._counts[0].sum())
        mean = self._counts @ values / total
        variance = np.array([(count * (values - m) ** 2).sum() / total for count, m in zip(self._counts, mean)])
        found = {
            "min": np.array([np.flatnonzero(count)[0] for count in self._counts]),
            "max": np.array([np.flatnonzero(count)[-1] for count in self._counts]),
            "mean": mean,
            "std": np.sqrt(variance),
            **{name: np.array([_quantile(count, q) for count in self._counts]) for name, q in QUANTILES.items()},
        }
        stats: Stats = {name: (value / 255.0).reshape(3, 1, 1) for name, value in found.items()}
        return stats | {"count": np.array([self._pictures])}


def _quantile(counts: NDArray[np.int64], q: float) -> float:
    """The quantile of values 0 .. 255 that occur `counts` times, between neighbours linearly, as numpy has it."""
    at = q * (int(counts.sum()) - 1)
    low = int(np.floor(at))
    ends = np.cumsum(counts)
    places = [low, min(low + 1, int(ends[-1]) - 1)]
    first, second = np.searchsorted(ends, places, side="right").tolist()
    return float(first + (at - low) * (second - first))
