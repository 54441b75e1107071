# SPDX-License-Identifier: Apache-2.0
"""Mismatches that change actions too little to stand out in the error, but in a direction of their own."""

from __future__ import annotations

import numpy as np

from vla_ros.evaluation.replay.calibration import gains_by_step, pace_misfit
from vla_ros.evaluation.replay.hypothesis import Finding, Trial
from vla_ros.evaluation.replay.mismatches import RATE, ROTATION, Array, demonstrated_at_pace, euler_rates_to_angular

_DRAWS = 400
_SURE = 0.01
# Episodes are drawn to see how sure a finding is; of fewer than these, all draws are much the same and seem sure.
FEWEST_EPISODES = 5
# The gains of the later steps must surely fit that much better at the other pace.
_PACE_SAVED = 0.3
_PACES = {
    0.5: "the policy was trained at twice the control rate of its contract",
    2.0: "the policy was trained at half the control rate of its contract",
}


def subtle_findings(trial: Trial) -> list[Finding]:
    """Look for Euler angles given as rotation vectors, and for another control rate, in `FEWEST_EPISODES` or more."""
    if len(trial.replayed) < FEWEST_EPISODES:
        return []
    return [finding for finding in (_euler(trial), _pace(trial)) if finding is not None]


def way_to_euler(trial: Trial) -> Array:
    """Return sums (K, 2) by episode whose ratio says how far the predictions are on the way from the demonstrated
    angular velocities (0) to what these mean if they are rates of Euler angles (1): least squares, weighted by axis."""
    assert trial.rotations is not None
    missed = [
        predicted[:, 0, 3:6] - actions[:, 3:6]
        for predicted, actions in zip(trial.predicted, trial.actions, strict=True)
    ]
    weight = 1 / np.maximum(np.concatenate(missed).var(axis=0), 1e-12)  # an axis that is hard to foresee tells less
    sums = []
    for miss, actions, rotation in zip(missed, trial.actions, trial.rotations, strict=True):
        way = euler_rates_to_angular(actions[:, 3:6], rotation) - actions[:, 3:6]
        sums.append([(weight * miss * way).sum(), (weight * way**2).sum()])
    return np.array(sums)


def _euler(trial: Trial) -> Finding | None:
    if trial.rotations is None:
        return None
    sums = way_to_euler(trial)
    drawn = sums[_draws(len(sums))].sum(axis=1)
    far = drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12)
    if np.quantile(far, _SURE) < 0.5 or np.median(far) > 1.5:
        return None
    detail = (
        "the demonstrated angular velocities are rates of Euler angles: as such they agree with the policy "
        f"({np.median(far):.2f} of the way)"
    )
    return Finding(ROTATION, detail, trial.agreement.cost, trial.agreement.cost)


def _pace(trial: Trial) -> Finding | None:
    chunk = trial.replayed[0].chunks.shape[1]
    if chunk < 2:
        return None
    as_is = _gains(trial, 1.0)
    draws = _draws(len(as_is))
    now = pace_misfit(as_is[draws].sum(axis=1))
    for pace, detail in _PACES.items():
        then = pace_misfit(_gains(trial, pace)[draws].sum(axis=1))
        if np.quantile(1 - then / np.maximum(now, 1e-12), _SURE) > _PACE_SAVED:
            return Finding(RATE, detail, trial.agreement.cost, trial.agreement.cost)
    return None


def _gains(trial: Trial, pace: float) -> Array:
    chunks = [one.chunks for one in trial.replayed]
    done = [demonstrated_at_pace(actions, chunks[0].shape[1], pace) for actions in trial.actions]
    return gains_by_step(chunks, [actions for actions, _ in done], [known for _, known in done])


def _draws(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (_DRAWS, count))
