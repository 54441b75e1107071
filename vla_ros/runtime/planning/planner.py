# SPDX-License-Identifier: Apache-2.0
"""From one observation to one chunk of actions, or to the reason why there is none. No threads, no clock."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.observations.observation import Observation, Refusal
from vla_ros.runtime.planning.commitment import Commitment


class ChunkPolicy(Protocol):
    """The part of `vla_ros.policy.runner.PolicyRunner` that the runtime uses; always from one thread."""

    @property
    def contract(self) -> PolicyContract: ...

    @property
    def max_delay_steps(self) -> int:
        """How many actions `step` can be told of; 0: it was not trained for that."""
        ...

    def reset(self, command: str) -> None:
        """Start a new command: encode it, forget the history."""
        ...

    def clear_history(self) -> None:
        """Forget the frames seen; the command stays."""
        ...

    def step(self, observation: Observation, committed: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The chunk (N, 7) in physical units whose first action is for the observation's tick.

        `committed` (D, 7): what the arm does at the first D of these ticks in any case, D <= `max_delay_steps`; the
        chunk has them in its first D rows, and goes on from there, to up to N more.
        """
        ...

    def warm_up(self) -> float:
        """Run a few times, so that what is built on first use is built; return how long the last time took [s]."""
        ...


@dataclass(frozen=True)
class Plan:
    """The outcome of one tick: `actions` (N, 7), or the `reason` why there are none and a sentence about it."""

    actions: NDArray[np.float64] | None
    command: str | None = None
    reason: str | None = None
    detail: str = ""
    inference_ms: float | None = None


class Planner:
    """Asks for the observation of a tick and lets the policy act on it.

    The policy's history is on the control grid: whoever skips a tick calls `interrupt`, since frames further apart than
    in training are something the policy never saw, while a cold start is.
    """

    def __init__(
        self, policy: ChunkPolicy, snapshot: Callable[[int], Observation | Refusal], commitment: Commitment
    ) -> None:
        self._policy = policy
        self._snapshot = snapshot
        self._commitment = commitment
        self._period_ns = policy.contract.timing.period_ns
        self._command: str | None = None

    def plan(self, time_ns: int) -> Plan:
        """The plan for the tick at `time_ns`. Never raises: what goes wrong is the plan's reason."""
        try:
            observation = self._snapshot(time_ns)
            if isinstance(observation, Refusal):
                self._policy.clear_history()
                return Plan(None, reason=observation.reason, detail=observation.detail)
            return self._act(observation)
        except Exception:
            self._command = None
            return Plan(None, reason="policy_error", detail=traceback.format_exc())

    def interrupt(self) -> None:
        """Forget the frames seen, since the next one does not follow on them."""
        self._policy.clear_history()

    def _act(self, observation: Observation) -> Plan:
        started = time.perf_counter()
        if observation.command != self._command:
            self._policy.reset(observation.command)
            self._command = observation.command
        committed = self._commitment.actions(observation.time_ns // self._period_ns)
        actions = np.asarray(self._policy.step(observation, committed), dtype=np.float64)
        inference_ms = 1e3 * (time.perf_counter() - started)
        if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions):
            raise ValueError(f"the policy's chunk has shape {actions.shape}; expected (N, 7)")
        if not np.isfinite(actions).all():
            self._policy.clear_history()
            detail = f"the policy's chunk for the command {observation.command!r} holds NaN or infinity"
            return Plan(None, observation.command, "non_finite", detail, inference_ms)
        return Plan(actions, observation.command, inference_ms=inference_ms)
