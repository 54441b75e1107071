# SPDX-License-Identifier: Apache-2.0
"""What `vla evaluate` runs and counts: rollouts of tasks under some conditions, or chains, kept on disk or not."""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from vla_ros.contract import PolicyContract, Timing
from vla_ros.evaluation.closed_loop.chain_rollouts import ChainSettings, run_chains
from vla_ros.evaluation.closed_loop.rollouts import (
    Outcome,
    RolloutRequest,
    RolloutSettings,
    libero_requests,
    request_rollouts,
    run_rollouts,
)
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.chains import STEPS_PER_SUBTASK, ChainResult, merge
from vla_ros.evaluation.protocols.chains import summarise as summarise_chains
from vla_ros.evaluation.protocols.intervals import wilson_interval
from vla_ros.evaluation.protocols.result_log import Record

FILMS = "films"
BLANKS = {"none": (), "static": ("static",), "wrist": ("wrist",), "both": ("static", "wrist")}
T = TypeVar("T")


def evaluate_tasks(args: argparse.Namespace, tasks: Sequence[str], contract: PolicyContract) -> dict[str, Any] | None:
    """Run single tasks and return their report; None while other ranks are not done.

    Delays that come to the same numbers of ticks are one measurement: rollouts are the same whenever they are run.
    """
    requests = _requests(args, tasks)
    conditions = _conditions(args, contract)
    if len(set(conditions)) < len(conditions):
        raise EvaluationError("--delays or --executors names the same twice")
    different = {condition.name: condition for condition in conditions}
    wanted = [(condition, request) for condition in different.values() for request in requests]
    keys = [f"{condition.name}, {request.task} {request.seed}" for condition, request in wanted]
    if args.films and len(conditions) > 1:
        raise EvaluationError(
            "--films goes with one executor and one delay, since each rollout has one film; give one of each"
        )
    record = _open_record(args)
    done = _outcomes(record)
    for condition in different.values():
        missing = [
            (key, request)
            for key, (which, request) in _share(list(zip(keys, wanted, strict=True)), args.rank)
            if which == condition and key not in done
        ]
        settings = RolloutSettings(
            checkpoint=str(args.checkpoint),
            robot=args.robot,
            max_time_s=args.max_time,
            delay_ticks=condition.delay_ticks,
            busy_ticks=condition.busy_ticks,
            blank=BLANKS[args.blank],
            executor=condition.executor,
            suite=args.suite or "",
            films=str(args.output / FILMS) if args.films else "",
        )
        outcomes = run_rollouts(settings, [request for _, request in missing], args.workers) if missing else ()
        for (key, _), outcome in zip(missing, outcomes, strict=True):
            done[key] = outcome
            if record:
                record.add({"key": key, "outcome": dataclasses.asdict(outcome)})
    done |= _outcomes(record)  # of ranks that have gone on meanwhile
    if any(key not in done for key in keys):
        return None
    by_condition = {
        condition.name: [done[key] for key, (which, _) in zip(keys, wanted, strict=True) if which == condition]
        for condition in different.values()
    }
    report = summarise(requests, by_condition[conditions[0].name])
    if len(conditions) > 1:
        report["conditions"] = [
            {**dataclasses.asdict(condition), **_count(by_condition[condition.name])} for condition in conditions
        ]
    return report


def _requests(args: argparse.Namespace, tasks: Sequence[str]) -> list[RolloutRequest]:
    if args.suite:
        return libero_requests(args.suite, tasks, args.rollouts, args.seed, args.command_override)
    return request_rollouts(
        tasks,
        args.rollouts,
        args.seed,
        phrasings=args.phrasings,
        command=args.command_override,
        swap_colour=args.swap_colour,
    )


def evaluate_chains(args: argparse.Namespace) -> dict[str, Any] | None:
    """Run chains and return their report; None while other ranks are not done."""
    record = _open_record(args)
    done = _chain_results(record)
    settings = ChainSettings(
        checkpoint=str(args.checkpoint),
        chains=args.chains,
        robot=args.robot,
        first_seed=args.seed,
        phrasings=args.phrasings,
        delay_ticks=args.delay_ticks,
        steps=STEPS_PER_SUBTASK,
        executor=args.executors[0],
        dataset=str(args.dataset or ""),
    )
    known = {result.chain.number for result in done}
    missing = [number for number in _share(range(args.chains), args.rank) if number not in known]
    for result in run_chains(settings, missing, args.workers) if missing else ():
        done.append(result)
        if record:
            record.add(result.to_dict())
        print(f"chain {result.chain.number}: {result.length} of {', '.join(result.chain.subtasks)}", flush=True)
    others = _chain_results(record)  # of ranks that have gone on meanwhile, too
    if len({result.chain.number for result in (*done, *others)}) < args.chains:
        return None
    return summarise_chains(merge([done, others], args.chains))


def _outcomes(record: Record | None) -> dict[str, Outcome]:
    """Return what is kept on disk, by key."""
    rows = record.results() if record else ()
    return {
        row["key"]: Outcome(**{**row["outcome"], "inference_ms": tuple(row["outcome"]["inference_ms"])}) for row in rows
    }


def _chain_results(record: Record | None) -> list[ChainResult]:
    return [ChainResult.from_dict(row) for row in record.results()] if record else []


def _open_record(args: argparse.Namespace) -> Record | None:
    """Return where results are kept, None without --output."""
    if args.output is None:
        return None
    rank = rank_of(args.rank)[0]
    return Record(args.output, settings_of(args), rank)


def rank_of(text: str) -> tuple[int, int]:
    """Return which of how many shares.

    Raises:
        EvaluationError: the text does not say that.
    """
    number, slash, ranks = text.partition("/")
    if slash and number.isdigit() and ranks.isdigit() and int(number) < int(ranks):
        return int(number), int(ranks)
    raise EvaluationError(f"--rank is {text!r}; allowed: 0/1 for all of it, or for instance 0/4, 1/4, 2/4 and 3/4")


def _share(work: Sequence[T], rank: str) -> Sequence[T]:
    number, ranks = rank_of(rank)
    return work[number::ranks]


@dataclass(frozen=True)
class Condition:
    """What the same rollouts are run under; delay_ms is how long a chunk is computed for.

    delay_ticks: from its observation until it is executed; busy_ticks: until the next observation can be taken.
    """

    executor: str
    delay_ms: float | None
    delay_ticks: int
    busy_ticks: int

    @property
    def name(self) -> str:
        """What makes a difference to a rollout."""
        return f"{self.executor}, {self.delay_ticks} ticks, one in {self.busy_ticks}"


def _conditions(args: argparse.Namespace, contract: PolicyContract) -> list[Condition]:
    delays: list[tuple[float | None, int, int]] = [(None, args.delay_ticks, max(1, args.delay_ticks - 1))]
    if args.delays:
        delays = [(ms, *ticks_of(ms, contract.timing)) for ms in args.delays]
    return [Condition(executor, *delay) for executor in args.executors for delay in delays]


def ticks_of(added_ms: float, timing: Timing) -> tuple[int, int]:
    """Return for a chunk whose computing takes so long: after how many ticks it is executed, and every how many ticks
    one can be begun; 1 each at the least.

    As in real time: an observation is complete a settle time after its tick, the arm acts on ticks of the grid, the
    world goes on meanwhile, and there is one engine. What computing really takes here is not counted.
    """
    way_s = (timing.settle_s + added_ms / 1e3, added_ms / 1e3)
    delay, busy = (max(1, math.ceil(round(seconds * timing.control_hz, 6))) for seconds in way_s)
    return delay, busy


def summarise(requests: Sequence[RolloutRequest], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return successes by task, the total with its 95 % interval, and the inference time."""
    by_task: dict[str, list[Outcome]] = {}
    for request, outcome in zip(requests, outcomes, strict=True):
        by_task.setdefault(request.task, []).append(outcome)
    inference = np.array([ms for outcome in outcomes for ms in outcome.inference_ms] or [float("nan")])
    total = _count(outcomes)
    return {
        "tasks": {task: _count(of_task) for task, of_task in by_task.items()},
        "total": total,
        "success_rate": total["success_rate"],
        "ticks": {"total": sum(o.ticks for o in outcomes), "missed": sum(o.ticks_missed for o in outcomes)},
        "inference_ms": {"p50": float(np.percentile(inference, 50)), "p95": float(np.percentile(inference, 95))},
    }


def _count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    times = [outcome.time_s for outcome in outcomes if outcome.success]
    return {
        "successes": len(times),
        "rollouts": len(outcomes),
        "success_rate": len(times) / max(1, len(outcomes)),
        "interval": wilson_interval(len(times), len(outcomes)),
        "mean_time_s": statistics.mean(times) if times else None,
    }


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that change the figures."""
    names = (
        "env", "suite", "dataset", "tasks", "rollouts", "chains", "seed", "phrasings", "blank", "command_override",
        "swap_colour", "delay_ticks", "delays", "executors", "max_time", "robot",
    )  # fmt: skip
    values = {name: getattr(args, name) for name in names}
    return {"checkpoint": str(args.checkpoint), **values, "dataset": args.dataset and str(args.dataset)}
