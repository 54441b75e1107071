# SPDX-License-Identifier: Apache-2.0
"""A lag that was put in is found, and none where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.datasets.inspection.lag_estimation import estimate_lag, image_motion, tool_motion

START_NS = 1_700_000_000_000_000_000


def speed(times_s: np.ndarray, seed: int = 0) -> np.ndarray:
    """A demonstrator who starts and stops: the sum of some slow waves, never negative."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0.15, 0.9, (5, 1)) * 2 * np.pi * times_s + rng.uniform(0, 6, (5, 1))
    return np.maximum(np.sin(waves).sum(axis=0), 0.0)


def stamps(times_s: np.ndarray) -> np.ndarray:
    return START_NS + np.round(times_s * 1e9).astype(np.int64)


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.3, 0.4), st.integers(0, 50), st.floats(10, 60))
def test_a_lag_is_found_whatever_the_rates(lag_s: float, seed: int, rate_hz: float) -> None:
    reference_s = np.arange(0, 20, 1 / 50)
    times_s = np.arange(0, 20, 1 / rate_hz)
    noise = np.random.default_rng(seed).normal(0, 0.05, len(times_s))
    found = estimate_lag(
        stamps(reference_s), speed(reference_s, seed), stamps(times_s), 30 * speed(times_s - lag_s, seed) + noise
    )
    assert found is not None and found.correlation > 0.9
    assert found.lag_s == pytest.approx(lag_s, abs=0.02)


def test_no_lag_is_estimated_without_motion_or_correlation_or_from_short_recordings() -> None:
    times_s = np.arange(0, 20, 0.02)
    moving = (stamps(times_s), speed(times_s))
    assert estimate_lag(*moving, stamps(times_s), np.zeros(len(times_s))) is None
    assert estimate_lag(*moving, stamps(times_s), np.random.default_rng(0).normal(size=len(times_s))) is None
    assert estimate_lag(*moving, *(part[:120] for part in moving)) is None
    assert estimate_lag(*moving, moving[0][:2], moving[1][:2]) is None
    assert estimate_lag(*moving, moving[0] + 10**12, moving[1]) is None


@pytest.mark.parametrize("period_s", [0.3, 0.45])
@pytest.mark.parametrize("lag_s", [0.003, 0.1])
def test_a_swing_that_repeats_carries_no_lag(period_s: float, lag_s: float) -> None:
    """Within half a second either way, several shifts fit equally well."""
    times_s = np.arange(0, 20, 0.02)
    swing = [np.abs(np.sin(np.pi * (times_s - late_s) / period_s)) for late_s in (0.0, lag_s)]
    assert estimate_lag(stamps(times_s), swing[0], stamps(times_s), swing[1]) is None


def test_the_error_of_a_lag_covers_its_deviation() -> None:
    times_s = np.arange(0, 20, 0.02)
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 1.0, len(times_s))
        found = estimate_lag(stamps(times_s), speed(times_s, seed), stamps(times_s), speed(times_s - 0.1, seed) + noise)
        assert found is None or abs(found.lag_s - 0.1) < 4 * found.error_s


def test_samples_may_come_in_any_order_and_twice() -> None:
    times_s = np.arange(0, 20, 0.02)
    order = np.concatenate([np.random.default_rng(0).permutation(len(times_s)), np.arange(50)])
    found = estimate_lag(stamps(times_s), speed(times_s), stamps(times_s)[order], speed(times_s - 0.1)[order])
    assert found is not None and found.lag_s == pytest.approx(0.1, abs=0.01)


def test_motions_of_the_tool_and_of_images_are_speeds_midway() -> None:
    times_ns = START_NS + np.array([0, 100, 200, 200, 400]) * 1_000_000
    poses = np.zeros((5, 7))
    poses[:, 0] = [0.0, 0.01, 0.02, 9.0, 0.02]  # the repeated stamp is passed over
    when, values = tool_motion(times_ns, poses)
    assert ((when - START_NS) / 1e6).tolist() == [50, 150, 300]
    np.testing.assert_allclose(values, [0.1, 0.1, 0.0])
    pictures = np.zeros((5, 2, 2), np.uint8)
    pictures[1:] = 10
    when, values = image_motion(times_ns, pictures)
    assert ((when - START_NS) / 1e6).tolist() == [50, 150, 300]
    np.testing.assert_allclose(values, [100, 0, 0])
