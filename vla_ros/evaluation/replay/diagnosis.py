# SPDX-License-Identifier: Apache-2.0
"""Which mismatch explains why a policy does not do what demonstrations do: the policy itself is the instrument.

Each known mismatch (`mismatches`) is undone in turn. If that makes the predicted actions agree much better with the
demonstrated ones, it is there. It stays undone while the others are tried again, until none helps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla_ros.contract import ARM_AXES
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay import calibration, mismatches
from vla_ros.evaluation.replay.agreement import surely_smaller
from vla_ros.evaluation.replay.hypothesis import Finding, Trial
from vla_ros.evaluation.replay.mismatches import Mismatch
from vla_ros.evaluation.replay.weak_evidence import subtle_findings
from vla_ros.runtime.planning.planner import ChunkPolicy

# What undoing a mismatch must surely save of the cost, and how good it must make the agreement, to be believed.
SAVED, GOOD = 0.15, 0.65
# Above this cost the policy does not do what was demonstrated, whatever the reason.
BAD = 0.75
# Six gains and offsets explain everything a little; they must explain that much more than the best of the others.
_FIT_ADVANTAGE = 0.15
_MOST_FINDINGS = 4
_SCREENED_FRAMES, _SCREENED_KEPT = 150, 2


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """findings: most telling first; cost (`agreement`): as recorded, cost_undone: with all of them undone."""

    findings: tuple[Finding, ...]
    cost: float
    cost_undone: float

    @property
    def unexplained(self) -> bool:
        """Whether the policy does something else than the demonstrations for a reason that is not among these."""
        return self.cost_undone > BAD

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {**dataclasses.asdict(self), "unexplained": self.unexplained}


def diagnose(
    policy: ChunkPolicy,
    episodes: Sequence[Episode],
    names: Sequence[str],
    progress: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Find what is wrong between `policy` and `episodes`.

    Args:
        names: of the episodes' proprioceptive values; those of the policy's contract are among them.
        progress: is told what is tried.
    """
    trial = Trial.start(policy, episodes, names)
    first = trial
    findings: list[Finding] = []
    while len(findings) < _MOST_FINDINGS:
        best = min(_tried(trial, policy, names, progress), key=lambda one: one[1].agreement.cost)
        refit = _refitted(trial)
        least = best[1].agreement.cost
        if refit is not None and refit.agreement.cost < least * (1 - _FIT_ADVANTAGE) and _helps(trial, refit):
            fitted = calibration.fit(trial.predicted, trial.demonstrated)
            findings.append(_of_statistics(fitted, trial.agreement.cost, refit.agreement.cost))
            trial = refit
            break
        if not _helps(trial, best[1]):
            break
        findings.append(Finding(best[0].name, best[0].where, trial.agreement.cost, best[1].agreement.cost))
        trial = best[1]
    findings += subtle_findings(trial)
    return Diagnosis(tuple(findings), first.agreement.cost, trial.agreement.cost)


def _tried(
    trial: Trial, policy: ChunkPolicy, names: Sequence[str], progress: Callable[[str], None]
) -> list[tuple[Mismatch, Trial]]:
    """Undo each candidate; where the policy has to run again, on some episodes first, and the best of these on all."""
    few = trial.some(_SCREENED_FRAMES)
    tried, screened = [], []
    for candidate in _candidates(trial, policy, names):
        progress(str(candidate))
        if candidate.view is None:
            tried.append((candidate, trial.undo(candidate, policy)))
        else:
            screened.append((few.undo(candidate, policy).agreement.cost, candidate))
    for _, candidate in sorted(screened, key=lambda one: one[0])[:_SCREENED_KEPT]:
        tried.append((candidate, trial.undo(candidate, policy)))
    return tried


def _candidates(trial: Trial, policy: ChunkPolicy, names: Sequence[str]) -> list[Mismatch]:
    """List what may still be wrong: nothing of a kind that is undone already for the same thing."""
    contract = policy.contract
    wanted = contract.observation_spec.proprioception
    seen = None
    if wanted:
        columns = [list(names).index(name) for name in wanted]
        seen = np.concatenate([one.episode.proprioception[:, columns] for one in trial.replayed]).astype(np.float64)
    every = mismatches.of_labels(trial.rotations is not None) + mismatches.of_observations(contract, seen)
    taken = {thing for one in trial.undone for thing in one.things}
    return [one for one in every if not taken & set(one.things)]


def _refitted(trial: Trial) -> Trial | None:
    """Return the trial as other action statistics in the contract would make it; None if they can't be the reason."""
    fitted = calibration.fit(trial.predicted, trial.demonstrated)
    return trial.rescaled(fitted) if fitted.plausible else None


def _helps(before: Trial, after: Trial) -> bool:
    return after.agreement.cost < GOOD and surely_smaller(before.agreement, after.agreement) > SAVED


def _of_statistics(fitted: calibration.Fit, cost: float, cost_undone: float) -> Finding:
    far = ", ".join(f"{ARM_AXES[axis]} by {1 / fitted.gain[axis]:.2g}" for axis in fitted.far_off)
    return Finding(
        mismatches.STATISTICS, f"the contract's action bounds are of other data: they scale {far}", cost, cost_undone
    )
