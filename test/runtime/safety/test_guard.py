# SPDX-License-Identifier: Apache-2.0
"""The guard's core against planners, people and arms that misbehave. Time is simulated: 100 Hz guard, 10 Hz plans."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from vla_ros.robot import Limits
from vla_ros.runtime.execution.commands import GripperSwitch
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.execution.plans import Plan, PlannerStatus
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.safety import guard
from vla_ros.runtime.safety.governor import SafetyGovernor, State
from vla_ros.runtime.safety.guard import Guard, GuardSettings
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover
from vla_ros.runtime.safety.plausibility import MotionCheck

GUARD_NS, PLAN_NS = 10_000_000, 100_000_000
LIMITS = Limits(0.35, 1.6, 6.0, 30.0, 240.0, 1200.0, (0.0, -0.5, 0.0), (1.0, 0.5, 0.8))  # of the simulated arm
STOP, OTHER_STOP = "emergency_stop", "/cell/emergency_stop"


@dataclasses.dataclass
class Arm:
    """A guard, a planner that answers each tick with a constant twist, and an arm that follows; faults are fields."""

    require_enable: bool = False
    speed: float = 0.1
    plans: bool = True
    alive: bool = True
    follows: bool = True
    reason: str | None = None
    session: str = "first"
    stop_ticks: int = 3
    opening: Callable[[int], float] = lambda tick: 1.0

    def __post_init__(self) -> None:
        governor = SafetyGovernor(LIMITS, period_s=GUARD_NS / 1e9, stop_ticks=self.stop_ticks)
        self.guard = Guard(
            GuardSettings(GUARD_NS),
            ActionTimeline(make_executor("path_following", horizon=4, decay=0.01)),
            governor,
            GripperSwitch(),
            stops=EmergencyStops({STOP: None, OTHER_STOP: 0.2}),
            deadman=Deadman(required=self.require_enable),
            takeover=Takeover(),
            motion=MotionCheck(LIMITS.linear_mps),
        )
        self.now_ns = 1_700_000_000_000_000_000
        self.pose = np.array([0.2, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0])
        self.twists: list[np.ndarray | None] = []
        self.openings: list[float] = []
        self.beats = True

    @property
    def now_s(self) -> float:
        return self.now_ns / 1e9

    @property
    def moving(self) -> bool:
        twist = self.twists[-1]
        return twist is not None and bool(twist.any())

    @property
    def state(self) -> tuple[State, str | None]:
        return self.guard.governor.state, self.guard.governor.reason

    def plan(self, **changes: object) -> str | None:
        actions = np.tile([self.speed, 0, 0, 0, 0, 0, 1.0], (8, 1))
        actions[:, 6] = self.opening(self.now_ns // PLAN_NS)
        plan = Plan(self.now_ns - self.now_ns % PLAN_NS, PLAN_NS, actions)
        return self.guard.hear_plan(dataclasses.replace(plan, **changes), self.now_ns)

    def run(self, seconds: float, each_period: Callable[[], None] = lambda: None) -> None:
        for _ in range(round(seconds * 1e9 / GUARD_NS)):
            self.now_ns += GUARD_NS
            if self.beats:
                self.guard.stops.hear(OTHER_STOP, False, self.now_s)
            if self.alive and self.now_ns % 50_000_000 == 0:
                self.guard.hear_status(PlannerStatus(self.session, "go", self.reason), self.now_s)
            if self.alive and self.plans and self.reason is None and self.now_ns % PLAN_NS == 20_000_000:
                self.plan()
            each_period()
            self.guard.measured(self.pose, self.now_s)
            command = self.guard.tick(self.now_ns, self.now_s, self.pose[:3])
            self.twists.append(command.twist)
            if command.opening is not None:
                self.openings.append(command.opening)
            if command.twist is not None and self.follows:
                self.pose[:3] += command.twist[:3] * GUARD_NS / 1e9

    def running(self) -> Arm:
        """Bring it to motion."""
        self.run(0.1)
        self.guard.arm(True, self.now_ns)
        self.run(1.0)
        assert self.state == (State.RUNNING, None) and self.moving
        return self

    def period_of_stop(self) -> int:
        """Return how many periods ago the last twist that moves the arm was sent."""
        return next(count for count, twist in enumerate(reversed(self.twists)) if twist is not None and twist.any())


@pytest.fixture
def arm() -> Arm:
    return Arm().running()


def test_nothing_moves_before_a_person_arms_it() -> None:
    arm = Arm()
    arm.run(2.0)
    assert all(twist is None for twist in arm.twists) and arm.state == (State.DISARMED, "disarmed")


def test_it_moves_as_planned_within_acceleration_and_jerk(arm: Arm) -> None:
    twists = np.array([twist for twist in arm.twists if twist is not None])
    assert twists[-1, 0] == pytest.approx(0.1)
    accelerations = np.diff(twists[:, 0]) / (GUARD_NS / 1e9)
    assert np.abs(accelerations).max() <= LIMITS.linear_mps2 + 1e-9
    assert np.abs(np.diff(accelerations)).max() / (GUARD_NS / 1e9) <= LIMITS.linear_mps3 + 1e-6


@pytest.mark.parametrize("signal", ["press", "vanish", "heartbeat"])
def test_an_emergency_stop_is_zero_at_once_and_reset_alone_never_moves(arm: Arm, signal: str) -> None:
    stops = arm.guard.stops
    if signal == "press":
        assert stops.hear(STOP, True, arm.now_s)
    elif signal == "vanish":
        stops.look(STOP, 1, None, arm.now_s)
        assert stops.look(STOP, 0, None, arm.now_s)
    else:
        arm.beats = False
        arm.run(0.25)
        assert stops.look(OTHER_STOP, 1, None, arm.now_s)
    arm.run(0.01)
    assert not arm.moving and arm.state[1] == "emergency_stop"
    if signal == "press":
        assert "still pressed" in (arm.guard.reset(arm.now_s) or "")
        stops.hear(STOP, False, arm.now_s)
    if signal == "heartbeat":
        assert "heartbeat" in (arm.guard.reset(arm.now_s) or "")
        arm.beats = True
        arm.run(0.01)
    assert arm.guard.reset(arm.now_s) is None
    arm.run(5.0)
    assert not arm.moving and arm.state == (State.DISARMED, "disarmed")
    arm.guard.arm(True, arm.now_ns)
    arm.run(0.5)
    assert arm.moving


def test_a_button_that_says_released_does_not_release_another(arm: Arm) -> None:
    arm.guard.stops.hear(STOP, True, arm.now_s)
    arm.run(0.5)  # the other one says false in each period
    assert not arm.moving and STOP in (arm.guard.reset(arm.now_s) or "")


def test_two_buttons_on_one_topic_and_one_that_cannot_be_heard_are_named(arm: Arm) -> None:
    arm.guard.stops.look(STOP, 2, None, arm.now_s)
    arm.run(0.5)
    assert not arm.moving and arm.state[1] == "emergency_stop_ambiguous"
    arm.guard.stops.look(STOP, 1, "it publishes std_msgs/msg/Empty, expected std_msgs/msg/Bool", arm.now_s)
    arm.run(0.1)
    assert arm.state[1] == "emergency_stop_unheard" and "Empty" in arm.guard.detail


def test_a_planner_that_dies_stops_the_arm_after_the_heartbeats_age_and_it_stays_disarmed(arm: Arm) -> None:
    arm.alive = False
    arm.run(0.26)
    assert arm.state[1] == "policy_silent"
    arm.run(0.3)
    assert not arm.moving
    arm.run(1.0)
    arm.alive, arm.session = True, "second"
    arm.run(3.0)
    assert not arm.moving and arm.state == (State.DISARMED, "disarmed") and "policy_silent" in arm.guard.detail


@pytest.mark.parametrize(("gap_s", "reason"), [(0.3, "policy_restarted"), (0.0, "second_planner")])
def test_another_planner_does_not_move_the_arm(arm: Arm, gap_s: float, reason: str) -> None:
    arm.alive = False
    arm.run(gap_s)
    arm.alive, arm.session = True, "second"
    arm.run(3.0)
    assert not arm.moving and reason in arm.guard.detail


@pytest.mark.parametrize(("gap_s", "resumes"), [(0.6, True), (1.5, False)])
def test_a_short_gap_resumes_by_itself_and_a_long_one_waits_for_a_person(arm: Arm, gap_s: float, resumes: bool) -> None:
    arm.reason = "stale"
    arm.run(gap_s)
    assert not arm.moving
    arm.reason = None
    arm.run(2.0)
    assert arm.moving is resumes
    assert resumes or "stale" in arm.guard.detail


def test_an_arm_without_a_command_stays_armed(arm: Arm) -> None:
    arm.reason = "no_command"
    arm.run(20.0)
    assert not arm.moving
    arm.reason = None
    arm.run(1.0)
    assert arm.moving


@pytest.mark.parametrize(("wait_s", "moves"), [(29.0, True), (31.0, False)])
def test_an_armed_arm_does_not_wait_forever_for_a_sensor(wait_s: float, moves: bool) -> None:
    arm = Arm(reason="missing")
    arm.run(0.1)
    arm.guard.arm(True, arm.now_ns)
    arm.run(wait_s)
    arm.reason = None
    arm.run(1.0)
    assert arm.moving is moves
    assert moves or arm.guard.detail.startswith("missing")


def test_an_armed_arm_waits_while_a_planner_loads_its_model() -> None:
    arm = Arm(alive=False)
    arm.guard.arm(True, arm.now_ns)
    arm.run(60.0)
    arm.alive = True
    arm.run(1.0)
    assert arm.moving


def test_what_was_planned_before_a_stop_does_not_move_the_arm_after_it(arm: Arm) -> None:
    arm.plans = False
    arm.plan()  # a chunk of 0.8 s
    arm.reason = "stale"
    arm.run(0.2)
    arm.reason = None
    arm.run(0.5)
    assert arm.period_of_stop() > 40


def test_disarming_and_arming_in_one_period_is_a_stop(arm: Arm) -> None:
    arm.guard.arm(False, arm.now_ns)
    arm.guard.arm(True, arm.now_ns)
    arm.run(0.15)
    assert any(twist is not None and not twist.any() for twist in arm.twists[-15:])


def test_a_false_of_one_deadman_counts_beside_a_true_of_another() -> None:
    arm = Arm(require_enable=True)

    def hold() -> None:
        arm.guard.deadman.hear(True, arm.now_s)

    arm.run(0.1, hold)
    arm.guard.arm(True, arm.now_ns)
    arm.run(0.5, hold)
    assert arm.moving

    def both() -> None:
        arm.guard.deadman.hear(True, arm.now_s)
        if arm.now_ns % 50_000_000 == 0:
            arm.guard.deadman.hear(False, arm.now_s)
            arm.guard.deadman.hear(True, arm.now_s)

    arm.run(1.0, both)
    moved = [twist is not None and twist.any() for twist in arm.twists[-50:]]
    assert not any(moved)


def test_a_lost_operators_link_disarms() -> None:
    arm = Arm(require_enable=True)
    arm.run(0.1, lambda: arm.guard.deadman.hear(True, arm.now_s))
    arm.guard.arm(True, arm.now_ns)
    arm.run(0.5, lambda: arm.guard.deadman.hear(True, arm.now_s))
    arm.run(1.0)
    assert not arm.moving and "operator_lost" in arm.guard.detail
    arm.run(3.0, lambda: arm.guard.deadman.hear(True, arm.now_s))
    assert not arm.moving


def test_a_takeover_moves_the_arm_within_limits_and_is_handed_back_by_a_zero(arm: Arm) -> None:
    def left() -> None:
        assert arm.guard.takeover.hear([-0.1, 0, 0, 0, 0, 0], 0.02, arm.now_s) is None

    arm.run(1.0, left)
    assert arm.twists[-1][0] == pytest.approx(-0.1) and arm.guard.taken_over
    arm.run(0.2, lambda: arm.guard.takeover.hear(np.zeros(6), 0.0, arm.now_s))
    arm.run(1.0)
    assert arm.moving and arm.twists[-1][0] == pytest.approx(0.1)


def test_a_takeover_that_breaks_off_disarms(arm: Arm) -> None:
    arm.run(0.5, lambda: arm.guard.takeover.hear([-0.1, 0, 0, 0, 0, 0], 0.0, arm.now_s))
    arm.run(3.0)
    assert not arm.moving and "operator_lost" in arm.guard.detail


@pytest.mark.parametrize("age_s", [5.0, 0.4, -2.0])
def test_takeover_twists_with_odd_stamps_are_dropped_and_named(arm: Arm, age_s: float) -> None:
    for _ in range(40):
        assert "stamp" in (arm.guard.takeover.hear([-0.1, 0, 0, 0, 0, 0], age_s, arm.now_s) or "")
        arm.run(0.05)
    assert min(twist[0] for twist in arm.twists if twist is not None) >= 0.0


def test_an_arm_that_does_not_follow_is_disarmed_within_about_a_second(arm: Arm) -> None:
    arm.follows = False
    noise = np.random.default_rng(0)

    def trembles() -> None:
        arm.pose[:3] += noise.normal(0, 1e-5, 3)

    arm.run(1.5, trembles)
    assert not arm.moving and "arm_not_following" in arm.guard.detail
    assert sum(twist[0] for twist in arm.twists[-150:] if twist is not None) * GUARD_NS / 1e9 < 0.15


def test_a_pose_that_repeats_an_old_value_is_found_sooner(arm: Arm) -> None:
    arm.follows = False
    arm.run(0.8)
    assert not arm.moving and "pose_frozen" in arm.guard.detail


def test_a_pose_that_jumps_is_named(arm: Arm) -> None:
    arm.pose[1] += 0.2
    arm.run(0.3)
    assert not arm.moving and "pose_jump" in arm.guard.detail


@pytest.mark.parametrize("moved_m", [-0.15, -0.09])
def test_an_arm_that_is_moved_while_it_stands_contradicts_nothing_after_that(moved_m: float) -> None:
    """As a simulator that is reset between two commands; the next one may come before the zero twists have ended."""
    arm = Arm(stop_ticks=25).running()
    arm.reason = "no_command"
    arm.run(0.15)
    assert arm.state[0] is State.STOPPING and not arm.moving
    arm.pose[0] += moved_m
    arm.reason = None
    arm.run(2.0)
    assert arm.moving and arm.state == (State.RUNNING, None)
    assert all(twist is not None for twist in arm.twists[-200:])  # it was never silent, which would hide the fault


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"actions": np.full((8, 7), np.nan)}, "not_finite"),
        ({"actions": np.zeros((8, 6))}, "malformed"),
        ({"actions": np.zeros((0, 7))}, "malformed"),
        ({"stamp_ns": 1_600_000_000_000_000_000}, "out_of_order"),
        ({"stamp_ns": 1_800_000_000_000_000_000}, "ahead"),
        ({"period_ns": 50_000_000}, "period"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_and_changes_nothing(arm: Arm, changes: dict, refusal: str) -> None:
    arm.now_ns += 30_000_000
    assert (arm.plan(**changes) or "").startswith(refusal)
    arm.run(0.5)
    assert arm.moving and arm.guard.plans_refused[refusal] == 1


def test_another_planners_period_is_taken_up_at_rest() -> None:
    arm = Arm()
    arm.run(0.5)
    assert arm.plan(period_ns=50_000_000) is None


def test_acceleration_between_the_planners_ticks_is_smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that changes each tick, at 100 Hz against one twist for a whole tick."""
    rms = []
    for steps in (False, True):
        arm = Arm().running()
        if steps:
            monkeypatch.setattr(guard, "interpolated", lambda previous, current, following, phase: current)

        def wave(arm: Arm = arm) -> None:
            if arm.now_ns % PLAN_NS == 0:
                arm.plans = False
                times = np.arange(8) * 0.1 + arm.now_s
                actions = np.zeros((8, 7))
                actions[:, 0] = 0.1 * np.sin(2 * math.pi * 0.8 * times)
                assert arm.plan(actions=actions) is None

        arm.run(6.0, wave)
        twists = np.array([twist[0] for twist in arm.twists[-500:]])
        rms.append(np.sqrt(np.mean(np.square(np.diff(twists) / (GUARD_NS / 1e9)))))
    assert rms[0] <= 0.5 * rms[1]


def test_the_displacement_is_that_of_the_plan() -> None:
    arm = Arm().running()
    start = arm.pose[0]
    arm.run(3.0)
    assert arm.pose[0] - start == pytest.approx(0.3, abs=0.002)


def test_an_arm_armed_beside_a_second_planner_does_not_start_when_that_one_ends() -> None:
    arm = Arm()
    arm.guard.output = "second_planner", "2 nodes publish plan"
    arm.run(0.5)
    arm.guard.arm(True, arm.now_ns)
    arm.run(0.5)
    arm.guard.output = None
    arm.run(2.0)
    assert all(twist is None for twist in arm.twists) and arm.state == (State.DISARMED, "disarmed")
    assert "second_planner" in arm.guard.detail
