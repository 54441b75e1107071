# SPDX-License-Identifier: Apache-2.0
"""Mismatches that hardly increase the error but push it in a telling direction, found by regression over episodes."""

from __future__ import annotations

import numpy as np

from vla_ros.datasets.agreement.corrections import ROTATION, euler_jacobian
from vla_ros.evaluation.replay.disagreement import CONFIDENT, PARTS, Array, Mask, resamples
from vla_ros.evaluation.replay.hypothesis import Hypothesis
from vla_ros.evaluation.replay.mismatches import RATE, Finding

# Episodes are resampled to see how certain a finding is; with fewer than this, all resamples look alike.
MIN_EPISODES = 5
# How much better the gains of later steps must certainly fit at the other pace.
_PACE_REDUCTION = 0.3
_FAR_STEP = 5  # actions further ahead are hardly predictable
_PACES = {
    0.5: "the policy was trained at twice the control rate of its contract",
    2.0: "the policy was trained at half the control rate of its contract",
}


def find_small_effects(hypothesis: Hypothesis) -> list[Finding]:
    """Find Euler rates labelled as angular velocities, and another control rate, in `MIN_EPISODES` or more."""
    if len(hypothesis.replayed) < MIN_EPISODES:
        return []
    return [finding for finding in (_euler_rates(hypothesis), _pace(hypothesis)) if finding is not None]


def _euler_rates(hypothesis: Hypothesis) -> Finding | None:
    """Measure how far predictions are from the demonstrated angular velocities (0) towards these as Euler rates (1)."""
    if hypothesis.rotations is None:
        return None
    angular = [actions[:, 3:6] for actions in hypothesis.actions]
    missed = [p[:, 3:6] - a for p, a in zip(hypothesis.predicted, angular, strict=True)]
    weight = 1 / np.maximum(np.concatenate(missed).var(axis=0), 1e-12)  # an axis that is hard to predict counts less
    sums = []
    for miss, rates, rotation in zip(missed, angular, hypothesis.rotations, strict=True):
        difference = np.einsum("tij,tj->ti", euler_jacobian(rotation), rates) - rates
        sums.append([(weight * miss * difference).sum(), (weight * difference**2).sum()])
    drawn = np.array(sums)[resamples(len(sums))].sum(axis=1)
    share = drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12)
    if np.quantile(share, CONFIDENT) < 0.5 or np.median(share) > 1.5:
        return None
    detail = (
        "the demonstrated angular velocities are Euler rates; converted, they agree with the policy "
        f"(regression coefficient {np.median(share):.2f})"
    )
    return Finding(ROTATION, detail, hypothesis.cost, hypothesis.cost)


def _pace(hypothesis: Hypothesis) -> Finding | None:
    if hypothesis.replayed[0].chunks.shape[1] < 2:
        return None
    gains = _gains(hypothesis, 1.0)
    draws = resamples(len(gains))
    as_is = _gain_error(gains[draws].sum(axis=1))
    for pace, detail in _PACES.items():
        other = _gain_error(_gains(hypothesis, pace)[draws].sum(axis=1))
        if np.quantile(1 - other / np.maximum(as_is, 1e-12), CONFIDENT) > _PACE_REDUCTION:
            return Finding(RATE, detail, hypothesis.cost, hypothesis.cost)
    return None


def _gains(hypothesis: Hypothesis, pace: float) -> Array:
    """Regress demonstrated on predicted actions by episode, step of the chunk, and linear or angular part.

    (K, N, 2, 2): sums of predicted times demonstrated, and of predicted squared; their ratio is the gain.
    """
    sums = []
    for replayed, actions in zip(hypothesis.replayed, hypothesis.actions, strict=True):
        p = replayed.chunks
        d, known = _actions_at_pace(actions, p.shape[1], pace)
        products = [
            [((p[..., part] * other[..., part]).sum(axis=-1) * known).sum(axis=0) for other in (d, p)] for part in PARTS
        ]
        sums.append(np.moveaxis(np.array(products), -1, 0))
    return np.stack(sums)


def _actions_at_pace(actions: Array, chunk: int, pace: float) -> tuple[Array, Mask]:
    """Return what was demonstrated `pace` * i periods after each frame (T, N, 7), and which of it exists (T, N)."""
    wanted = np.arange(len(actions))[:, None] + pace * np.arange(chunk)
    known = wanted <= len(actions) - 1
    lower = np.minimum(wanted.astype(int), len(actions) - 1)
    upper = np.minimum(lower + 1, len(actions) - 1)
    part = np.where(known, wanted - lower, 0.0)[..., None]
    return actions[lower] * (1 - part) + actions[upper] * part, known


def _gain_error(sums: Array) -> Array:
    """Return how far the gains of steps after the first are from 1, for sums (..., N, 2, 2).

    A policy predicts the mean of later actions, so the gain is 1 at every step unless time runs at another pace.
    """
    steps = sums[..., 1:_FAR_STEP, :, :]
    gain = steps[..., 0] / np.maximum(steps[..., 1], 1e-12)
    return np.asarray(np.abs(np.log(np.clip(gain, 0.05, 20.0))).mean(axis=(-1, -2)))
