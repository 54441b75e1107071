# SPDX-License-Identifier: Apache-2.0
"""Closed-loop rollouts of a checkpoint on a simulated robot, in worker processes, and how to count them."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol

import torch

from vla_ros.errors import UserError
from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.protocols.film import Film
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.runner import PolicyRunner
from vla_ros.robot import load_robot
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.rollout import rollout
from vla_ros.runtime.safety.governor import SafetyGovernor
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.state import COLORS
from vla_ros.sim.tasks import TASKS

# As config/policy.yaml has them.
HORIZON_TICKS, ENSEMBLE_DECAY = 4, 0.01


@dataclass(frozen=True)
class RolloutRequest:
    """One episode: the scene of ``task`` and ``seed``, told ``command``; success is that of the task ``judged``."""

    task: str
    seed: int
    command: str
    judged: str


@dataclass(frozen=True)
class RolloutSettings:
    """What all rollouts of an evaluation share.

    robot: whose limits hold; empty: none but the simulator's own. suite: of LIBERO; empty: the table-top arm.
    busy_ticks: as ``pursue`` takes it.
    """

    checkpoint: str
    robot: str
    max_time_s: float
    delay_ticks: int
    blank: tuple[str, ...] = ()
    executor: str = "full_chunk"
    suite: str = ""
    busy_ticks: int | None = None
    films: str = ""  # folder for a film of every rollout; empty: none


@dataclass(frozen=True)
class Outcome:
    """How one rollout went."""

    success: bool
    time_s: float
    inference_ms: tuple[float, ...]
    ticks: int
    ticks_missed: int
    film: str = ""


def request_rollouts(
    tasks: Sequence[str],
    rollouts: int,
    first_seed: int,
    *,
    phrasings: str = "held_out",
    command: str | None = None,
    swap_colour: bool = False,
) -> list[RolloutRequest]:
    """Return ``rollouts`` requests for each task, with the seeds ``first_seed`` on.

    Args:
        phrasings: "train" or "held_out": which of the task's phrasings to go through.
        command: say this instead, whatever the task.
        swap_colour: name another colour than the task's, in turn; the other block is then the one that counts.
    """
    requests = []
    for name in tasks:
        for index in range(rollouts):
            judged = _other_colour(name, index) if swap_colour else name
            task = TASKS[judged]
            texts = task.held_out if phrasings == "held_out" else task.phrasings
            requests.append(RolloutRequest(name, first_seed + index, command or texts[index % len(texts)], judged))
    return requests


def libero_requests(
    suite: str, tasks: Sequence[str], rollouts: int, first_state: int, command: str | None
) -> list[RolloutRequest]:
    """Return ``rollouts`` requests for each task of LIBERO, from its initial state ``first_state`` on.

    Raises:
        LiberoError: a task has fewer initial states.
    """
    languages = libero.task_languages(suite)
    for task in tasks:
        there = libero.initial_states(suite, task)
        if first_state + rollouts > there:
            raise libero.LiberoError(
                f"--rollouts {rollouts} from --seed {first_state} on: {task} has the initial states 0 to {there - 1}; "
                "allowed: as many as there are, each once"
            )
    return [
        RolloutRequest(task, first_state + index, command or languages[task], task)
        for task in tasks
        for index in range(rollouts)
    ]


def run_rollouts(settings: RolloutSettings, requests: Sequence[RolloutRequest], workers: int) -> Iterator[Outcome]:
    """Run the requests in ``workers`` processes, each with one checkpoint, one simulator and one thread.

    Yields:
        Their outcomes in the same order, as they come.

    Raises:
        UserError: the checkpoint or the robot's file can't be loaded, or there is no OpenGL for the cameras.
    """
    return in_workers(RolloutWorker, settings, requests, workers)


class Worker(Protocol):
    """What does one piece of an evaluation after the other, in one thread; made with the settings of all of them."""

    def run(self, request: Any) -> Any: ...

    def close(self) -> None: ...


def in_workers(
    make: Callable[[Any], Worker], settings: Any, requests: Sequence[Any], workers: int
) -> Iterator[Any]:  # fmt: skip
    """Yield what ``make(settings).run`` returns for each request, in order, from ``workers`` processes."""
    if workers <= 1:
        with closing(make(settings)) as worker:
            yield from map(worker.run, requests)
        return
    context = multiprocessing.get_context("spawn")  # neither torch nor OpenGL survive a fork
    with ProcessPoolExecutor(workers, context, _start_worker, (make, settings)) as pool:
        yield from pool.map(_run, requests)


def _other_colour(task: str, index: int) -> str:
    """Return the task's twin of another colour; the two others take turns with ``index``."""
    twins = [twin.name for twin in TASKS.values() if twin.kind == TASKS[task].kind and twin.name != task]
    return twins[index % len(twins)]


def has_colour(task: str) -> bool:
    """Whether the task names a block."""
    return TASKS[task].color in COLORS


class _JudgedEnv:
    """The environment, with success read for another task than the one that the scene was made for."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.judged = ""

    @property
    def control_hz(self) -> float:
        return self.env.control_hz

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self.env.task = TASKS[self.judged]
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.env.step(action)

    def close(self) -> None:
        self.env.close()


class RolloutWorker:
    """A checkpoint and a simulator, which belong to the thread that makes this object."""

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        self._runner = PolicyRunner(load_checkpoint(settings.checkpoint))
        self._runner.warm_up()
        self._period_s = self._runner.contract.timing.period_ns / 1e9
        self._limits = load_robot(settings.robot).limits if settings.robot else None
        self._judged = None if settings.suite else _JudgedEnv(tabletop(self._runner.contract.timing.control_hz))
        self._env = self._judged or libero.LiberoEnv(settings.suite)

    def run(self, request: RolloutRequest) -> Outcome:
        if self._judged is not None:
            self._judged.judged = request.judged
        contract = self._runner.contract
        governor = None
        if self._limits is not None:
            governor = SafetyGovernor(self._limits, period_s=self._period_s, armed=True)
        film = Film(contract.camera_names) if self._settings.films else None
        result = rollout(
            self._env,
            self._runner,
            seed=request.seed,
            task=request.task,
            command=request.command,
            max_time_s=self._settings.max_time_s,
            delay_ticks=self._settings.delay_ticks,
            busy_ticks=self._settings.busy_ticks,
            blank=self._settings.blank,
            governor=governor,
            executor=make_executor(self._settings.executor, horizon=HORIZON_TICKS, decay=ENSEMBLE_DECAY),
            on_frame=None if film is None else film.on_frame,
        )
        name = ""
        if film is not None:
            name = f"{request.task}-{request.seed}-{'success' if result.success else 'failure'}.webp"
            film.save(Path(self._settings.films) / name, contract.timing.control_hz)
        inference_ms = tuple(round(ms, 3) for ms in result.inference_ms)
        return Outcome(result.success, result.time_s, inference_ms, result.ticks, result.ticks_missed, name)

    def close(self) -> None:
        self._env.close()


def tabletop(control_hz: float) -> TabletopEnv:
    """Return the simulated arm with its cameras; UserError where they can't render."""
    try:
        return TabletopEnv(control_hz=control_hz)
    except RuntimeError as error:  # no off-screen OpenGL; it says what to install
        raise UserError(str(error)) from None


_make: Callable[[], Worker] | None = None  # of this worker process
_worker: Worker | None = None


def _start_worker(make: Callable[[Any], Worker], settings: Any) -> None:
    global _make
    torch.set_num_threads(1)
    _make = functools.partial(make, settings)


def _run(request: Any) -> Any:
    global _worker
    if _worker is None:  # here, not at the start: what is raised here reaches the caller
        assert _make is not None
        _worker = _make()
        Finalize(None, _worker.close, exitpriority=1)  # the OpenGL context goes before the interpreter does
    return _worker.run(request)
