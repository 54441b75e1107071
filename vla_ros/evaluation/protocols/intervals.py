# SPDX-License-Identifier: Apache-2.0
"""95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

_RESAMPLES = 10_000


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the score interval of a success rate (Wilson 1927), which holds near 0 and 1; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values` (Efron 1979); deterministic."""
    if not len(values):
        raise ValueError("values is empty; an interval needs at least one measurement")
    if len(values) == 1:  # scipy needs two
        return float(values[0]), float(values[0])
    random = np.random.default_rng(0)
    data = (np.asarray(values, dtype=np.float64),)
    result = stats.bootstrap(data, np.mean, n_resamples=_RESAMPLES, method="percentile", random_state=random)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
