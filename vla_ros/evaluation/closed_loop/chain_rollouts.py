# SPDX-License-Identifier: Apache-2.0
"""Chains of tasks on the simulated arm or CALVIN, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vla_ros.evaluation.benchmarks import calvin, tabletop
from vla_ros.evaluation.closed_loop.config import Condition, EvaluationConfig
from vla_ros.evaluation.closed_loop.workers import PolicyWorker, run_in_workers, tabletop_env
from vla_ros.evaluation.protocols.chains import STEPS_PER_SUBTASK, Attempt, Chain, ChainResult, run_chain
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TASKS


def run_chains(config: EvaluationConfig, condition: Condition, numbers: Sequence[int]) -> Iterator[ChainResult]:
    """Run the chains `numbers` in worker processes, and yield their results in order.

    Raises:
        EvaluationError: CALVIN is not installed.
        UserError: The checkpoint or robot file cannot be loaded, or the cameras lack OpenGL.
    """
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
        texts = TASKS[task].held_out if self.config.phrasings == "held_out" else TASKS[task].phrasings
        # Like CALVIN, use the first phrasing.
        return tabletop.attempt(self._env, self.runner, task, self.episode(texts[0], steps))

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
