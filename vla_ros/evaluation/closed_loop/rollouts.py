# SPDX-License-Identifier: Apache-2.0
"""Rollouts of single tasks on the simulated arm or LIBERO, in worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.evaluation.benchmarks import libero
from vla_ros.evaluation.benchmarks.tabletop import other_colour
from vla_ros.evaluation.closed_loop.workers import load_limits, load_runner, new_executor, run_in_workers, tabletop
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.reports.video import RolloutVideo
from vla_ros.runtime.rollout import EpisodeConfig, run_episode
from vla_ros.sim.tasks import TASKS


@dataclass(frozen=True)
class RolloutRequest:
    """One rollout: the scene of `task` and `seed`, a command, and the task whose success counts (`judged`)."""

    task: str
    seed: int
    command: str
    judged: str


@dataclass(frozen=True)
class RolloutSettings:
    """What all rollouts of an evaluation share.

    Attributes:
        robot: Robot file whose limits apply; empty for none.
        delay_ticks: See `EpisodeConfig`.
        busy_ticks: See `EpisodeConfig`.
        suite: LIBERO suite; empty for the simulated arm.
        videos: Folder for a video of each rollout; empty for none.
    """

    checkpoint: str
    robot: str
    max_time_s: float
    delay_ticks: int
    blank: tuple[str, ...] = ()
    executor: str = "full_chunk"
    suite: str = ""
    busy_ticks: int | None = None
    videos: str = ""


@dataclass(frozen=True)
class Outcome:
    """How one rollout went."""

    success: bool
    time_s: float
    inference_ms: tuple[float, ...]
    ticks: int
    ticks_missed: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Invert `dataclasses.asdict`."""
        times = (data["success"], data["time_s"], tuple(data["inference_ms"]))
        return cls(*times, data["ticks"], data["ticks_missed"])


def tabletop_requests(
    tasks: Sequence[str],
    rollouts: int,
    first_seed: int,
    *,
    phrasings: str = "held_out",
    command: str | None = None,
    swap_colour: bool = False,
) -> list[RolloutRequest]:
    """Return `rollouts` requests for each task, with seeds from `first_seed`.

    Args:
        phrasings: "train" or "held_out": which of the task's phrasings to cycle through.
        command: Overrides the phrasings for every task.
        swap_colour: Name another colour than the task's, alternating; that block counts.
    """
    requests = []
    for task in tasks:
        for index in range(rollouts):
            judged = other_colour(task, index) if swap_colour else task
            texts = TASKS[judged].held_out if phrasings == "held_out" else TASKS[judged].phrasings
            requests.append(RolloutRequest(task, first_seed + index, command or texts[index % len(texts)], judged))
    return requests


def libero_requests(
    suite: str, tasks: Sequence[str], rollouts: int, first_state: int, command: str | None
) -> list[RolloutRequest]:
    """Return `rollouts` requests for each LIBERO task, with initial states from `first_state`.

    Raises:
        EvaluationError: A task has fewer initial states.
    """
    languages = libero.task_languages(suite)
    for task in tasks:
        states = libero.initial_states(suite, task)
        if first_state + rollouts > states:
            raise EvaluationError(
                f"--rollouts {rollouts} from --seed {first_state} exceeds the initial states of {task}, 0 to "
                f"{states - 1}; each is used once, so lower --rollouts or --seed"
            )
    return [
        RolloutRequest(task, first_state + index, command or languages[task], task)
        for task in tasks
        for index in range(rollouts)
    ]


def run_rollouts(settings: RolloutSettings, requests: Sequence[RolloutRequest], workers: int) -> Iterator[Outcome]:
    """Run the requests in `workers` processes, and yield their outcomes in order.

    Raises:
        UserError: The checkpoint or robot file cannot be loaded, or the cameras lack OpenGL.
    """
    return run_in_workers(RolloutWorker, settings, requests, workers)


class RolloutWorker:
    """A policy and a simulator."""

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        self._runner = load_runner(settings.checkpoint)
        self._limits = load_limits(settings.robot)
        self._tabletop = None if settings.suite else tabletop(self._runner.contract.timing.control_hz)
        self._env = self._tabletop or libero.LiberoEnv(settings.suite)

    def run(self, request: RolloutRequest) -> Outcome:
        """Run one rollout."""
        settings, contract = self._settings, self._runner.contract
        options = {"task": request.task, "command": request.command}
        observation, _ = self._env.reset(seed=request.seed, options=options)
        if self._tabletop is not None:
            self._tabletop.task = TASKS[request.judged]
        video = RolloutVideo(contract.camera_names) if settings.videos else None
        config = EpisodeConfig(
            command=request.command,
            max_ticks=max(1, math.floor(settings.max_time_s * contract.timing.control_hz)),
            delay_ticks=settings.delay_ticks,
            busy_ticks=settings.busy_ticks,
            blank=settings.blank,
            limits=self._limits,
            executor=new_executor(settings.executor),
        )
        result = run_episode(self._env, self._runner, observation, config, video.on_frame if video else None)
        if video is not None:
            name = f"{request.task}-{request.seed}-{'success' if result.success else 'failure'}.webp"
            video.save(Path(settings.videos) / name, contract.timing.control_hz)
        inference_ms = tuple(round(ms, 3) for ms in result.inference_ms)
        return Outcome(result.success, result.time_s, inference_ms, result.ticks, result.ticks_missed)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._env.close()
