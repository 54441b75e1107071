# SPDX-License-Identifier: Apache-2.0
"""CALVIN's long-horizon protocol (Mees et al. 2022, arXiv:2112.03227), for any environment.

A chain is a scene and a sequence of five subtasks. The scene is set up once. Each subtask starts where the previous one
ended, with a policy whose history is cleared, and has 360 steps; the first failure ends the chain. The metrics are
success@k, the share of chains with at least k subtasks done in a row, and the average length.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.intervals import bootstrap_interval, wilson_interval

CHAIN_LENGTH = 5
STEPS_PER_SUBTASK = 360


@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain of subtasks: number `number` of the evaluation, in the scene of `seed`."""

    number: int
    seed: int
    subtasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt at a subtask, and the steps until it succeeded or was given up."""

    success: bool
    steps: int


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """A chain and its attempts: all but the last succeeded, and none follows a failure."""

    chain: Chain
    attempts: tuple[Attempt, ...]

    @property
    def length(self) -> int:
        """Number of subtasks done in a row."""
        return sum(attempt.success for attempt in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ChainResult:
        """Invert `to_dict`."""
        chain = Chain(**{**data["chain"], "subtasks": tuple(data["chain"]["subtasks"])})
        return cls(chain, tuple(Attempt(**attempt) for attempt in data["attempts"]))


def run_chain(
    chain: Chain,
    set_up: Callable[[Chain], None],
    attempt: Callable[[str, int], Attempt],
    steps: int = STEPS_PER_SUBTASK,
) -> ChainResult:
    """Run one chain.

    `set_up` sets up its scene; `attempt` is given a subtask and a step limit, and runs a policy without history in the
    scene as it is.
    """
    set_up(chain)
    attempts: list[Attempt] = []
    for subtask in chain.subtasks:
        attempts.append(attempt(subtask, steps))
        if not attempts[-1].success:
            break
    return ChainResult(chain, tuple(attempts))


def merge(ranks: Iterable[Iterable[ChainResult]], expected: int) -> list[ChainResult]:
    """Return the results of chains 0 to `expected` - 1 in order, no matter which rank ran which.

    Compute metrics from these, never from the ranks' metrics: a mean of means overweights short ranks. A chain that ran
    twice counts once.
    """
    found: dict[int, ChainResult] = {}
    for result in (one for rank in ranks for one in rank):
        number = result.chain.number
        if not 0 <= number < expected:
            raise EvaluationError(f"chains must be 0 to {expected - 1} of one evaluation; got chain {number}")
        if found.setdefault(number, result) != result:
            raise EvaluationError(f"chain {number} has two different results: ranks used other seeds or checkpoints")
    missing = [number for number in range(expected) if number not in found]
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {expected} chains have no result, chain {missing[0]} first: a rank is unfinished; run "
            "its command again to resume"
        )
    return [found[number] for number in range(expected)]


def chain_statistics(results: Sequence[ChainResult]) -> dict[str, Any]:
    """Return the metrics of some chains with 95 % intervals: Wilson's for rates, bootstrapped for the mean.

    `success_at` counts chains with at least k subtasks done, and `tasks` has the mean steps of each one's successes.
    """
    lengths = [result.length for result in results]
    longest = max((len(result.chain.subtasks) for result in results), default=0)
    trials: Counter[str] = Counter()
    steps: defaultdict[str, list[int]] = defaultdict(list)
    for result in results:
        for subtask, attempt in zip(result.chain.subtasks, result.attempts, strict=False):
            trials[subtask] += 1
            if attempt.success:
                steps[subtask].append(attempt.steps)
    return {
        "chains": len(results),
        "success_at": {
            str(k): _rate(sum(length >= k for length in lengths), len(lengths)) for k in range(1, longest + 1)
        },
        "average_length": sum(lengths) / max(1, len(lengths)),
        "average_length_interval": bootstrap_interval(lengths),
        "tasks": {
            task: {**_rate(len(steps[task]), count), "mean_steps": fmean(steps[task]) if steps[task] else None}
            for task, count in sorted(trials.items())
        },
    }


def _rate(successes: int, trials: int) -> dict[str, Any]:
    rate = successes / max(1, trials)
    return {"successes": successes, "trials": trials, "rate": rate, "interval": wilson_interval(successes, trials)}
