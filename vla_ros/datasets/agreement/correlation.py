# SPDX-License-Identifier: Apache-2.0
"""Products of commanded and measured velocities at every delay, summed over blocks of time.

Each correction of the commanded twists, each exchange of axes and each delay is judged from these sums, and resampling
the blocks tells how certain the verdict is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.agreement.corrections import Array, Correction
from vla_ros.datasets.agreement.tracks import Track

# Velocities are compared as means over this time: noise and jitter of stamps cancel out, and so do small delays.
SMOOTHING_S = 0.4
BLOCK_S = 3.0
EARLIEST_S, LATEST_S = -1.0, 1.2  # delays of the measured motion behind the commanded one
RESAMPLES = 200
_MOST_TRACKS = 300


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over the frames of B blocks, for L delays and F versions of the commanded twists (the first: as they are).

    Attributes:
        delays_s: (L,).
        products: (B, F, L, 3, 3), measured along the row's axis times commanded along the column's.
        measured, commanded: (B, F, L, 3), squares of the same frames.
        frames: In all blocks.
    """

    delays_s: Array
    products: Array
    measured: Array
    commanded: Array
    frames: int

    def correlations(self, draws: NDArray[np.int64] | None = None) -> Array:
        """Correlate, without subtracting means: (..., F, L, 3, 3), for each row (B,) of `draws`, or all blocks once."""
        sums = [self.products, self.measured, self.commanded]
        p, m, c = (one.sum(axis=0) if draws is None else np.tensordot(draws, one, (-1, 0)) for one in sums)
        norm = np.sqrt(m[..., :, None] * c[..., None, :])
        return np.asarray(p / np.where(norm > 0, norm, np.inf))

    def resamples(self) -> NDArray[np.int64]:
        """Return how often each block is drawn (RESAMPLES, B); deterministic."""
        count = len(self.products)
        return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)


def twists_measured(track: Track, period_s: float) -> Array:
    """Return the tool's mean twists (T - 1, 6) in m/s and rad/s from each frame to the next, base frame."""
    assert track.positions is not None and track.rotations is not None
    linear = np.diff(track.positions, axis=0)
    angular = (track.rotations[1:] * track.rotations[:-1].inv()).as_rotvec() if len(track) > 1 else np.zeros((0, 3))
    return np.concatenate([linear, angular], axis=1) / period_s


def spread_evenly(tracks: Sequence[Track]) -> Sequence[Track]:
    """Return at most `_MOST_TRACKS` of the tracks."""
    if len(tracks) <= _MOST_TRACKS:
        return tracks
    return [tracks[i] for i in np.unique(np.linspace(0, len(tracks) - 1, _MOST_TRACKS).round().astype(int))]


def sum_products(tracks: Sequence[Track], period_s: float, versions: Sequence[Correction | None], part: slice) -> Sums:
    """Sum over tracks with poses; `part` is that of the twists, linear or angular."""
    shifts = np.arange(math.floor(EARLIEST_S / period_s), math.ceil(LATEST_S / period_s) + 1)
    width = max(1, round(SMOOTHING_S / period_s))
    block = max(1, round(BLOCK_S / period_s))
    parts: list[tuple[Array, Array, Array]] = []
    frames = 0
    for track in tracks:
        measured = smooth(twists_measured(track, period_s)[:, part], width)
        rotations = track.rotations
        assert rotations is not None
        actions = [track.actions if one is None else one.relabel(track.actions, rotations) for one in versions]
        commanded = np.stack([smooth(one[:-1, part], width) for one in actions])  # (F, n, 3)
        frames += len(measured)
        for start in range(0, len(measured), block):
            parts.append(_block(measured, commanded, slice(start, start + block), shifts))
    products, m, c = (np.stack(one) for one in zip(*parts)) if parts else (np.zeros((0,)),) * 3
    return Sums(np.asarray(shifts * period_s, np.float64), products, m, c, frames)


def smooth(values: Array, width: int) -> Array:
    """Return running means (T - width + 1, D) of `values` (T, D); over all of them if there are fewer."""
    if len(values) == 0:
        return values
    width = min(width, len(values))
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), axis=0)
    return np.asarray((sums[width:] - sums[:-width]) / width)


def _block(measured: Array, commanded: Array, where: slice, shifts: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return the sums of one block (F, L, 3, 3), (F, L, 3), (F, L, 3); frames beyond the episode count for nothing."""
    frames = np.arange(len(measured))[where]
    at = frames[None] - shifts[:, None]  # (L, n)
    known = (at >= 0) & (at < len(measured))
    at = np.clip(at, 0, len(measured) - 1)
    m = measured[frames][None] * known[..., None]  # (L, n, 3)
    c = commanded[:, at] * known[..., None]  # (F, L, n, 3)
    squares = np.broadcast_to((m**2).sum(axis=1), (len(commanded), len(shifts), 3))
    return np.einsum("lni,flnj->flij", m, c), squares, (c**2).sum(axis=2)


def peak_offset(curve: Array, best: int) -> float:
    """Return the offset, in steps, of the peak of the parabola through the best value and its neighbours."""
    if not 0 < best < len(curve) - 1:
        return 0.0
    left, middle, right = curve[best - 1 : best + 2]
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0
