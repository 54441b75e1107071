# SPDX-License-Identifier: Apache-2.0
"""How sure a measured figure is: 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_DRAWS = 10_000


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % score interval of a success rate (Wilson 1927); it stays right near 0 and 1."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    scale = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The interval holds the rate; rounding must not let it end at 0.9999999999999999 where the rate is 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of `values` (Efron 1979), the same at each call.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("values is empty; an interval needs at least one measurement")
    random = np.random.default_rng(0)
    drawn = random.choice(np.asarray(values, dtype=np.float64), (_DRAWS, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
