# SPDX-License-Identifier: Apache-2.0
"""Chains of tasks on the simulated arm or CALVIN, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vla_ros.evaluation.benchmarks import calvin, tabletop
from vla_ros.evaluation.closed_loop import workers
from vla_ros.evaluation.closed_loop.config import EvaluationConfig
from vla_ros.evaluation.protocols.chains import STEPS_PER_SUBTASK, Attempt, Chain, ChainResult, run_chain
from vla_ros.runtime.rollout import EpisodeConfig
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TASKS


def run_chains(config: EvaluationConfig, numbers: Sequence[int]) -> Iterator[ChainResult]:
    """Run the chains `numbers` in worker processes, and yield their results in order.

    Raises:
        EvaluationError: CALVIN is not installed.
        UserError: The checkpoint or robot file cannot be loaded, or the cameras lack OpenGL.
    """
    if config.env == "tabletop":
        return workers.run_in_workers(TabletopChainWorker, config, numbers, config.workers)
    chains = calvin.draw_chains(calvin.installed(), config.chains or calvin.CHAINS)
    return workers.run_in_workers(CalvinWorker, config, [chains[number] for number in numbers], config.workers)


class _ChainWorker:
    """A policy, and how its episodes run."""

    def __init__(self, config: EvaluationConfig) -> None:
        self._config = config
        self._runner = workers.load_runner(config.checkpoint)
        self._control_hz = self._runner.contract.timing.control_hz
        self._limits = workers.load_limits(config.robot)

    def _episode(self, command: str, max_ticks: int) -> EpisodeConfig:
        executor = workers.new_executor(self._config.executors[0])
        return EpisodeConfig(
            command, max_ticks, delay_ticks=self._config.delay_ticks, limits=self._limits, executor=executor
        )


class TabletopChainWorker(_ChainWorker):
    """A policy and the simulated arm."""

    def __init__(self, config: EvaluationConfig) -> None:
        super().__init__(config)
        self._env = workers.tabletop(self._control_hz)
        self._blind = TabletopEnv(control_hz=self._control_hz, render=False)

    def run(self, number: int) -> ChainResult:
        """Draw chain `number` and run it."""
        chain = tabletop.draw_chain(number, self._config.seed + number, self._blind)
        return run_chain(chain, lambda one: tabletop.set_up(self._env, one), self._attempt, STEPS_PER_SUBTASK)

    def _attempt(self, task: str, steps: int) -> Attempt:
        texts = TASKS[task].held_out if self._config.phrasings == "held_out" else TASKS[task].phrasings
        # Like CALVIN, use the first phrasing.
        return tabletop.attempt(self._env, self._runner, task, self._episode(texts[0], steps))

    def close(self) -> None:
        """Free the OpenGL context."""
        self._env.close()


class CalvinWorker(_ChainWorker):
    """A policy and CALVIN's simulator."""

    def __init__(self, config: EvaluationConfig) -> None:
        super().__init__(config)
        assert config.dataset is not None
        self._calvin = calvin.installed()
        self._simulator = self._calvin.environment(config.dataset / "validation")
        self._env = calvin.CalvinEnv(self._calvin, self._simulator, self._control_hz)

    def run(self, request: tuple[Chain, dict[str, Any]]) -> ChainResult:
        """Run a chain from an initial condition."""
        chain, condition = request
        return run_chain(chain, lambda _: self._env.set_up(condition), self._attempt, STEPS_PER_SUBTASK)

    def _attempt(self, task: str, steps: int) -> Attempt:
        max_ticks = calvin.max_ticks(steps, self._control_hz)
        config = self._episode(str(self._calvin.texts[task][0]), max_ticks)
        return calvin.attempt(self._env, self._runner, task, config)

    def close(self) -> None:
        """Disconnect from the physics server."""
        self._simulator.close()
