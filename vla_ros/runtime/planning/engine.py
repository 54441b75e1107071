# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the policy: it observes on the control grid, plans, and posts chunks to the timeline."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from vla_ros.contract import Timing
from vla_ros.observations.observation import Observation, Refusal
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.clock import Clock
from vla_ros.runtime.planning.commitment import Commitment, Delay
from vla_ros.runtime.planning.planner import ChunkPolicy, Plan, Planner
from vla_ros.runtime.safety.governor import FAULTS
from vla_ros.runtime.stats import RecentValues, Summary


@dataclass(frozen=True)
class EngineStatus:
    """`reason` and `detail`: why nothing is planned now, or None. `overruns`: ticks passed over by slow inference.

    `delay`: how many ticks chunks take; None until the policy is ready.
    """

    command: str
    reason: str | None
    detail: str
    inference_ms: Summary | None
    overruns: int
    delay: Delay | None = None


class Engine:
    """One thread, from the construction of the policy to its end.

    CUDA graphs and compiled models are bound to the thread that built them, and a policy has state; so nobody else ever
    touches it. For tick k the observation is taken when the clock has reached k * period + settle, as the bag reader
    does it. Slow inference skips ticks; there is never a second chunk for one observation.

    Args:
        make_policy: builds the policy; called in the thread.
        snapshot: the observation at a time [ns], or why there is none; called in the thread.
        timeline: receives the chunks, and is cleared when a plan must not go on.
        clock: of the control grid; `stop` closes it.
    """

    def __init__(
        self,
        make_policy: Callable[[], ChunkPolicy],
        snapshot: Callable[[int], Observation | Refusal],
        timeline: ActionTimeline,
        clock: Clock,
    ) -> None:
        self._make_policy = make_policy
        self._snapshot = snapshot
        self._timeline = timeline
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="vla_engine", daemon=True)
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._startup_error: BaseException | None = None
        # Guards what follows, and makes "is this chunk still wanted? then post it" one step.
        self._lock = threading.Lock()
        self._command = ""
        self._epoch = 0
        self._posted_epoch = 0
        self._reason: str | None = "no_command"
        self._detail = ""
        self._overruns = 0
        self._crashed = False
        self._inference_ms = RecentValues()
        self._commitment: Commitment | None = None
        # Of the engine's thread alone: the epoch of the last tick.
        self._planned_epoch: int | None = None

    def start(self, timeout_s: float | None = None) -> None:
        """Start the thread and wait until the policy is built and warm.

        Raises:
            TimeoutError: that took longer than `timeout_s`.
            Exception: whatever building the policy raised.
        """
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise TimeoutError(f"the policy was not ready after {timeout_s} s")
        if self._startup_error is not None:
            raise self._startup_error

    def set_command(self, text: str) -> None:
        """Follow `text` from now on; empty: plan nothing and drop the plan.

        Until the first chunk of the new command arrives the arm goes on with the old plan; chunks of the old command
        that are still being computed are discarded.
        """
        with self._lock:
            if text == self._command:
                return
            if self._reason not in FAULTS:
                if not text:
                    self._reason, self._detail = "no_command", ""
                elif not self._command:
                    self._reason, self._detail = "planning", "the first chunk for this command is not there yet"
            if not text:
                self._timeline.clear()
            self._command = text
            self._epoch += 1

    def reset(self) -> None:
        """Drop the plan and what is being planned, and leave a fault; the command stays.

        A thread that has crashed stays in its fault: only configuring anew makes another one.
        """
        with self._lock:
            self._timeline.clear()
            self._epoch += 1
            if self._crashed:
                return
            self._reason, self._detail = ("planning" if self._command else "no_command"), ""

    def status(self) -> EngineStatus:
        with self._lock:
            delay = None if self._commitment is None else self._commitment.delay
            return EngineStatus(
                self._command, self._reason, self._detail, self._inference_ms.summary(), self._overruns, delay
            )

    @property
    def command(self) -> str:
        """The command that is followed; empty: none."""
        return self._command

    @property
    def reason(self) -> str | None:
        """Why nothing is planned now, by name."""
        return self._reason

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread. False: it still computes after `timeout_s`, and will end by itself or with the process."""
        self._stopping.set()
        self._clock.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._timeline.clear()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            policy = self._make_policy()
            commitment = Commitment(self._timeline, policy.max_delay_steps)
            commitment.expect(_ticks_of(policy.warm_up(), policy.contract.timing))
        except BaseException as error:
            self._startup_error = error
            self._ready.set()
            return
        self._commitment = commitment
        self._ready.set()
        try:
            self._work(policy, commitment)
        except Exception:  # nobody plans any more, and nobody else would say so
            with self._lock:
                self._timeline.clear()
                self._crashed = True
                self._reason, self._detail = "policy_error", traceback.format_exc()

    def _work(self, policy: ChunkPolicy, commitment: Commitment) -> None:
        planner = Planner(policy, self._snapshot, commitment)
        timing = policy.contract.timing
        last_tick: int | None = None
        while not self._stopping.is_set():
            tick = self._coming_tick(last_tick, timing)
            due_ns = tick * timing.period_ns + timing.settle_ns
            if not self._clock.sleep_until_ns(due_ns - timing.settle_ns // 2):
                continue
            self._look_ahead(tick * timing.period_ns, due_ns)
            if not self._clock.sleep_until_ns(due_ns):
                continue
            tick = max(tick, self._reached_tick(timing))
            self._tick(planner, tick, last_tick, timing.period_ns)
            last_tick = tick

    def _look_ahead(self, time_ns: int, due_ns: int) -> None:
        """Have the pictures that are there already decoded while there is time: the buffer keeps them."""
        if self._clock.now_ns() < due_ns:
            with contextlib.suppress(Exception):  # what is wrong will be found again, and said, when it is due
                self._snapshot(time_ns)

    def _reached_tick(self, timing: Timing) -> int:
        """The newest tick whose observation is due."""
        return (self._clock.now_ns() - timing.settle_ns) // timing.period_ns

    def _coming_tick(self, last_tick: int | None, timing: Timing) -> int:
        """The tick to act for after `last_tick`: the next one; where that is over, the newest one; and where the clock
        was set back, the coming one."""
        reached = self._reached_tick(timing)
        if last_tick is None or last_tick > reached + 1:
            return reached + 1
        return max(reached, last_tick + 1)

    def _tick(self, planner: Planner, tick: int, last_tick: int | None, period_ns: int) -> None:
        with self._lock:
            epoch, faulted = self._epoch, self._reason in FAULTS
            if last_tick is not None and tick > last_tick + 1:
                self._overruns += tick - last_tick - 1
        try:
            if faulted or tick - 1 != last_tick or epoch != self._planned_epoch:
                planner.interrupt()
            self._planned_epoch = epoch
            if faulted:
                self._snapshot(tick * period_ns)  # observations go on arriving: somebody has to take them
                return
            plan = planner.plan(tick * period_ns)
        except Exception:
            plan = Plan(None, reason="policy_error", detail=traceback.format_exc())
        if plan.inference_ms is not None:
            self._inference_ms.add(plan.inference_ms)
        self._settle(tick, epoch, plan)

    def _settle(self, tick: int, epoch: int, plan: Plan) -> None:
        """Post the plan, or drop what is planned, unless the command has changed meanwhile."""
        with self._lock:
            stale = epoch != self._epoch or (plan.command is not None and plan.command != self._command)
            if stale and plan.reason not in FAULTS:
                return
            if plan.actions is not None:
                if self._timeline.post(tick, plan.actions, anew=epoch != self._posted_epoch):
                    self._posted_epoch = epoch
                if self._commitment is not None:
                    self._commitment.arrived(tick)
                self._reason, self._detail = None, ""
            else:
                self._timeline.clear()
                self._reason, self._detail = plan.reason, plan.detail


def _ticks_of(inference_s: float, timing: Timing) -> int:
    """How many ticks are over when a chunk is there whose observation was complete in time."""
    return 1 + (timing.settle_ns + round(inference_s * 1e9)) // timing.period_ns
