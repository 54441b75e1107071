# SPDX-License-Identifier: Apache-2.0
"""Rollouts of single tasks on the simulated arm or LIBERO, in worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vla_ros.evaluation.benchmarks import libero, tabletop
from vla_ros.evaluation.closed_loop.config import VIDEOS, Condition, EvaluationConfig
from vla_ros.evaluation.closed_loop.workers import PolicyWorker, run_in_workers, tabletop_env
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.reports.video import RolloutVideo
from vla_ros.runtime.rollout import EpisodeResult, run_episode
from vla_ros.sim.tasks import TASKS


@dataclass(frozen=True)
class RolloutRequest:
    """One rollout: the scene of `task` and `seed`, a command, and the task whose success counts (`judged`)."""

    task: str
    seed: int
    command: str
    judged: str


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
    """Return the configured rollouts of each task, with consecutive seeds and cycling through its phrasings.

    Raises:
        EvaluationError: A LIBERO task has too few initial states.
    """
    if config.suite:
        return _libero_requests(config, config.suite, tasks)
    requests = []
    for task in tasks:
        for index in range(config.rollouts):
            judged = tabletop.other_colour(task, index) if config.swap_colour else task
            texts = TASKS[judged].held_out if config.phrasings == "held_out" else TASKS[judged].phrasings
            command = config.command_override or texts[index % len(texts)]
            requests.append(RolloutRequest(task, config.seed + index, command, judged))
    return requests


def _libero_requests(config: EvaluationConfig, suite: str, tasks: Sequence[str]) -> list[RolloutRequest]:
    languages = libero.task_languages(suite)
    for task in tasks:
        states = libero.initial_states(suite, task)
        if config.seed + config.rollouts > states:
            raise EvaluationError(
                f"--rollouts {config.rollouts} from --seed {config.seed} exceeds the initial states of {task}, 0 to "
                f"{states - 1}; each is used once, so lower --rollouts or --seed"
            )
    return [
        RolloutRequest(task, config.seed + index, config.command_override or languages[task], task)
        for task in tasks
        for index in range(config.rollouts)
    ]


def run_rollouts(
    config: EvaluationConfig, condition: Condition, requests: Sequence[RolloutRequest]
) -> Iterator[EpisodeResult]:
    """Run the requests in worker processes, and yield their results in order.

    Raises:
        UserError: The checkpoint or robot file cannot be loaded, or the cameras lack OpenGL.
    """
    return run_in_workers(RolloutWorker, config, condition, requests)


class RolloutWorker(PolicyWorker):
    """A policy, and the simulated arm or LIBERO."""

    def __init__(self, config: EvaluationConfig, condition: Condition) -> None:
        super().__init__(config, condition)
        self._tabletop = None if config.suite else tabletop_env(self.control_hz)
        self._env = self._tabletop or libero.LiberoEnv(config.suite or "")

    def run(self, request: RolloutRequest) -> EpisodeResult:
        """Run one rollout."""
        options = {"task": request.task, "command": request.command}
        observation, _ = self._env.reset(seed=request.seed, options=options)
        if self._tabletop is not None:
            self._tabletop.task = TASKS[request.judged]
        video = RolloutVideo(self.runner.contract.camera_names) if self.config.videos else None
        episode = self.episode(request.command, max(1, math.floor(self.config.max_time_s * self.control_hz)))
        result = run_episode(self._env, self.runner, observation, episode, video.on_frame if video else None)
        if video is not None and self.config.output is not None:
            name = f"{request.task}-{request.seed}-{'success' if result.success else 'failure'}.webp"
            video.save(self.config.output / VIDEOS / name, self.control_hz)
        return result

    def close(self) -> None:
        """Free the OpenGL context."""
        self._env.close()
