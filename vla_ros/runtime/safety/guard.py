# SPDX-License-Identifier: Apache-2.0
"""The guard's core: plans and signals of people in, one safe twist each guard period out. No ROS, no threads, no clock.

It trusts nobody: a planner proves that it is alive by its status, a plan by its stamp, the arm by its measured motion.
Short gaps end by themselves; after anything longer the guard disarms, and a person arms it again.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from vla_ros.runtime.execution.commands import SILENCE, Command, GripperSwitch
from vla_ros.runtime.execution.interpolation import interpolated
from vla_ros.runtime.execution.plans import Plan, PlanGrid, PlannerStatus
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.safety.governor import SafetyGovernor, State
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover
from vla_ros.runtime.safety.plausibility import MotionCheck
from vla_ros.runtime.stats import RecentValues

Array = NDArray[np.float64]

# The arm may be at rest for these without anything being wrong.
IDLE = frozenset({"no_command", "latched_command", "planning", "disarmed"})
# The guard disarms at once for these; for all others only if they last longer than `resume_within_s`.
DISARMING = frozenset({
    "emergency_stop", "second_publisher", "second_planner", "second_camera_publisher", "second_pose_publisher",
    "second_enable_publisher", "operator_lost", "policy_restarted", "policy_error", "non_finite", "arm_not_following",
    "pose_frozen", "pose_jump",
})  # fmt: skip
# A planner's last word before it falls silent.
INACTIVE = "inactive"
PLAN_MAX_AHEAD_S = 0.5


@dataclasses.dataclass(frozen=True)
class GuardSettings:
    """How the guard judges time.

    Attributes:
        period_ns: Of the guard.
        resume_within_s: A stop that ends sooner resumes by itself, on a new plan; a longer one disarms.
        heartbeat_max_age_s: A planner whose status is older has died.
        first_motion_within_s: How long an armed arm waits for sensors or the planner before it has moved.
    """

    period_ns: int
    resume_within_s: float = 1.0
    heartbeat_max_age_s: float = 0.2
    first_motion_within_s: float = 30.0


class Guard:
    """Owns the arm. Call it from one thread at a time.

    Args:
        timeline: Plans by tick, with the executor that chooses among them.
        governor: Applies the robot's limits once a guard period.

    Attributes:
        output: Why commands would not be executed, or who else commands the arm: reason and detail.
        status: The planner's newest one.
        taken_over: A person moves the arm.
        plans_refused: Their number by reason.
        ticks_total: Guard periods in which a plan moved the arm.
        ticks_missed: Those of them without an action, and those that the timer skipped.
        plan_age_ms: From the tick of the oldest observation that contributed to an action to its first twist.
    """

    def __init__(
        self,
        settings: GuardSettings,
        timeline: ActionTimeline,
        governor: SafetyGovernor,
        gripper: GripperSwitch,
        *,
        stops: EmergencyStops,
        deadman: Deadman,
        takeover: Takeover,
        motion: MotionCheck,
    ) -> None:
        self.settings = settings
        self.timeline = timeline
        self.governor = governor
        self.stops = stops
        self.deadman = deadman
        self.takeover = takeover
        self.output: tuple[str, str] | None = None
        self.status = PlannerStatus()
        self.detail = ""
        self.taken_over = False
        self.plans_refused: dict[str, int] = {}
        self.ticks_total = self.ticks_missed = 0
        self.plan_age_ms = RecentValues()
        self._gripper = gripper
        self._motion = motion
        self._grid: PlanGrid | None = None
        self._status_s: float | None = None
        self._newest_stamp_ns: int | None = None
        self._new_command = False  # since the newest plan
        self._accept_from_ns: int | None = None
        self._contradiction: tuple[str, str] | None = None
        self._tick: int | None = None
        self._ticked_ns: int | None = None
        self._ticked_s: float | None = None
        self._action: Array | None = None
        self._previous: Array | None = None
        self._given: list[Array] = []
        self._disarm_requested = False
        self._disarmed_by = ""
        self._moved = False  # since it was armed
        self._stopped_s: float | None = None

    # Signals

    def hear_plan(self, plan: Plan, now_ns: int) -> str | None:
        """Take a plan; return why it is refused, or None."""
        refusal = self._refusal(plan, now_ns)
        if refusal is None:
            assert self._grid is not None
            self._grid.anchor(plan.stamp_ns)
            self._newest_stamp_ns = plan.stamp_ns
            tick = self._grid.nearest(plan.stamp_ns)
            if self.timeline.post(tick, plan.actions, replace_all=self._new_command):
                self._new_command = False
            else:
                refusal = "late: every tick of it is over"
        if refusal is not None:
            name = refusal.partition(":")[0]
            self.plans_refused[name] = self.plans_refused.get(name, 0) + 1
        return refusal

    def _refusal(self, plan: Plan, now_ns: int) -> str | None:
        if plan.actions.ndim != 2 or plan.actions.shape[1:] != (7,) or not len(plan.actions) or plan.period_ns <= 0:
            return f"malformed: {plan.actions.shape} actions of {plan.period_ns} ns"
        if not np.isfinite(plan.actions).all():
            return "not_finite: an action is NaN or infinite"
        ahead_s = (plan.stamp_ns - now_ns) / 1e9
        if ahead_s > PLAN_MAX_AHEAD_S:
            return f"ahead: its stamp is {ahead_s:.2f} s in the future; synchronise the clocks"
        if self._newest_stamp_ns is not None and plan.stamp_ns <= self._newest_stamp_ns:
            return "out_of_order: a newer plan has arrived before"
        if self._accept_from_ns is not None and plan.stamp_ns < self._accept_from_ns:
            return "before_stop: its observation is from before the last stop"
        if self._grid is None or not self._grid.has_period(plan.period_ns):
            if self.governor.state in (State.RUNNING, State.STOPPING):
                if self._grid is None:
                    return "stopping: the clock was set back"
                return f"period: {plan.period_ns / 1e6:g} ms differs from the plan that is being executed"
            self._restart_grid(plan)
        return None

    def _restart_grid(self, plan: Plan) -> None:
        self._grid = PlanGrid(plan.stamp_ns, plan.period_ns)
        self._tick = None
        self.timeline.restart()
        if self._ticked_ns is not None:  # until then the arm has been at rest
            self._tick = self._at(self._grid, self._ticked_ns)[0]
            self.timeline.pop(self._tick)

    def hear_status(self, status: PlannerStatus, now_s: float) -> None:
        """Take the planner's status."""
        if status.session != self.status.session and self._status_s is not None and self._moved:
            if now_s - self._status_s <= self.settings.heartbeat_max_age_s:  # a restart takes longer
                self.disarm("second_planner", "two planners send their status: stop one of them")
            else:
                self.disarm("policy_restarted", "the planner was restarted")
        self._new_command = self._new_command or status.command != self.status.command
        self.status, self._status_s = status, now_s

    def arm(self, armed: bool, now_ns: int) -> None:
        """A person arms or disarms. Disarming is an event: it is a stop even if armed again in the same period."""
        if not armed:
            self._disarm_requested = True
            self.disarm("disarmed")
            self.governor.end_first_run()
            return
        self.governor.arm(True)
        self._disarmed_by, self._moved, self._stopped_s, self._contradiction = "", False, None, None
        self._drop_plan(now_ns)

    def reset(self, now_s: float) -> str | None:
        """Clear a fault; return why that is not possible, or None. The guard is disarmed then: reset never moves."""
        refusal = self.stops.reset(now_s)
        if refusal is None:
            self.governor.reset()
            self.disarm("reset", "a fault was cleared")
            self._contradiction = None
        return refusal

    def measured(self, pose: Array, now_s: float) -> None:
        """Take a new pose (7,) of the tool in the base frame; one that is not finite tells nothing."""
        if not np.isfinite(pose).all():
            return
        reason = self._motion.measured(pose, now_s)
        if reason is not None and self._contradiction is None and self.governor.state is State.RUNNING:
            self._contradiction = reason, self._motion.detail

    def restart(self) -> None:
        """Forget the past: the clock was set back."""
        self.timeline.restart()
        self._motion.restart()
        self._grid = self._newest_stamp_ns = self._accept_from_ns = self._tick = self._action = self._ticked_ns = None
        self._given, self._previous = [], None

    # Ticks

    def tick(self, now_ns: int, now_s: float, ee_position: Array | None) -> Command:
        """Act for one guard period.

        Args:
            now_ns: On the ROS clock, which plans are stamped by.
            now_s: On a steady clock, which ages are measured by.
            ee_position: (3,) the tool in the base frame [m], or None if unknown or too old.
        """
        if self._ticked_ns is not None and self._ticked_ns - now_ns > self.settings.period_ns:
            self.restart()
        limit_s = self.settings.resume_within_s if self._moved else self.settings.first_motion_within_s
        if self._stopped_s is not None and now_s - self._stopped_s > limit_s:
            self.disarm(self.governor.reason or "", self.detail)
        reason, detail = self._reason(now_s)
        by_hand, opening = self.takeover.twist(now_s), self.takeover.opening(now_s)
        ended = self.takeover.ended(now_s)
        if ended == "operator_lost":
            self.disarm("operator_lost", "takeover twists broke off while the arm was moving")
        if by_hand is not None and reason is None:
            self._leave_plan(now_ns)
            self.taken_over = True
            twist = self.governor.tick(np.append(by_hand, 0.5), None, ee_position)
            opening = opening if self.governor.state is State.RUNNING else None
        else:
            if self.taken_over:
                self.taken_over, reason, detail = False, reason or "handed_back", detail
                self._drop_plan(now_ns)
                self._ticked_ns = None  # the periods until now were the person's
            if reason is None:
                reason, detail = self._planner_reason(now_s)
            twist, opening = self._follow(now_ns, now_s, reason, ee_position)
        self._ticked_ns, self._ticked_s = now_ns, now_s
        self._latch(detail, now_s)
        self._motion.moved(twist, self.settings.period_ns / 1e9)
        stands = self.governor.state is not State.RUNNING and (twist is None or not twist.any())
        if stands:  # who moves it meanwhile contradicts nothing
            self._motion.restart()
        return Command(twist, opening) if twist is not None or opening is not None else SILENCE

    def halt(self, reason: str) -> Command:
        """Take one period of a stop outside the grid: an emergency stop, a clock that stands, a node that ends."""
        was_running = self.governor.state is State.RUNNING
        twist = self.governor.tick(None, reason, None)
        self._leave_plan(None)
        if was_running:
            self._stopped_s = self._ticked_s
            self._drop_plan(self._accept_from_ns if self._ticked_ns is None else self._ticked_ns + 1)
        return Command(twist, None)

    def _reason(self, now_s: float) -> tuple[str | None, str]:
        """What speaks against any motion, whoever commands it."""
        stop = self.stops.reason(now_s)
        if stop is not None:
            return stop
        if self._disarm_requested:
            self._disarm_requested = False
            return "disarmed", ""
        if self._contradiction is not None:
            return self._contradiction
        deadman = self.deadman.reason(now_s)
        if deadman is not None:
            return deadman, ""
        return self.output or (None, "")

    def _planner_reason(self, now_s: float) -> tuple[str | None, str]:
        """What speaks against following the plan."""
        if self.status.reason == INACTIVE:
            return INACTIVE, self.status.detail
        if self._status_s is None:
            return "policy_silent", "no planner has sent its status yet"
        age_s = now_s - self._status_s
        if age_s > self.settings.heartbeat_max_age_s:
            text = f"the planner's last status is {age_s:.2f} s old; at most {self.settings.heartbeat_max_age_s:g} s"
            return "policy_silent", text
        return self.status.reason, self.status.detail

    def _follow(
        self, now_ns: int, now_s: float, reason: str | None, ee_position: Array | None
    ) -> tuple[Array | None, float | None]:
        """Execute the plan for one guard period."""
        action, new = self._planned(now_ns)
        was_running = self.governor.state is State.RUNNING
        twist = self.governor.tick(action, reason, ee_position)
        running = self.governor.state is State.RUNNING
        self._count(now_ns, was_running, running, starved=was_running and action is None and reason is None)
        if not running:
            if was_running:
                self._drop_plan(now_ns)
            self._leave_plan(None)
            return twist, None
        if not was_running:
            self._gripper.reset()  # somebody else may have moved it meanwhile
        scale = self.governor.scale
        if scale and twist is not None:
            self._given.append(twist / scale)
        self._tell_timeline(action)
        if new:
            self._measure_age(now_ns)
        return twist, self._switch_gripper(action, now_s) if new and action is not None else None

    def _switch_gripper(self, action: Array, now_s: float) -> float | None:
        following = None if self._tick is None else self.timeline.peek(self._tick + 1)
        return self._gripper.update(float(action[6]), now_s, None if following is None else float(following[6]))

    def _count(self, now_ns: int, was_running: bool, running: bool, *, starved: bool) -> None:
        skipped = 0
        if was_running and self._ticked_ns is not None:
            skipped = max(0, round((now_ns - self._ticked_ns) / self.settings.period_ns) - 1)
        self.ticks_total += skipped + (running or starved)
        self.ticks_missed += skipped + starved

    def _measure_age(self, now_ns: int) -> None:
        answered_tick = self.timeline.answered_tick
        if answered_tick is not None and self._grid is not None:
            self.plan_age_ms.add((now_ns - self._grid.start_ns(answered_tick)) / 1e6)

    def _planned(self, now_ns: int) -> tuple[Array | None, bool]:
        """Return the action (7,) for now, interpolated, and whether it is the first period of its tick."""
        if self._grid is None:
            return None, False
        tick, phase = self._at(self._grid, now_ns)
        if self._tick is not None and tick < self._tick:  # the stamp of a newer plan has moved the grid a little
            tick, phase = self._tick, 0.0
        new = tick != self._tick
        if new:
            consecutive = self._tick is not None and tick == self._tick + 1
            self._previous = self._action if consecutive else None
            self._tick, self._given = tick, []
            self._action = self.timeline.pop(tick)
        if self._action is None:
            return None, new
        if self.settings.period_ns >= self._grid.period_ns:
            return self._action, new
        following = self.timeline.peek(tick + 1)
        previous = None if self._previous is None else self._previous[:6]
        twist = interpolated(previous, self._action[:6], None if following is None else following[:6], phase)
        return np.append(twist, self._action[6]), new

    def _at(self, grid: PlanGrid, now_ns: int) -> tuple[int, float]:
        """Return tick and phase in the middle of the guard period: a timer that is a bit early repeats no tick."""
        return grid.at(now_ns + min(self.settings.period_ns, grid.period_ns) // 2)

    def _tell_timeline(self, action: Array | None) -> None:
        """Report the average twist of this tick: as sent until now, and as planned for its other periods."""
        if not self._given or action is None or self._action is None or self._grid is None:
            self.timeline.acted(True)
            return
        periods = max(1, round(self._grid.period_ns / self.settings.period_ns))
        rest = max(0, periods - len(self._given))
        average = (np.sum(self._given, axis=0) + rest * self._action[:6]) / (len(self._given) + rest)
        self.timeline.acted(True, average)

    def _leave_plan(self, now_ns: int | None) -> None:
        self._given, self._previous = [], None
        self.timeline.acted(False)
        if now_ns is not None:
            self._drop_plan(now_ns)

    def _drop_plan(self, now_ns: int | None) -> None:
        """What was planned from before a stop must not move the arm after it."""
        self._accept_from_ns, self._action = now_ns, None
        self.timeline.clear()

    def _latch(self, detail: str, now_s: float) -> None:
        """Disarm for what must not end by itself."""
        governor = self.governor
        if governor.state is State.RUNNING:
            self._moved, self._stopped_s, self.detail = True, None, ""
            return
        reason = governor.reason or ""
        self.detail = detail if governor.armed else self._disarmed_by
        if governor.armed and reason in DISARMING:
            self.disarm(reason, detail)
        elif not governor.armed or reason in IDLE or (not self._moved and self._status_s is None):
            self._stopped_s = None  # a command is a person's, and a model may take minutes to load
        elif self._stopped_s is None:
            self._stopped_s = now_s

    def disarm(self, reason: str, detail: str = "") -> None:
        """Disarm because of `reason`; a person has to arm again."""
        if self.governor.armed:
            self._disarmed_by = f"{reason}: {detail}" if detail else reason
        self.governor.arm(False)
