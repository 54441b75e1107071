# SPDX-License-Identifier: Apache-2.0
"""Worker processes, each with a policy, a simulator and one thread."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from vla_ros.errors import UserError
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.inference import PolicyRunner
from vla_ros.robot import Limits, load_robot
from vla_ros.runtime.execution.executors import Executor, make_executor
from vla_ros.sim.env import TabletopEnv

# As in config/policy.yaml.
HORIZON_TICKS, ENSEMBLE_DECAY = 4, 0.01

Settings = TypeVar("Settings", bound=Hashable)
Request = TypeVar("Request", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Worker(Protocol[Request, Result]):
    """Runs requests one after the other in the thread that created it."""

    def run(self, request: Request, /) -> Result: ...

    def close(self) -> None: ...


def run_in_workers(
    create: Callable[[Settings], Worker[Request, Result]], settings: Settings, requests: Sequence[Request], workers: int
) -> Iterator[Result]:
    """Yield the result of each request in order, from `workers` processes that each run `create(settings)` once.

    Raises:
        UserError: A worker cannot be created.
    """
    if workers <= 1:
        with closing(create(settings)) as worker:
            yield from map(worker.run, requests)
        return
    context = multiprocessing.get_context("spawn")  # neither torch nor OpenGL survives a fork
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(functools.partial(_run, create, settings), requests)


def _run(create: Callable[[Any], Worker[Any, Any]], settings: Hashable, request: Any) -> Any:
    return _worker(create, settings).run(request)


@functools.cache
def _worker(create: Callable[[Any], Worker[Any, Any]], settings: Hashable) -> Worker[Any, Any]:
    """Return this process's worker; created on first use, so that its errors reach the caller."""
    worker = create(settings)
    Finalize(None, worker.close, exitpriority=1)  # free the OpenGL context before the interpreter exits
    return worker


def load_runner(checkpoint: str) -> PolicyRunner:
    """Load a checkpoint and warm it up."""
    runner = PolicyRunner(load_checkpoint(Path(checkpoint)))
    runner.warm_up()
    return runner


def load_limits(robot: str) -> Limits | None:
    """Return the limits in a robot file, or None for an empty name."""
    return load_robot(robot).limits if robot else None


def new_executor(name: str) -> Executor:
    """Return a new executor with the node's default parameters."""
    return make_executor(name, horizon=HORIZON_TICKS, decay=ENSEMBLE_DECAY)


def tabletop(control_hz: float) -> TabletopEnv:
    """Return the simulated arm with its cameras; UserError if they cannot render."""
    try:
        return TabletopEnv(control_hz=control_hz)
    except RuntimeError as error:  # no off-screen OpenGL; the message says what to install
        raise UserError(str(error)) from None
