# SPDX-License-Identifier: Apache-2.0
"""Chains of tasks on the simulated arm, or on CALVIN, with a checkpoint, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.evaluation.benchmarks import calvin
from vla_ros.evaluation.closed_loop.rollouts import ENSEMBLE_DECAY, HORIZON_TICKS, in_workers, tabletop
from vla_ros.evaluation.protocols.chains import Attempt, Chain, ChainResult, run_chain
from vla_ros.evaluation.protocols.tabletop_chains import attempt, draw_chain, set_up
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.runner import PolicyRunner
from vla_ros.robot import load_robot
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.safety.governor import SafetyGovernor
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TASKS


@dataclass(frozen=True)
class ChainSettings:
    """What all chains of an evaluation share; chain i is drawn in the scene of ``first_seed`` + i.

    robot: whose limits hold; empty: none but the simulator's own. dataset: of CALVIN; empty: the table-top arm, whose
    chains are its own and whose ``phrasings`` count.
    """

    checkpoint: str
    chains: int
    robot: str
    first_seed: int
    phrasings: str
    delay_ticks: int
    steps: int
    executor: str
    dataset: str = ""


def run_chains(settings: ChainSettings, numbers: Sequence[int], workers: int) -> Iterator[ChainResult]:
    """Run the chains ``numbers`` in ``workers`` processes, and yield each as it ends, in their order.

    Raises:
        CalvinError: CALVIN is wanted and not installed.
        UserError: the checkpoint or the robot's file can't be loaded, or there is no OpenGL for the cameras.
    """
    if not settings.dataset:
        return in_workers(ChainWorker, settings, numbers, workers)
    drawn = calvin.draw_chains(calvin.installed(), settings.chains)
    return in_workers(CalvinWorker, settings, [drawn[number] for number in numbers], workers)


class ChainWorker:
    """A checkpoint and a simulator, which belong to the thread that makes this object."""

    def __init__(self, settings: ChainSettings) -> None:
        self._settings = settings
        self._runner = PolicyRunner(load_checkpoint(settings.checkpoint))
        self._runner.warm_up()
        timing = self._runner.contract.timing
        self._period_s = timing.period_ns / 1e9
        self._limits = load_robot(settings.robot).limits
        self._env = tabletop(timing.control_hz)
        self._blind = TabletopEnv(control_hz=timing.control_hz, render=False)

    def run(self, number: int) -> ChainResult:
        """Draw chain ``number`` and run it."""
        chain = draw_chain(number, self._settings.first_seed + number, self._blind)
        return run_chain(chain, lambda one: set_up(self._env, one), self._attempt, self._settings.steps)

    def _attempt(self, task: str, steps: int) -> Attempt:
        texts = TASKS[task].held_out if self._settings.phrasings == "held_out" else TASKS[task].phrasings
        return attempt(
            self._env,
            self._runner,
            task,
            steps,
            command=texts[0],  # as CALVIN does: the first of the texts for evaluation
            delay_ticks=self._settings.delay_ticks,
            governor=SafetyGovernor(self._limits, period_s=self._period_s, armed=True),
            executor=make_executor(self._settings.executor, horizon=HORIZON_TICKS, decay=ENSEMBLE_DECAY),
        )

    def close(self) -> None:
        """Free the OpenGL context."""
        self._env.close()


class CalvinWorker:
    """A checkpoint and CALVIN's simulator, which belong to the thread that makes this object."""

    def __init__(self, settings: ChainSettings) -> None:
        self._settings = settings
        self._runner = PolicyRunner(load_checkpoint(settings.checkpoint))
        self._runner.warm_up()
        timing = self._runner.contract.timing
        self._period_s = timing.period_ns / 1e9
        self._limits = load_robot(settings.robot).limits if settings.robot else None
        self._calvin = calvin.installed()
        self._simulator = self._calvin.environment(Path(settings.dataset) / "validation")
        self._env = calvin.CalvinEnv(self._calvin, self._simulator, timing.control_hz)

    def run(self, request: tuple[Chain, dict[str, Any]]) -> ChainResult:
        """Run a chain in the scene of a condition."""
        chain, condition = request
        return run_chain(chain, lambda _: self._env.set_up(condition), self._attempt, self._settings.steps)

    def _attempt(self, task: str, steps: int) -> Attempt:
        governor = None
        if self._limits is not None:
            governor = SafetyGovernor(self._limits, period_s=self._period_s, armed=True)
        return calvin.attempt(
            self._env,
            self._runner,
            task,
            steps,
            command=str(self._calvin.texts[task][0]),
            delay_ticks=self._settings.delay_ticks,
            governor=governor,
            executor=make_executor(self._settings.executor, horizon=HORIZON_TICKS, decay=ENSEMBLE_DECAY),
        )

    def close(self) -> None:
        """Leave the physics server."""
        self._simulator.close()
