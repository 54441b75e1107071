# SPDX-License-Identifier: Apache-2.0
"""Worker processes, each with a policy, a simulator and one thread."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from vla_ros.errors import UserError
from vla_ros.evaluation.closed_loop.config import BLANKS, Condition, EvaluationConfig
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.inference import PolicyRunner
from vla_ros.robot import load_robot
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.rollout import EpisodeConfig
from vla_ros.sim.env import TabletopEnv

Request = TypeVar("Request", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Worker(Protocol[Request, Result]):
    """Runs requests one after the other in the thread that created it."""

    def run(self, request: Request, /) -> Result: ...

    def close(self) -> None: ...


Create = Callable[[EvaluationConfig, Condition], Worker[Request, Result]]


def run_in_workers(
    create: Create[Request, Result], config: EvaluationConfig, condition: Condition, requests: Sequence[Request]
) -> Iterator[Result]:
    """Yield the result of each request in order, from processes that each run `create(config, condition)` once."""
    if config.workers <= 1:
        with closing(create(config, condition)) as worker:
            yield from map(worker.run, requests)
        return
    context = multiprocessing.get_context("spawn")  # neither torch nor OpenGL survives a fork
    with ProcessPoolExecutor(config.workers, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(functools.partial(_run, create, config, condition), requests)


def _run(create: Create[Any, Any], config: EvaluationConfig, condition: Condition, request: Any) -> Any:
    return _worker(create, config, condition).run(request)


@functools.cache
def _worker(create: Create[Any, Any], config: EvaluationConfig, condition: Condition) -> Worker[Any, Any]:
    """Return this process's worker; created on first use, so that its errors reach the caller."""
    worker = create(config, condition)
    Finalize(None, worker.close, exitpriority=1)  # free the OpenGL context before the interpreter exits
    return worker


class PolicyWorker:
    """A worker's policy, and how its episodes run."""

    def __init__(self, config: EvaluationConfig, condition: Condition) -> None:
        self.config, self._condition = config, condition
        self.runner = PolicyRunner(load_checkpoint(Path(config.checkpoint)))
        self.runner.warm_up()
        self.control_hz = self.runner.contract.timing.control_hz
        self._limits = load_robot(config.robot).limits if config.robot else None

    def episode(self, command: str, max_ticks: int) -> EpisodeConfig:
        """Return the configuration of one episode, with a new executor."""
        condition = self._condition
        return EpisodeConfig(
            command=command,
            max_ticks=max_ticks,
            delay_ticks=condition.delay_ticks,
            busy_ticks=condition.busy_ticks,
            blank=BLANKS[self.config.blank],
            limits=self._limits,
            executor=make_executor(condition.executor),
        )


def tabletop_env(control_hz: float) -> TabletopEnv:
    """Return the simulated arm with its cameras; UserError if they cannot render."""
    try:
        return TabletopEnv(control_hz=control_hz)
    except RuntimeError as error:  # no off-screen OpenGL; the message says what to install
        raise UserError(str(error)) from None
