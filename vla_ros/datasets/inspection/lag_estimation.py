# SPDX-License-Identifier: Apache-2.0
"""Estimate how late a stream shows a motion, compared with another stream that shows the same motion.

Both are reduced to how much moves at each time, the tool's speed or the change of the image. The lag is the shift at
which the normalised cross-correlation of the two curves is largest. A motion that repeats, or that the stream shows
only now and then, does not carry a lag: the correlation has no single narrow peak, or another one if some seconds of
the recording are left out.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.agreement.correlation import peak_offset

Times = NDArray[np.int64]
Floats = NDArray[np.float64]

GRID_S = 0.01
MAX_LAG_S = 0.5
# Less correlation, or a shorter overlap, says nothing about a lag.
MIN_CORRELATION = 0.5
MIN_OVERLAP_S = 2.0
# A peak is one if the correlation is lower by this share anywhere so far beside it.
_PEAK_S, _PEAK_DROP = 0.2, 0.03
# The recording is resampled in blocks; a larger standard deviation of the lag is none that one can use.
_BLOCK_S, _RESAMPLES, MAX_ERROR_S = 1.0, 100, 0.03


@dataclasses.dataclass(frozen=True)
class Lag:
    """How much later a stream is than the reference (negative: earlier), and how well the two correlate at that lag.

    `error_s` is the standard error.
    """

    lag_s: float
    correlation: float
    error_s: float


def estimate_lag(reference_ns: Times, reference: Floats, times_ns: Times, values: Floats) -> Lag | None:
    """Estimate how much later `values` (S,) at `times_ns` are than `reference` (R,) at `reference_ns`.

    Returns:
        A lag of at most `MAX_LAG_S` in either direction; None if the motion carries none: there is too little of it,
        another one, or it repeats.
    """
    if min(len(reference_ns), len(times_ns)) < 3:
        return None
    reference_ns, reference = _ascending(reference_ns, reference)
    times_ns, values = _ascending(times_ns, values)
    margin = round(MAX_LAG_S / GRID_S)
    start_ns = max(reference_ns[0], times_ns[0])
    count = int((min(reference_ns[-1], times_ns[-1]) - start_ns) / 1e9 / GRID_S)
    if count < MIN_OVERLAP_S / GRID_S + 2 * margin:
        return None
    grid = start_ns + np.arange(count) * round(GRID_S * 1e9)
    fixed = np.interp(grid, reference_ns, reference)[margin:-margin]
    moved = np.interp(grid, times_ns, values)
    shifts = np.arange(-margin, margin + 1)
    correlations = np.array([_correlation(fixed, moved[margin + s : margin + s + len(fixed)]) for s in shifts])
    best = int(correlations.argmax())
    beside = np.abs(shifts - shifts[best]) >= _PEAK_S / GRID_S
    if not correlations[best] >= MIN_CORRELATION or correlations[beside].max() > (1 - _PEAK_DROP) * correlations[best]:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(moved, len(fixed))  # (shifts, T)
    error_s = _error_s(fixed, windows)
    if error_s > MAX_ERROR_S:
        return None
    return Lag(float((shifts[best] + peak_offset(correlations, best)) * GRID_S), float(correlations[best]), error_s)


def _error_s(fixed: Floats, windows: Floats) -> float:
    """Return the standard deviation of the best shift over resamples of the recording's seconds.

    Args:
        fixed: The reference (T,).
        windows: The stream at each shift (S, T).
    """
    block = round(_BLOCK_S / GRID_S)
    count = len(fixed) // block
    a = fixed[: count * block].reshape(count, block)
    b = windows[:, : count * block].reshape(len(windows), count, block)
    sums = [np.broadcast_to(one, b.shape[:2]) for one in (a.sum(axis=1), (a**2).sum(axis=1))]
    sums += [b.sum(axis=2), (b**2).sum(axis=2), (a * b).sum(axis=2)]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    sum_a, sum_aa, sum_b, sum_bb, sum_ab = (drawn @ one.T / (count * block) for one in sums)  # (draws, S)
    norm = np.sqrt(np.maximum((sum_aa - sum_a**2) * (sum_bb - sum_b**2), 1e-30))
    return float(max(np.std(((sum_ab - sum_a * sum_b) / norm).argmax(axis=1)) * GRID_S, GRID_S / 4))


def tool_motion(times_ns: Times, poses: Floats) -> tuple[Times, Floats]:
    """Return the speed of the tool [m/s] midway between successive poses (S, 7), and those times."""
    order = np.unique(times_ns, return_index=True)[1]
    times_ns, positions = times_ns[order], poses[order, :3]
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=1) / np.maximum(np.diff(times_ns) / 1e9, 1e-9)
    finite = np.isfinite(speed)
    return _midway(times_ns)[finite], speed[finite]


def image_motion(times_ns: Times, images: NDArray[np.uint8]) -> tuple[Times, Floats]:
    """Return how fast grey images (S, h, w) change [levels per second], midway between them, and those times."""
    order = np.unique(times_ns, return_index=True)[1]
    times_ns, images = times_ns[order], images[order]
    change = np.abs(np.diff(images.astype(np.float32), axis=0)).mean(axis=(1, 2))
    return _midway(times_ns), change / np.maximum(np.diff(times_ns) / 1e9, 1e-9)


def _midway(times_ns: Times) -> Times:
    midway: Times = times_ns[:-1] + np.diff(times_ns) // 2
    return midway


def _ascending(times_ns: Times, values: Floats) -> tuple[Times, Floats]:
    times_ns, first = np.unique(times_ns, return_index=True)
    return times_ns, values[first]


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 1e-9 else 0.0
