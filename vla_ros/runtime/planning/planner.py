# SPDX-License-Identifier: Apache-2.0
"""From one observation to one chunk of actions, or to the reason why there is none. No threads, no clock.

The engine runs it in real time, evaluations run it in process.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.contract import PolicyContract
from vla_ros.errors import UserError
from vla_ros.observations.observation import Observation, Refusal
from vla_ros.runtime.execution.executors import EXECUTORS

# The slowest of this many chunks predicts the next one: an outlier is forgotten after some seconds.
RECENT_CHUNKS = 20


class ChunkPolicy(Protocol):
    """What the runtime needs of a policy (`vla_ros.policy.inference.PolicyRunner`); called from one thread only."""

    @property
    def contract(self) -> PolicyContract: ...

    @property
    def max_delay_steps(self) -> int:
        """The longest prefix that `step` takes; 0 if it was trained without delays."""
        ...

    def reset(self, command: str) -> None:
        """Start a new command: encode it, forget the history."""
        ...

    def clear_history(self) -> None:
        """Forget the frames seen; the command stays."""
        ...

    def step(self, observation: Observation, prefix: NDArray[np.float64] | None = None, /) -> NDArray[np.float64]:
        """Return the chunk (N, 7) in physical units, starting at the observation's tick.

        `prefix` (D, 7), D <= `max_delay_steps`: what the arm executes at the first D ticks in any case. The chunk
        repeats it and continues with up to N more actions.
        """
        ...

    def warm_up(self) -> float:
        """Run a few times to build what is built on first use; return how long the last run took [s]."""
        ...


class Plans(Protocol):
    """Where chunks go: an `ActionTimeline` in this process, or a guard in another one."""

    @property
    def uses_prefix(self) -> bool: ...

    @property
    def rest_ticks(self) -> int: ...

    def post(self, first_tick: int, actions: NDArray[np.float64], *, replace_all: bool = False) -> bool: ...

    def clear(self, observed_from: int | None = None) -> None: ...

    def prefix(self, first_tick: int, count: int) -> NDArray[np.float64]: ...

    def ticks_over(self, first_tick: int) -> int: ...


class ExecutorError(UserError):
    """The executor does not fit the policy."""


@dataclass(frozen=True)
class ChunkDelay:
    """How long chunks take, in control ticks.

    Attributes:
        ticks: predicted for the next chunk, from its observation to its first executed action.
        prefix_length: ticks covered by the newest prefix.
        max_prefix: the longest prefix that the policy takes; 0 if the executor uses none.
        late_chunks: how many so far took longer than their prefix, while the arm moved.
    """

    ticks: int
    prefix_length: int
    max_prefix: int
    late_chunks: int

    @property
    def exceeds_prefix(self) -> bool:
        """Whether chunks take longer than the longest prefix."""
        return self.ticks > self.max_prefix > 0


def check_trained_with_delays(max_delay_steps: int) -> None:
    """Raise ExecutorError if a policy trained with at most this many delay steps cannot use a prefix."""
    if max_delay_steps < 1:
        others = ", ".join(name for name in EXECUTORS if name != "delay_aware")
        raise ExecutorError(
            "executor 'delay_aware' needs a policy trained with delays, but this checkpoint's max_delay_steps is 0; "
            f"use one of {others}, or train with policy.max_delay_steps at least as long as a chunk takes, in ticks "
            "(docs/policies.md)"
        )


class ActionPrefix:
    """The actions that the arm will execute while the policy computes; executor delay_aware gives them to the policy.

    After training-time real-time chunking (arXiv:2512.05964): the new chunk continues the prefix, so the arm does not
    notice the switch. The prefix's length is predicted from how long recent chunks took; its actions are looked up by
    absolute tick. A wrong prediction therefore shifts nothing: an early chunk repeats its prefix, and a late one
    starts, like any chunk, with the action of the tick that is really next.

    It holds actions as planned, before the robot's limits: training labels are like that, and the limits apply to the
    chunk that continues them as well. A policy given speeds that the speed scale has already halved would continue at
    half speed, to be halved again.

    An arm at rest (at the start, after a stop, disarmed, moved by a person) stays where it was observed until it moves.
    Its chunk therefore starts with its first motion instead of the observation, and the prefix holds only what follows
    that: nothing (D = 0) if nothing is planned. The zeros before it would be just as true, but mean something else:
    demonstrations start with their first motion, so in training zeros are a demonstrator's pause, and are followed by
    more zeros.

    Args:
        timeline: holds the actions; its executor decides whether prefixes are used.
        max_delay_steps: the longest prefix that the policy takes.

    Raises:
        ExecutorError: the executor uses prefixes, but the policy was trained without.
    """

    def __init__(self, timeline: Plans, max_delay_steps: int) -> None:
        if timeline.uses_prefix:
            check_trained_with_delays(max_delay_steps)
        self._timeline = timeline
        self._max_prefix = max_delay_steps if timeline.uses_prefix else 0
        self._recent: deque[int] = deque(maxlen=RECENT_CHUNKS)
        self._ticks = self._prefix_length = self._late_chunks = 0

    def expect(self, ticks: int) -> None:
        """Take into account that a chunk took, or may take, `ticks`."""
        self._recent.append(ticks)
        self._ticks = max(self._recent)

    def actions(self, tick: int) -> NDArray[np.float64]:
        """Return what the arm executes from `tick`, or its first motion, until a chunk begun now arrives: (D, 7)."""
        prefix = self._timeline.prefix(tick, min(self._ticks, self._max_prefix))
        self._prefix_length = len(prefix) and len(prefix) + self._timeline.rest_ticks
        return prefix

    def arrived(self, tick: int) -> None:
        """Record that the chunk for the observation of `tick` has just been posted, in time or not."""
        took = self._timeline.ticks_over(tick)
        self._late_chunks += 0 < self._prefix_length < took
        self.expect(took)

    @property
    def delay(self) -> ChunkDelay:
        """The current figures; any thread may read them."""
        return ChunkDelay(self._ticks, self._prefix_length, self._max_prefix, self._late_chunks)


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
        timeline: receives the chunks, and provides prefixes.

    Raises:
        ExecutorError: the executor uses prefixes, but the policy was trained without.
    """

    def __init__(self, policy: ChunkPolicy, snapshot: Callable[[int], Observation | Refusal], timeline: Plans) -> None:
        self.prefix = ActionPrefix(timeline, policy.max_delay_steps)
        self._policy = policy
        self._snapshot = snapshot
        self._period_ns = policy.contract.timing.period_ns
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
        prefix = self.prefix.actions(observation.time_ns // self._period_ns)
        actions = np.asarray(self._policy.step(observation, prefix), dtype=np.float64)
        inference_ms = 1e3 * (time.perf_counter() - started)
        if actions.ndim != 2 or actions.shape[1] != 7 or not len(actions):
            raise ValueError(f"the policy's chunk must have shape (N, 7); got {actions.shape}")
        if not np.isfinite(actions).all():
            self._policy.clear_history()
            detail = f"the policy's chunk for the command {observation.command!r} contains NaN or infinity"
            return Plan(None, "non_finite", detail, inference_ms)
        return Plan(actions, inference_ms=inference_ms)
