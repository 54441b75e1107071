# SPDX-License-Identifier: Apache-2.0
"""How much predicted actions disagree with demonstrated ones, and whether other action statistics would explain it.

Errors are shares of the error of standing still, for the linear and the angular part each, and of chance for the
gripper. So scales do not matter: 0 is perfect, 1 is useless, more is worse than standing still.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PARTS = (slice(0, 3), slice(3, 6))
RESAMPLES = 400
CONFIDENT = 0.01  # quantile of the resamples
# Consecutive frames are alike, so the bootstrap resamples blocks of this many.
_BLOCK_FRAMES = 20
# Keep noise from becoming a large share of a part that hardly moves: m/s, rad/s, on average.
_MIN_SCALES = (1e-4, 1e-3)
# An unsure policy predicts a little too much or too little; statistics of other data are further off.
_ORDINARY_GAIN = (0.6, 1.6)
_MIN_CORRELATION = 0.5  # below it, a gain says nothing


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """Sums (K, 3) over K blocks of frames, for the linear part, the angular part and the gripper."""

    errors: Array
    scales: Array  # the errors of standing still

    @property
    def cost(self) -> float:
        """Mean relative error of the three parts."""
        return float(_cost(self.errors.sum(axis=0), self.scales.sum(axis=0)))


def disagreement(predicted: Sequence[Array], demonstrated: Sequence[Array]) -> Disagreement:
    """Compare actions (T, 7) of each episode."""
    errors, scales = [], []
    for p, d in zip(predicted, demonstrated, strict=True):
        starts = np.arange(0, len(p), _BLOCK_FRAMES)
        wrong = [np.linalg.norm(p[:, part] - d[:, part], axis=1) for part in PARTS]
        size = [np.linalg.norm(d[:, part], axis=1) + least for part, least in zip(PARTS, _MIN_SCALES, strict=True)]
        errors.append(np.add.reduceat(np.stack([*wrong, np.abs(p[:, 6] - d[:, 6])], axis=1), starts))
        scales.append(np.add.reduceat(np.stack([*size, np.full(len(p), 0.5)], axis=1), starts))
    return Disagreement(np.concatenate(errors), np.concatenate(scales))


def certain_reduction(before: Disagreement, after: Disagreement) -> float:
    """Return the relative reduction of the cost that 99 % of the bootstrap resamples reach."""
    draws = resamples(len(before.errors))
    costs = [_cost(one.errors[draws].sum(axis=1), one.scales[draws].sum(axis=1)) for one in (before, after)]
    return float(np.quantile(1 - costs[1] / np.maximum(costs[0], 1e-12), CONFIDENT))


def resamples(count: int) -> NDArray[np.int64]:
    """Return bootstrap indices (RESAMPLES, count); deterministic."""
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def _cost(errors: Array, scales: Array) -> Array:
    return np.asarray((errors / np.maximum(scales, 1e-12)).mean(axis=-1))


@dataclasses.dataclass(frozen=True)
class ActionFit:
    """demonstrated = gain * predicted + offset for each arm axis, with the correlation; (6,) each."""

    gain: Array
    offset: Array
    correlation: Array

    @property
    def plausible(self) -> bool:
        """Whether other action statistics explain the fit: no related axis is inverted, and one is far off."""
        return not (self._related & (self.gain <= 0)).any() and bool(self.far_off)

    @property
    def far_off(self) -> list[int]:
        """Axes whose true scale is out of the ordinary.

        The true scale lies between the gain, which noise in the predictions lowers, and the inverse of the reverse
        regression's gain, which noise in the demonstrations raises.
        """
        low, high = _ORDINARY_GAIN
        upper = self.gain / np.maximum(self.correlation**2, 1e-12)
        return [int(axis) for axis in np.flatnonzero(self._related & ((upper < low) | (self.gain > high)))]

    @property
    def _related(self) -> Mask:
        return np.abs(self.correlation) > _MIN_CORRELATION

    def apply(self, chunks: Array) -> Array:
        """Return chunks (..., 7) with the fitted arm axes."""
        return np.concatenate([self.gain * chunks[..., :6] + self.offset, chunks[..., 6:]], axis=-1)


def fit_actions(predicted: Sequence[Array], demonstrated: Sequence[Array]) -> ActionFit:
    """Fit each axis of the actions (T, 7) by least squares."""
    p, d = (np.concatenate(actions)[:, :6] for actions in (predicted, demonstrated))
    p_mean, d_mean = p.mean(axis=0), d.mean(axis=0)
    covariance = ((p - p_mean) * (d - d_mean)).mean(axis=0)
    variance = np.maximum(p.var(axis=0), 1e-12)
    gain = covariance / variance
    correlation = covariance / np.sqrt(variance * np.maximum(d.var(axis=0), 1e-12))
    return ActionFit(gain, d_mean - gain * p_mean, correlation)
