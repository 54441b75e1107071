# SPDX-License-Identifier: Apache-2.0
"""How predicted actions would have to be scaled to be the demonstrated ones: by axis, and by step of the chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.evaluation.replay.agreement import PARTS, Array

# A policy that is merely unsure predicts a little too much or too little; statistics of other data are further off.
_ORDINARY_GAIN = (0.6, 1.6)
# Below this correlation a gain says nothing.
_RELATED = 0.5
_FAR_STEP = 5


@dataclasses.dataclass(frozen=True)
class Fit:
    """Demonstrated = gain * predicted + offset, (6,) each, of the first actions; correlation (6,)."""

    gain: Array
    offset: Array
    correlation: Array

    @property
    def plausible(self) -> bool:
        """Whether other statistics can be the reason: no axis that tells is turned round, and one is far off."""
        return not (self._tells & (self.gain <= 0)).any() and bool(self.far_off)

    @property
    def far_off(self) -> list[int]:
        """The axes whose scale is not an ordinary one, wherever it lies: noise in the predictions makes the gain too
        small, noise in the demonstrations one over the gain of the other way round too large."""
        low, high = _ORDINARY_GAIN
        other_way_round = self.gain / np.maximum(self.correlation**2, 1e-12)
        return [int(axis) for axis in np.flatnonzero(self._tells & ((other_way_round < low) | (self.gain > high)))]

    @property
    def _tells(self) -> NDArray[np.bool_]:
        return np.abs(self.correlation) > _RELATED

    def apply(self, predicted: Sequence[Array]) -> list[Array]:
        """Return the chunks (T, N, 7) with the fitted arm axes."""
        return [
            np.concatenate([self.gain * chunks[..., :6] + self.offset, chunks[..., 6:]], axis=-1)
            for chunks in predicted
        ]


def fit(predicted: Sequence[Array], demonstrated: Sequence[Array]) -> Fit:
    """Fit by least squares, each axis by itself; chunks are (T, N, 7), their first actions count."""
    p, d = (np.concatenate([chunks[:, 0, :6] for chunks in part]) for part in (predicted, demonstrated))
    p_mean, d_mean = p.mean(axis=0), d.mean(axis=0)
    covariance = ((p - p_mean) * (d - d_mean)).mean(axis=0)
    variance = np.maximum(p.var(axis=0), 1e-12)
    gain = covariance / variance
    correlation = covariance / np.sqrt(variance * np.maximum(d.var(axis=0), 1e-12))
    return Fit(gain, d_mean - gain * p_mean, correlation)


def gains_by_step(predicted: Sequence[Array], demonstrated: Sequence[Array], known: Sequence[NDArray]) -> Array:
    """Return sums (K, N, 2, 2) by episode, step of the chunk, linear and angular part: predicted times demonstrated,
    and predicted squared; their ratio is the gain."""
    sums = []
    for p, d, k in zip(predicted, demonstrated, known, strict=True):
        sums.append(
            np.stack(
                [
                    np.stack(
                        [((p[..., part] * other[..., part]).sum(axis=-1) * k).sum(axis=0) for other in (d, p)], axis=-1
                    )
                    for part in PARTS
                ],
                axis=1,
            )
        )
    return np.stack(sums)


def pace_misfit(sums: Array) -> Array:
    """Return how far the gains of the steps after the first are from 1, for sums (..., N, 2, 2) of `gains_by_step`.

    A policy predicts the mean of what is done later, so that regressing one on the other gives 1 at every step, unless
    it is later or earlier than the policy was trained to think. Far steps are hardly predictable and are left out.
    """
    steps = sums[..., 1:_FAR_STEP, :, :]
    gain = steps[..., 0] / np.maximum(steps[..., 1], 1e-12)
    return np.asarray(np.abs(np.log(np.clip(gain, 0.05, 20.0))).mean(axis=(-1, -2)))
