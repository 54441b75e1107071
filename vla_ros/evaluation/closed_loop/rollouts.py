# SPDX-License-Identifier: Apache-2.0
"""Rollouts of single tasks and of chains of tasks, in worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vla_ros.evaluation.benchmarks import calvin, libero, tabletop
from vla_ros.evaluation.closed_loop.config import VIDEOS, Condition, EvaluationConfig
from vla_ros.evaluation.closed_loop.workers import PolicyWorker, run_in_workers, tabletop_env
from vla_ros.evaluation.errors import EvaluationError
from vla_ros.evaluation.protocols.chains import STEPS_PER_SUBTASK, Attempt, Chain, ChainResult, run_chain
from vla_ros.evaluation.reports.video import RolloutVideo
from vla_ros.runtime.rollout import EpisodeResult, run_episode
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TASKS


@dataclass(frozen=True)
class RolloutRequest:
    """One rollout: the scene of `task` and `seed`, a command, and the task whose success counts (`judged`)."""

    task: str
    seed: int
    command: str
    judged: str


def select_tasks(config: EvaluationConfig) -> list[str]:
    """Expand the configured tasks, kinds and sets of tasks."""
    if config.suite:
        return libero.select_tasks(config.suite, config.tasks)
    tasks = tabletop.select_tasks(config.tasks)
    if config.swap_colour and not all(TASKS[task].color for task in tasks):
        raise EvaluationError("--swap-colour needs tasks that name a block, for instance --tasks pick_up")
    return tasks


def request_rollouts(config: EvaluationConfig, tasks: Sequence[str]) -> list[RolloutRequest]:
    """Return the configured rollouts of each task, with consecutive seeds and cycling through its phrasings."""
    if config.suite:
        return _libero_requests(config, config.suite, tasks)
    requests = []
    for task in tasks:
        for index in range(config.rollouts):
            judged = tabletop.other_colour(task, index) if config.swap_colour else task
            texts = _phrasings(config, judged)
            command = config.command_override or texts[index % len(texts)]
            requests.append(RolloutRequest(task, config.seed + index, command, judged))
    return requests


def _phrasings(config: EvaluationConfig, task: str) -> tuple[str, ...]:
    return TASKS[task].held_out if config.phrasings == "held_out" else TASKS[task].phrasings


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
    """Run the requests in worker processes, and yield their results in order."""
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


def run_chains(config: EvaluationConfig, condition: Condition, numbers: Sequence[int]) -> Iterator[ChainResult]:
    """Run the chains `numbers` in worker processes, and yield their results in order."""
    if config.env == "tabletop":
        return run_in_workers(TabletopChainWorker, config, condition, numbers)
    chains = calvin.draw_chains(calvin.installed(), config.chains or calvin.CHAINS)
    return run_in_workers(CalvinWorker, config, condition, [chains[number] for number in numbers])


class TabletopChainWorker(PolicyWorker):
    """A policy and the simulated arm."""

    def __init__(self, config: EvaluationConfig, condition: Condition) -> None:
        super().__init__(config, condition)
        self._env = tabletop_env(self.control_hz)
        self._blind = TabletopEnv(control_hz=self.control_hz, render=False)

    def run(self, number: int) -> ChainResult:
        """Draw chain `number` and run it."""
        chain = tabletop.draw_chain(number, self.config.seed + number, self._blind)
        return run_chain(chain, lambda one: tabletop.set_up(self._env, one), self._attempt, STEPS_PER_SUBTASK)

    def _attempt(self, task: str, steps: int) -> Attempt:
        command = _phrasings(self.config, task)[0]  # the first, like CALVIN
        return tabletop.attempt(self._env, self.runner, task, self.episode(command, steps))

    def close(self) -> None:
        """Free the OpenGL context."""
        self._env.close()


class CalvinWorker(PolicyWorker):
    """A policy and CALVIN's simulator."""

    def __init__(self, config: EvaluationConfig, condition: Condition) -> None:
        super().__init__(config, condition)
        assert config.dataset is not None
        self._calvin = calvin.installed()
        self._simulator = self._calvin.environment(config.dataset / "validation")
        self._env = calvin.CalvinEnv(self._calvin, self._simulator, self.control_hz)

    def run(self, request: tuple[Chain, dict[str, Any]]) -> ChainResult:
        """Run a chain from an initial condition."""
        chain, condition = request
        return run_chain(chain, lambda _: self._env.set_up(condition), self._attempt, STEPS_PER_SUBTASK)

    def _attempt(self, task: str, steps: int) -> Attempt:
        config = self.episode(str(self._calvin.texts[task][0]), calvin.max_ticks(steps, self.control_hz))
        return calvin.attempt(self._env, self.runner, task, config)

    def close(self) -> None:
        """Disconnect from the physics server."""
        self._simulator.close()
