# SPDX-License-Identifier: Apache-2.0
"""The long-horizon protocol of CALVIN (Mees et al. 2022, arXiv:2112.03227), for any environment.

A chain is a scene and five subtasks that follow on each other. The scene is set up once; each subtask starts where the
one before ended, with a policy that has forgotten everything, and has 360 steps. The first failure ends the chain.
Measured are success@k, the share of chains with at least k subtasks done in a row, and their average length.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vla_ros.errors import UserError
from vla_ros.evaluation.protocols.intervals import bootstrap_interval, wilson_interval

CHAIN_LENGTH = 5
STEPS_PER_SUBTASK = 360


class ChainError(UserError):
    """Results of chains that do not belong together."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """`number` among the chains of an evaluation, `seed` of its scene, and its subtasks in order."""

    number: int
    seed: int
    subtasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How one subtask went: whether it was done, and after how many steps that was or was given up."""

    success: bool
    steps: int


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """A chain with the attempts at its subtasks: all but the last succeeded, and none follows a failure."""

    chain: Chain
    attempts: tuple[Attempt, ...]

    @property
    def length(self) -> int:
        """How many subtasks were done in a row."""
        return sum(attempt.success for attempt in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ChainResult:
        """Inverse of `to_dict`."""
        chain = Chain(**{**data["chain"], "subtasks": tuple(data["chain"]["subtasks"])})
        return cls(chain, tuple(Attempt(**attempt) for attempt in data["attempts"]))


def run_chain(
    chain: Chain,
    set_up: Callable[[Chain], None],
    attempt: Callable[[str, int], Attempt],
    steps: int = STEPS_PER_SUBTASK,
) -> ChainResult:
    """Run one chain.

    Args:
        set_up: brings the scene of the chain about; called once.
        attempt: (subtask, most steps): has a policy without memory of what was before try the subtask, in the scene as
            it is, until the environment says that it is done.
    """
    set_up(chain)
    attempts: list[Attempt] = []
    for subtask in chain.subtasks:
        attempts.append(attempt(subtask, steps))
        if not attempts[-1].success:
            break
    return ChainResult(chain, tuple(attempts))


def merge(ranks: Iterable[Iterable[ChainResult]], expected: int) -> list[ChainResult]:
    """Return the results of chains 0 .. expected - 1 in order, whichever rank ran which.

    Figures are made of these, never of the ranks' figures: a mean of means counts short ranks too much. A chain that
    was run twice counts once.

    Raises:
        ChainError: a chain is missing, is none of those, or came out differently in two ranks.
    """
    found: dict[int, ChainResult] = {}
    for result in (one for rank in ranks for one in rank):
        number = result.chain.number
        if not 0 <= number < expected:
            raise ChainError(f"there is a result of chain {number}; allowed: 0 to {expected - 1}. Merge one evaluation")
        if number in found and found[number] != result:
            raise ChainError(f"chain {number} has two different results: the ranks ran with other seeds or checkpoints")
        found[number] = result
    missing = [number for number in range(expected) if number not in found]
    if missing:
        raise ChainError(
            f"{len(missing)} of {expected} chains have no result, chain {missing[0]} first: a rank has not ended; run "
            "the same command again, it goes on where it stopped"
        )
    return [found[number] for number in range(expected)]


def summarise(results: Sequence[ChainResult]) -> dict[str, Any]:
    """Return the figures of some chains, with 95 % intervals: Wilson's for rates, bootstrapped for the mean.

    `success_at`: k -> chains with at least k subtasks done; `average_length`; `tasks`: how often each subtask was
    reached and done, and the mean steps of those done.
    """
    lengths = [result.length for result in results]
    longest = max((len(result.chain.subtasks) for result in results), default=0)
    tried: Counter[str] = Counter()
    steps: dict[str, list[int]] = {}
    for result in results:
        for subtask, attempt in zip(result.chain.subtasks, result.attempts, strict=False):
            tried[subtask] += 1
            if attempt.success:
                steps.setdefault(subtask, []).append(attempt.steps)
    return {
        "chains": len(results),
        "success_at": {
            str(k): _rate(sum(length >= k for length in lengths), len(lengths)) for k in range(1, longest + 1)
        },
        "average_length": sum(lengths) / max(1, len(lengths)),
        "average_length_interval": bootstrap_interval(lengths),
        "tasks": {
            task: {**_rate(len(steps.get(task, ())), count), "mean_steps": _mean(steps.get(task, ()))}
            for task, count in sorted(tried.items())
        },
    }


def _rate(successes: int, trials: int) -> dict[str, Any]:
    rate = successes / max(1, trials)
    return {"successes": successes, "trials": trials, "rate": rate, "interval": wilson_interval(successes, trials)}


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None
