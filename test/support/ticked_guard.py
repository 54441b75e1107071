# SPDX-License-Identifier: Apache-2.0
"""A guard whose time is counted in ticks of the plan: plans, reasons and people in, one command out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.grid import Grid
from vla_ros.robot import Limits
from vla_ros.runtime.execution.commands import Command, GripperSwitch
from vla_ros.runtime.execution.executors import Executor
from vla_ros.runtime.execution.plans import Plan, PlannerStatus
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.safety.governor import SafetyGovernor, State
from vla_ros.runtime.safety.guard import Guard, GuardSettings
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover
from vla_ros.runtime.safety.plausibility import MotionCheck

PERIOD_NS = 100_000_000  # of the plan
CENTRE = np.array([0.5, 0.0, 0.3])
STOP = "emergency_stop"
ONE_METRE_PER_SECOND = Limits(1.0, 1.0, 1e6, 1e6, 1e9, 1e9, (0.0, -1.0, 0.0), (1.0, 1.0, 1.0))


class TickedGuard:
    """An armed guard whose planner is alive.

    Args:
        periods_per_tick: Guard periods in a tick of the plan.
        guard_hz: Rate of the guard instead, for plans at another rate than `PERIOD_NS`.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        limits: Limits = ONE_METRE_PER_SECOND,
        stop_ticks: int = 2,
        periods_per_tick: int = 1,
        guard_hz: float | None = None,
        resume_within_s: float = math.inf,
        gripper: GripperSwitch | None = None,
    ) -> None:
        period_ns = PERIOD_NS // periods_per_tick if guard_hz is None else Grid(guard_hz).period_ns
        self.core = Guard(
            GuardSettings(period_ns, resume_within_s),
            ActionTimeline(executor),
            SafetyGovernor(limits, period_s=period_ns / 1e9, stop_ticks=stop_ticks),
            gripper or GripperSwitch(min_interval_s=0.0),
            stops=EmergencyStops({STOP: None}),
            deadman=Deadman(required=False),
            takeover=Takeover(),
            motion=MotionCheck(limits.linear_mps),
        )
        self.core.arm(True, 0)
        self.steady_s = 0.0
        self._hear(None)

    @property
    def state(self) -> State:
        return self.core.governor.state

    def post(self, tick: int, actions: ArrayLike, *, replace_all: bool = False) -> bool:
        """Send a plan (N, 7) from the observation of `tick`; return whether the guard takes it."""
        plan = Plan(tick * PERIOD_NS, PERIOD_NS, np.asarray(actions, np.float64))
        return self.core.hear_plan(plan, plan.stamp_ns) is None

    def clear(self, observed_from: int | None = None) -> None:
        """The engine's reason stops the guard."""

    def ticks_over(self, first_tick: int) -> int:
        return self.core.timeline.ticks_over(first_tick)

    def tick(self, tick: float, reason: str | None = None, position: NDArray[np.float64] | None = CENTRE) -> Command:
        """Act at `tick`, while the planner says `reason`."""
        return self.at(round(tick * PERIOD_NS), reason, position)

    def at(self, now_ns: int, reason: str | None = None, position: NDArray[np.float64] | None = CENTRE) -> Command:
        """Act at `now_ns`, while the planner says `reason`."""
        self.steady_s += self.core.settings.period_ns / 1e9
        self._hear(reason)
        return self.core.tick(now_ns, self.steady_s, position)

    def _hear(self, reason: str | None) -> None:
        self.core.hear_status(PlannerStatus("only", "go", reason), self.steady_s)

    def vx(self, tick: float, reason: str | None = None) -> float | None:
        """Act at `tick`; return the forward velocity sent [m/s], or None."""
        twist = self.tick(tick, reason).twist
        return None if twist is None else float(twist[0])

    def take_over(self, twist: ArrayLike, opening: float | None = None) -> None:
        """A person commands a twist (6,), and an opening of the gripper."""
        assert self.core.takeover.hear(np.asarray(twist, np.float64), None, self.steady_s) is None
        if opening is not None:
            self.core.takeover.hear_gripper(opening, self.steady_s)


def chunk(length: int = 8, vx: float = 0.1, opening: float = 1.0) -> NDArray[np.float64]:
    """Return a plan (N, 7) of constant velocity [m/s]."""
    return np.tile([vx, 0, 0, 0, 0, 0, opening], (length, 1))
