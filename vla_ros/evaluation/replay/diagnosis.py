# SPDX-License-Identifier: Apache-2.0
"""Diagnose why a policy disagrees with demonstrations, using the policy itself as the instrument.

Each known mismatch is undone in turn. If predicted and demonstrated actions then agree much better, the mismatch is
real. It stays undone while the others are tried again, until none helps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla_ros.contract import ARM_AXES
from vla_ros.datasets.episode import Episode
from vla_ros.evaluation.replay import mismatches
from vla_ros.evaluation.replay.disagreement import certain_reduction, fit_actions
from vla_ros.evaluation.replay.hypothesis import Hypothesis
from vla_ros.evaluation.replay.mismatches import Finding, Mismatch
from vla_ros.evaluation.replay.small_effects import find_small_effects
from vla_ros.runtime.planning.planner import ChunkPolicy

# A mismatch counts if undoing it certainly reduces the cost by this share, to less than this cost.
MIN_REDUCTION, GOOD = 0.15, 0.65
# Above this cost the policy does not do what was demonstrated, for whatever reason.
BAD = 0.75
# Six gains and offsets explain everything a little; they must do better than any other mismatch by this share.
_FIT_ADVANTAGE = 0.15
_MAX_FINDINGS = 4
_SCREENED_FRAMES, _SCREENED_KEPT = 150, 2


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found, the most telling first, and the disagreement as recorded and with all findings undone."""

    findings: tuple[Finding, ...]
    cost: float
    cost_undone: float

    @property
    def unexplained(self) -> bool:
        """Whether the policy disagrees with the demonstrations for an unknown reason."""
        return self.cost_undone > BAD

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return {**dataclasses.asdict(self), "unexplained": self.unexplained}


def diagnose(
    policy: ChunkPolicy,
    episodes: Sequence[Episode],
    names: Sequence[str],
    progress: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Diagnose mismatches between `policy` and `episodes`; `progress` is called with each one that is tried.

    `names` are those of the episodes' proprioceptive values, and must include those of the policy's contract.
    """
    first = current = Hypothesis.healthy(policy, episodes, names)
    findings: list[Finding] = []
    while len(findings) < _MAX_FINDINGS:
        mismatch, best = min(_undo_each(current, policy, progress), key=lambda one: one[1].cost)
        fit = fit_actions(current.predicted, current.actions)
        if fit.plausible:
            refit = current.rescale(fit)
            if refit.cost < best.cost * (1 - _FIT_ADVANTAGE) and _helps(current, refit):
                far = ", ".join(f"{ARM_AXES[axis]} by {1 / fit.gain[axis]:.2g}" for axis in fit.far_off)
                detail = f"the contract's action bounds are those of other data: they scale {far}"
                findings.append(Finding(mismatches.STATISTICS, detail, current.cost, refit.cost))
                current = refit
                break
        if not _helps(current, best):
            break
        findings.append(Finding(mismatch.name, mismatch.where, current.cost, best.cost))
        current = best
    findings += find_small_effects(current)
    return Diagnosis(tuple(findings), first.cost, current.cost)


def _undo_each(
    current: Hypothesis, policy: ChunkPolicy, progress: Callable[[str], None]
) -> list[tuple[Mismatch, Hypothesis]]:
    """Undo each candidate; those that need another replay are screened on a few episodes, and the best kept."""
    few = current.subset(_SCREENED_FRAMES)
    tried, screened = [], []
    for candidate in _candidates(current, policy):
        progress(str(candidate))
        if candidate.view is None:
            tried.append((candidate, current.undo(candidate, policy)))
        else:
            screened.append((few.undo(candidate, policy).cost, candidate))
    for _, candidate in sorted(screened, key=lambda one: one[0])[:_SCREENED_KEPT]:
        tried.append((candidate, current.undo(candidate, policy)))
    return tried


def _candidates(current: Hypothesis, policy: ChunkPolicy) -> list[Mismatch]:
    """List the mismatches whose subject has not been corrected yet."""
    contract = policy.contract
    wanted = contract.observation_spec.proprioception
    seen = None
    if wanted:
        columns = [list(current.names).index(name) for name in wanted]
        seen = np.concatenate([one.episode.proprioception[:, columns] for one in current.replayed]).astype(np.float64)
    candidates = mismatches.of_actions(current.rotations is not None) + mismatches.of_observations(contract, seen)
    corrected = {subject for one in current.undone for subject in one.subjects}
    return [one for one in candidates if not corrected & set(one.subjects)]


def _helps(before: Hypothesis, after: Hypothesis) -> bool:
    return after.cost < GOOD and certain_reduction(before.disagreement, after.disagreement) > MIN_REDUCTION
