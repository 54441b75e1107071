# SPDX-License-Identifier: Apache-2.0
"""Chains of tasks on the simulated arm with a checkpoint, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vla_ros.evaluation.chains import Attempt, ChainResult, run_chain
from vla_ros.evaluation.tabletop_chains import attempt, draw_chain, set_up
from vla_ros.policy.checkpoint import load_checkpoint
from vla_ros.policy.runner import PolicyRunner
from vla_ros.robot import load_robot
from vla_ros.runtime.executors import make_executor
from vla_ros.runtime.governor import SafetyGovernor
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TASKS
from vla_ros.train.rollouts import ENSEMBLE_DECAY, HORIZON_TICKS, in_workers, tabletop


@dataclass(frozen=True)
class ChainSettings:
    """What all chains of an evaluation share; chain i is drawn in the scene of ``first_seed`` + i."""

    checkpoint: str
    robot: str
    first_seed: int
    phrasings: str
    delay_ticks: int
    steps: int
    executor: str


def run_chains(settings: ChainSettings, numbers: Sequence[int], workers: int) -> Iterator[ChainResult]:
    """Run the chains ``numbers`` in ``workers`` processes, and yield each as it ends, in their order.

    Raises:
        UserError: the checkpoint or the robot's file can't be loaded, or there is no OpenGL for the cameras.
    """
    return in_workers(ChainWorker, settings, numbers, workers)


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
