# SPDX-License-Identifier: Apache-2.0
"""How well predicted actions agree with demonstrated ones: one number, and whether another is really better.

An error is counted as a share of what never moving would make of it, for the linear and the angular part each, and of
chance for the gripper. So scales do not matter: 0 is perfect, 1 is useless, more is worse than doing nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PARTS = (slice(0, 3), slice(3, 6))
# Frames that follow each other are alike: what is drawn anew in the bootstrap is stretches of so many of them.
BLOCK_FRAMES = 20
# An axis group that a demonstration hardly moves would turn noise into a large share of nothing.
SMALLEST = (1e-4, 1e-3)  # m/s, rad/s, on average
_DRAWS = 400
_SURE = 0.01


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Sums over stretches of frames, (K, 3) each: the error of the linear part, the angular part and the gripper, and
    what doing nothing would make of it."""

    wrong: Array
    size: Array

    @property
    def cost(self) -> float:
        """The mean share of the three parts."""
        return float(_cost(self.wrong.sum(axis=0), self.size.sum(axis=0)))


def measure(predicted: Sequence[Array], demonstrated: Sequence[Array], known: Sequence[NDArray[np.bool_]]) -> Agreement:
    """Compare chunks (T, N, 7) of each episode, where `known` (T, N)."""
    wrong, size = [], []
    for p, d, k in zip(predicted, demonstrated, known, strict=True):
        frame_wrong = np.stack(
            [
                *(np.where(k, np.linalg.norm(p[..., part] - d[..., part], axis=-1), 0.0).sum(axis=1) for part in PARTS),
                np.where(k, np.abs(p[..., 6] - d[..., 6]), 0.0).sum(axis=1),
            ],
            axis=1,
        )
        frame_size = np.stack(
            [
                *(
                    np.where(k, np.linalg.norm(d[..., part], axis=-1) + smallest, 0.0).sum(axis=1)
                    for part, smallest in zip(PARTS, SMALLEST, strict=True)
                ),
                0.5 * k.sum(axis=1),
            ],
            axis=1,
        )
        starts = np.arange(0, len(p), BLOCK_FRAMES)
        wrong.append(np.add.reduceat(frame_wrong, starts))
        size.append(np.add.reduceat(frame_size, starts))
    return Agreement(np.concatenate(wrong), np.concatenate(size))


def surely_smaller(before: Agreement, after: Agreement) -> float:
    """Return the share of the cost before that is saved after, or more, in 99 of 100 draws of the same stretches."""
    count = len(before.wrong)
    draws = np.random.default_rng(0).integers(0, count, (_DRAWS, count))
    costs = [_cost(one.wrong[draws].sum(axis=1), one.size[draws].sum(axis=1)) for one in (before, after)]
    return float(np.quantile(1 - costs[1] / np.maximum(costs[0], 1e-12), _SURE))


def _cost(wrong: Array, size: Array) -> Array:
    return np.asarray((wrong / np.maximum(size, 1e-12)).mean(axis=-1))
