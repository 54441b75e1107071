# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint in simulation: rollouts of tasks under some conditions, or chains, resumable on disk."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_ros.evaluation.closed_loop.config import Condition, EvaluationConfig, check_contract
from vla_ros.evaluation.closed_loop.rollouts import (
    RolloutRequest,
    request_rollouts,
    run_chains,
    run_rollouts,
    select_tasks,
)
from vla_ros.evaluation.protocols.chains import ChainResult, chain_statistics, merge
from vla_ros.evaluation.protocols.intervals import wilson_interval
from vla_ros.evaluation.protocols.result_log import ResultLog
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.robot import load_robot
from vla_ros.runtime.rollout import EpisodeResult


def evaluate(config: EvaluationConfig) -> dict[str, Any] | None:
    """Evaluate a checkpoint and return the results as plain types; None while other ranks are unfinished."""
    tasks = [] if config.chains else select_tasks(config)
    if config.robot:
        load_robot(config.robot)  # fail here, not in every worker
    contract = load_checkpoint(config.checkpoint).contract
    check_contract(contract, config)
    started_s = time.monotonic()
    conditions = config.conditions(contract.timing)
    if config.chains:
        results = _evaluate_chains(config, conditions[0])
    else:
        results = _evaluate_tasks(config, conditions, request_rollouts(config, tasks))
    if results is None:
        return None
    return {**results, "wall_s": round(time.monotonic() - started_s, 1), "settings": config.settings()}


def _evaluate_tasks(
    config: EvaluationConfig, conditions: Sequence[Condition], requests: Sequence[RolloutRequest]
) -> dict[str, Any] | None:
    """Run every request under every condition; conditions with the same ticks are measured once."""
    different = {condition.name: condition for condition in conditions}
    work = {
        f"{condition.name}, {request.task} {request.seed}": (condition, request)
        for condition in different.values()
        for request in requests
    }
    log = _open_log(config)
    done = _outcomes(log)
    share = [key for key in list(work)[config.rank :: config.ranks] if key not in done]
    for name, condition in different.items():
        missing = [key for key in share if work[key][0].name == name]
        outcomes = run_rollouts(config, condition, [work[key][1] for key in missing]) if missing else ()
        for key, outcome in zip(missing, outcomes, strict=True):
            done[key] = outcome
            if log:
                log.add({"key": key, "outcome": dataclasses.asdict(outcome)})
    done |= _outcomes(log)  # of ranks that have finished meanwhile
    if not work.keys() <= done.keys():
        return None
    by_condition = [
        [done[key] for key, (other, _) in work.items() if other.name == condition.name] for condition in conditions
    ]
    results = rollout_statistics(requests, by_condition[0])
    if len(conditions) > 1:
        rows = zip(conditions, by_condition, strict=True)
        results["conditions"] = [{**dataclasses.asdict(one), **_count(outcomes)} for one, outcomes in rows]
    return results


def _evaluate_chains(config: EvaluationConfig, condition: Condition) -> dict[str, Any] | None:
    chains = config.chains or 0
    log = _open_log(config)
    done = _chain_results(log)
    known = {result.chain.number for result in done}
    missing = [number for number in range(config.rank, chains, config.ranks) if number not in known]
    for result in run_chains(config, condition, missing) if missing else ():
        done.append(result)
        if log:
            log.add(result.to_dict())
        print(f"chain {result.chain.number}: {result.length} of {', '.join(result.chain.subtasks)}", flush=True)
    others = _chain_results(log)  # including ranks that have finished meanwhile
    if len({result.chain.number for result in (*done, *others)}) < chains:
        return None
    return chain_statistics(merge([done, others], chains))


def _open_log(config: EvaluationConfig) -> ResultLog | None:
    return None if config.output is None else ResultLog(config.output, config.settings(), config.rank)


def _outcomes(log: ResultLog | None) -> dict[str, EpisodeResult]:
    names = [field.name for field in dataclasses.fields(EpisodeResult)]
    rows = log.results() if log else ()
    return {row["key"]: EpisodeResult(**{name: row["outcome"][name] for name in names}) for row in rows}


def _chain_results(log: ResultLog | None) -> list[ChainResult]:
    return [ChainResult.from_dict(row) for row in log.results()] if log else []


def rollout_statistics(requests: Sequence[RolloutRequest], outcomes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Return successes by task, the total with its 95 % interval, missed ticks and inference times."""
    by_task: dict[str, list[EpisodeResult]] = {}
    for request, outcome in zip(requests, outcomes, strict=True):
        by_task.setdefault(request.task, []).append(outcome)
    inference = np.array([ms for outcome in outcomes for ms in outcome.inference_ms] or [math.nan])
    total = _count(outcomes)
    return {
        "tasks": {task: _count(of_task) for task, of_task in by_task.items()},
        "total": total,
        "success_rate": total["success_rate"],
        "ticks": {"total": sum(o.ticks for o in outcomes), "missed": sum(o.ticks_missed for o in outcomes)},
        "inference_ms": {"p50": float(np.percentile(inference, 50)), "p95": float(np.percentile(inference, 95))},
    }


def _count(outcomes: Sequence[EpisodeResult]) -> dict[str, Any]:
    times = [outcome.time_s for outcome in outcomes if outcome.success]
    return {
        "successes": len(times),
        "rollouts": len(outcomes),
        "success_rate": len(times) / max(1, len(outcomes)),
        "interval": wilson_interval(len(times), len(outcomes)),
        "mean_time_s": statistics.mean(times) if times else None,
    }
