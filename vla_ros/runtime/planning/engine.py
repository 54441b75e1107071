# SPDX-License-Identifier: Apache-2.0
"""The engine: the thread that owns the policy. On each tick of the control grid it observes, and posts a chunk."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vla_ros.contract import Timing
from vla_ros.observations.observation import ObservationQueue
from vla_ros.runtime.planning.planner import ChunkPolicy, Plan, Planner, Plans
from vla_ros.runtime.safety.governor import FAULTS
from vla_ros.runtime.stats import RecentValues, Summary

# `EngineStatus.ticks_per_chunk` is the slowest of this many: an outlier is forgotten after some seconds.
RECENT_CHUNKS = 20


class Clock(Protocol):
    """Time in integer nanoseconds; any thread may read it, sleep on it and close it. Tests need not wait."""

    def now_ns(self) -> int: ...

    def sleep_until_ns(self, time_ns: int) -> bool:
        """Sleep until `time_ns`; return False if the clock was closed or set back before."""
        ...

    def close(self) -> None:
        """Wake all sleepers; later sleeps return False at once."""
        ...


@dataclass(frozen=True)
class EngineStatus:
    """What the engine does now.

    Attributes:
        command: being followed; empty for none.
        reason: why there is no plan; None if there is one. `detail` says more.
        inference_ms: of recent ticks.
        overruns: ticks skipped because inference was slow.
        ticks_per_chunk: ticks from an observation to its chunk's first executed action, of the slowest recent chunk; at
            the start, estimated from the warm-up; None until the policy is ready.
    """

    command: str
    reason: str | None
    detail: str
    inference_ms: Summary | None
    overruns: int
    ticks_per_chunk: int | None = None


class Engine:
    """Owns the policy, and the language command, from construction to `stop`.

    CUDA graphs and compiled models are bound to the thread that built them, and a policy has state, so no other thread
    ever touches it. The observation of tick k is taken `settle_s` after it, as by the bag reader. Slow inference
    skips ticks; an observation never gets a second chunk.

    Args:
        make_policy: builds the policy; called in the engine's thread.
        observations: filled by others; the engine adds the language command.
        plans: receives chunks, and is cleared when a plan must not continue.
        clock: of the control grid; `stop` closes it.
        on_change: called in the engine's thread when it starts or ceases to have a plan.
    """

    def __init__(
        self,
        make_policy: Callable[[], ChunkPolicy],
        observations: ObservationQueue,
        plans: Plans,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_policy = make_policy
        self._observations = observations
        self._plans = plans
        self._clock = clock
        self._on_change = on_change
        self._thread = threading.Thread(target=self._run, name="vla_engine", daemon=True)
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._startup_error: BaseException | None = None
        # The lock guards what follows, and makes "is this chunk still wanted? then post it" atomic.
        self._lock = threading.Lock()
        self._command = ""
        self._command_ns = 0  # stamp
        self._epoch = 0  # changes with each command and reset
        self._posted_epoch = 0
        self._reason: str | None = "no_command"
        self._detail = ""
        self._overruns = 0
        self._crashed = False
        self._inference_ms = RecentValues()
        self._recent_ticks: deque[int] = deque(maxlen=RECENT_CHUNKS)  # per chunk
        self._planned_epoch: int | None = None  # of the last tick; used by the engine's thread only

    def start(self, timeout_s: float | None = None) -> None:
        """Start the thread and wait until the policy is built and warmed up.

        Raises:
            TimeoutError: it took longer than `timeout_s`.
            Exception: whatever building the policy raised.
        """
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise TimeoutError(f"the policy was not ready after {timeout_s} s")
        if self._startup_error is not None:
            raise self._startup_error

    def set_command(self, text: str) -> None:
        """Follow `text` from now on; empty: drop the plan and stop planning.

        Until its first chunk arrives the arm continues the old plan; chunks of the old command that are still being
        computed are discarded.
        """
        with self._lock:
            if text == self._command:
                return
            if self._reason not in FAULTS:
                if not text:
                    self._reason, self._detail = "no_command", ""
                elif not self._command:
                    self._reason, self._detail = "planning", "waiting for the first chunk of this command"
            if not text:
                self._plans.clear()
            self._command = text
            self._epoch += 1
            self._stamp_command()

    def forget_observations(self) -> None:
        """Forget what was observed: the clock was set back, or observation starts anew. The command stays."""
        with self._lock:
            self._observations.clear()
            self._stamp_command()

    def _stamp_command(self) -> None:
        """Make the command part of observations from now on; the bag reader stamps it when it was received, too."""
        self._command_ns = self._clock.now_ns()
        self._observations.push("language", self._command_ns, self._command)

    def reset(self) -> None:
        """Drop the plan and the one being computed, and clear a fault; the command stays.

        A crashed thread stays in its fault until the node is configured again.
        """
        with self._lock:
            self._plans.clear()
            self._epoch += 1
            if self._crashed:
                return
            self._reason, self._detail = ("planning" if self._command else "no_command"), ""

    def status(self) -> EngineStatus:
        with self._lock:
            ticks = max(self._recent_ticks, default=None)
            return EngineStatus(
                self._command, self._reason, self._detail, self._inference_ms.summary(), self._overruns, ticks
            )

    @property
    def command(self) -> str:
        """The command being followed; empty for none."""
        return self._command

    @property
    def reason(self) -> str | None:
        """Why there is no plan; None if there is one."""
        return self._reason

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread; return False if it still computes after `timeout_s`, and will end later."""
        self._stopping.set()
        self._clock.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._plans.clear()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            policy = self._make_policy()
            planner = Planner(policy, self._observations.snapshot)
            timing, inference_ns = policy.contract.timing, round(policy.warm_up() * 1e9)
            with self._lock:
                self._recent_ticks.append(1 + (timing.settle_ns + inference_ns) // timing.grid.period_ns)
        except BaseException as error:
            self._startup_error = error
            self._ready.set()
            return
        self._ready.set()
        try:
            self._work(planner, timing)
        except Exception:  # report it: nothing else would notice that planning has ended
            with self._lock:
                self._plans.clear()
                self._crashed = True
                self._reason, self._detail = "policy_error", traceback.format_exc()
            self._on_change()

    def _work(self, planner: Planner, timing: Timing) -> None:
        last_tick: int | None = None
        while not self._stopping.is_set():
            tick = self._coming_tick(last_tick, timing)
            due_ns = timing.grid.start_ns(tick) + timing.settle_ns
            if not self._clock.sleep_until_ns(due_ns - timing.settle_ns // 2):
                continue
            if self._clock.now_ns() < due_ns:
                with contextlib.suppress(Exception):  # will be raised again, and reported, when it is due
                    self._observations.snapshot(timing.grid.start_ns(tick))  # decodes images while there is time
            if not self._clock.sleep_until_ns(due_ns):
                continue
            tick = max(tick, self._reached_tick(timing))
            self._tick(planner, tick, last_tick, timing.grid.start_ns(tick))
            last_tick = tick

    def _reached_tick(self, timing: Timing) -> int:
        """Return the newest tick whose observation is due."""
        return timing.grid.tick_at(self._clock.now_ns() - timing.settle_ns)

    def _coming_tick(self, last_tick: int | None, timing: Timing) -> int:
        """Return the tick to plan for next: the one after `last_tick`, or the newest if that is over."""
        reached = self._reached_tick(timing)
        if last_tick is None or last_tick > reached + 1:  # at the start, or after the clock was set back
            return reached + 1
        return max(reached, last_tick + 1)

    def _tick(self, planner: Planner, tick: int, last_tick: int | None, time_ns: int) -> None:
        with self._lock:
            epoch, faulted = self._epoch, self._reason in FAULTS
            if last_tick is not None and tick > last_tick + 1:
                self._overruns += tick - last_tick - 1
        try:
            if faulted or tick - 1 != last_tick or epoch != self._planned_epoch:
                planner.interrupt()
            self._planned_epoch = epoch
            if faulted:
                self._observations.snapshot(time_ns)  # empties the queue
                return
            plan = planner.plan(time_ns)
        except Exception:
            plan = Plan(None, "policy_error", traceback.format_exc())
        if plan.inference_ms is not None:
            self._inference_ms.add(plan.inference_ms)
        before = self._reason
        self._settle(tick, time_ns, epoch, plan)
        if self._reason != before:
            self._on_change()

    def _settle(self, tick: int, time_ns: int, epoch: int, plan: Plan) -> None:
        """Post the plan or drop the current one, unless the command is newer than the observation."""
        with self._lock:
            is_for_old_command = plan.inference_ms is not None and time_ns < self._command_ns
            if (epoch != self._epoch or is_for_old_command) and plan.reason not in FAULTS:
                return
            if plan.actions is None:
                self._plans.clear()
                self._reason, self._detail = plan.reason, plan.detail
                return
            if self._plans.post(tick, plan.actions, replace_all=epoch != self._posted_epoch):
                self._posted_epoch = epoch
            self._recent_ticks.append(self._plans.ticks_over(tick))
            self._reason, self._detail = None, ""
