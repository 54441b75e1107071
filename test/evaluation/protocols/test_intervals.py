# SPDX-License-Identifier: Apache-2.0
"""Intervals of rates and means."""

from __future__ import annotations

import pytest

from vla_ros.evaluation.protocols.intervals import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_equals_published_values(successes, trials, low, high) -> None:
    """81 of 263: Newcombe 1998, table I, method 3."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-4)


def test_wilson_interval_contains_the_rate_at_both_ends() -> None:
    """100 of 100 once ended at 0.9999999999999999."""
    for trials in range(1, 301):
        assert wilson_interval(0, trials)[0] == 0.0
        assert wilson_interval(trials, trials)[1] == 1.0


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    """Of 400 fair coins the mean's standard error is 0.025."""
    low, high = bootstrap_interval([0.0, 1.0] * 200)
    assert low == pytest.approx(0.451, abs=0.005) and high == pytest.approx(0.549, abs=0.005)
    assert bootstrap_interval([3.0] * 5) == (3.0, 3.0)
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_interval([])
