# SPDX-License-Identifier: Apache-2.0
"""From one observation to one chunk of actions, or to the reason why there is none. No threads, no clock.

The engine runs it in real time, evaluations run it in process.
"""

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


class Plans(Protocol):
    """Where chunks go: an `ActionTimeline` in this process, or a guard in another one."""

    def post(self, first_tick: int, actions: NDArray[np.float64], *, replace_all: bool = False) -> bool: ...

    def clear(self, observed_from: int | None = None) -> None: ...

    def ticks_over(self, first_tick: int) -> int: ...


class ChunkPolicy(Protocol):
    """What the runtime needs of a policy (`vla_ros.policy.inference.PolicyRunner`); called from one thread only."""

    @property
    def contract(self) -> PolicyContract: ...

    def reset(self, command: str) -> None:
        """Start a new command: encode it, forget the history."""
        ...

    def clear_history(self) -> None:
        """Forget the frames seen; the command stays."""
        ...

    def step(self, observation: Observation, /) -> NDArray[np.float64]:
        """Return the chunk (N, 7) in physical units, starting at the observation's tick."""
        ...

    def warm_up(self) -> float:
        """Run a few times to build what is built on first use; return how long the last run took [s]."""
        ...


@dataclass(frozen=True)
class Plan:
    """The outcome of one tick: `actions` (N, 7), or None with a `reason` and a `detail` sentence."""

    actions: NDArray[np.float64] | None
    reason: str | None = None
    detail: str = ""
    inference_ms: float | None = None


class Planner:
    """Takes the observation of a tick and runs the policy on it.

    The policy's history is on the control grid. After a skipped tick, call `interrupt`: training saw cold starts, but
    never frames that are further apart.

    Args:
        policy: the policy.
        snapshot: returns the observation at a time [ns], or why there is none.
    """

    def __init__(self, policy: ChunkPolicy, snapshot: Callable[[int], Observation | Refusal]) -> None:
        self._policy = policy
        self._snapshot = snapshot
        self._command: str | None = None

    def plan(self, time_ns: int) -> Plan:
        """Plan for the tick at `time_ns`. Never raises: an exception becomes the plan's reason."""
        try:
            observation = self._snapshot(time_ns)
            if isinstance(observation, Refusal):
                self._policy.clear_history()
                return Plan(None, observation.reason, observation.detail)
            return self._infer(observation)
        except Exception:
            self._command = None
            return Plan(None, "policy_error", traceback.format_exc())

    def interrupt(self) -> None:
        """Forget the history: the next frame does not directly follow it."""
        self._policy.clear_history()

    def _infer(self, observation: Observation) -> Plan:
        started = time.perf_counter()
        if observation.command != self._command:
            self._policy.reset(observation.command)
            self._command = observation.command
        actions = np.asarray(self._policy.step(observation), dtype=np.float64)
        inference_ms = 1e3 * (time.perf_counter() - started)
        if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions):
            raise ValueError(f"the policy's chunk must have shape (N, 7); got {actions.shape}")
        if not np.isfinite(actions).all():
            self._policy.clear_history()
            detail = f"the policy's chunk for the command {observation.command!r} contains NaN or infinity"
            return Plan(None, "non_finite", detail, inference_ms)
        return Plan(actions, inference_ms=inference_ms)
