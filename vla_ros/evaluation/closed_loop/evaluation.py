# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint in simulation: rollouts of tasks under some conditions, or chains, resumable on disk."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from vla_ros.contract import Timing
from vla_ros.evaluation.benchmarks import libero, tabletop
from vla_ros.evaluation.closed_loop.chain_rollouts import run_chains
from vla_ros.evaluation.closed_loop.config import BLANKS, EvaluationConfig, check_contract
from vla_ros.evaluation.closed_loop.rollouts import (
    Outcome,
    RolloutRequest,
    RolloutSettings,
    libero_requests,
    run_rollouts,
    tabletop_requests,
)
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.chains import ChainResult, chain_statistics, merge
from vla_ros.evaluation.protocols.intervals import wilson_interval
from vla_ros.evaluation.protocols.result_log import ResultLog
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.robot import load_robot
from vla_ros.runtime.planning.planner import check_trained_with_delays

VIDEOS = "videos"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the same rollouts run under.

    Attributes:
        delay_ms: Time to compute a chunk; None if given in ticks.
        delay_ticks: From an observation until its chunk takes effect.
        busy_ticks: From an observation until the next one is taken.
    """

    executor: str
    delay_ms: float | None
    delay_ticks: int
    busy_ticks: int

    @property
    def name(self) -> str:
        """What affects a rollout: equal names are one measurement."""
        return f"{self.executor}, {self.delay_ticks} ticks, one in {self.busy_ticks}"


def evaluate(config: EvaluationConfig) -> dict[str, Any] | None:
    """Evaluate a checkpoint and return the results as plain types; None while other ranks are unfinished.

    Raises:
        EvaluationError: The configuration does not fit the checkpoint or the tasks.
    """
    tasks = [] if config.chains else select_tasks(config)
    if config.robot:
        load_robot(config.robot)  # fail here, not in every worker
    policy = load_checkpoint(config.checkpoint)
    check_contract(policy.contract, config)
    if "delay_aware" in config.executors:
        check_trained_with_delays(policy.config.max_delay_steps)
    started_s = time.monotonic()
    if config.chains:
        results = _evaluate_chains(config)
    else:
        results = _evaluate_tasks(config, request_rollouts(config, tasks), policy.contract.timing)
    if results is None:
        return None
    return {**results, "wall_s": round(time.monotonic() - started_s, 1), "settings": config.settings()}


def select_tasks(config: EvaluationConfig) -> list[str]:
    """Expand the configured tasks, kinds and sets of tasks.

    Raises:
        EvaluationError: A task is unknown, or has no colour to swap.
    """
    if config.suite:
        return libero.select_tasks(config.suite, config.tasks)
    tasks = tabletop.select_tasks(config.tasks)
    if config.swap_colour and not all(map(tabletop.has_colour, tasks)):
        raise EvaluationError("--swap-colour needs tasks that name a block, for instance --tasks pick_up")
    return tasks


def request_rollouts(config: EvaluationConfig, tasks: Sequence[str]) -> list[RolloutRequest]:
    """Return the configured rollouts of `tasks`.

    Raises:
        EvaluationError: A LIBERO task has too few initial states.
    """
    if config.suite:
        return libero_requests(config.suite, tasks, config.rollouts, config.seed, config.command_override)
    return tabletop_requests(
        tasks,
        config.rollouts,
        config.seed,
        phrasings=config.phrasings,
        command=config.command_override,
        swap_colour=config.swap_colour,
    )


def _evaluate_tasks(
    config: EvaluationConfig, requests: Sequence[RolloutRequest], timing: Timing
) -> dict[str, Any] | None:
    """Run every request under every condition; conditions with the same ticks are measured once."""
    conditions = [_condition(config, *one, timing) for one in config.conditions]
    work = {
        f"{condition.name}, {request.task} {request.seed}": (condition, request)
        for condition in {condition.name: condition for condition in conditions}.values()
        for request in requests
    }
    log = _open_log(config)
    done = _outcomes(log)
    share = [key for key in _share(list(work), config) if key not in done]
    for name in dict.fromkeys(condition.name for condition in conditions):
        missing = [key for key in share if work[key][0].name == name]
        if not missing:
            continue
        outcomes = run_rollouts(
            _rollout_settings(config, work[missing[0]][0]), [work[key][1] for key in missing], config.workers
        )
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


def _rollout_settings(config: EvaluationConfig, condition: Condition) -> RolloutSettings:
    return RolloutSettings(
        checkpoint=config.checkpoint,
        robot=config.robot,
        max_time_s=config.max_time_s,
        delay_ticks=condition.delay_ticks,
        busy_ticks=condition.busy_ticks,
        blank=BLANKS[config.blank],
        executor=condition.executor,
        suite=config.suite or "",
        videos=str(config.output / VIDEOS) if config.videos and config.output else "",
    )


def _condition(config: EvaluationConfig, executor: str, delay_ms: float | None, timing: Timing) -> Condition:
    if delay_ms is None:
        return Condition(executor, None, config.delay_ticks, max(1, config.delay_ticks - 1))
    return Condition(executor, delay_ms, *delay_in_ticks(delay_ms, timing))


def delay_in_ticks(inference_ms: float, timing: Timing) -> tuple[int, int]:
    """Return the ticks until a chunk takes effect, and between observations, for an inference time; each at least 1.

    As in real time: an observation is complete a settle time after its tick, the arm acts on grid ticks, and one engine
    computes one chunk at a time while the world moves on. The simulation's own inference time does not count.
    """
    delays_s = (timing.settle_s + inference_ms / 1e3, inference_ms / 1e3)
    delay, busy = (max(1, math.ceil(round(seconds * timing.control_hz, 6))) for seconds in delays_s)
    return delay, busy


def _evaluate_chains(config: EvaluationConfig) -> dict[str, Any] | None:
    chains = config.chains or 0
    log = _open_log(config)
    done = _chain_results(log)
    known = {result.chain.number for result in done}
    missing = [number for number in _share(range(chains), config) if number not in known]
    for result in run_chains(config, missing) if missing else ():
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


def _outcomes(log: ResultLog | None) -> dict[str, Outcome]:
    return {row["key"]: Outcome.from_dict(row["outcome"]) for row in log.results()} if log else {}


def _chain_results(log: ResultLog | None) -> list[ChainResult]:
    return [ChainResult.from_dict(row) for row in log.results()] if log else []


def _share(work: Sequence[T], config: EvaluationConfig) -> Sequence[T]:
    return work[config.rank :: config.ranks]


def rollout_statistics(requests: Sequence[RolloutRequest], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return successes by task, the total with its 95 % interval, missed ticks and inference times."""
    by_task: dict[str, list[Outcome]] = {}
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


def _count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    times = [outcome.time_s for outcome in outcomes if outcome.success]
    return {
        "successes": len(times),
        "rollouts": len(outcomes),
        "success_rate": len(times) / max(1, len(outcomes)),
        "interval": wilson_interval(len(times), len(outcomes)),
        "mean_time_s": statistics.mean(times) if times else None,
    }
