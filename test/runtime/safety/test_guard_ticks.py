# SPDX-License-Identifier: Apache-2.0
"""What the guard makes of plans and people, tick by tick of the plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ticked_guard import PERIOD_NS, STOP, TickedGuard, chunk

from vla_ros.runtime.execution.commands import SILENCE
from vla_ros.runtime.execution.executors import RecedingHorizon, make_executor
from vla_ros.runtime.execution.plans import Plan
from vla_ros.runtime.rollout import UNLIMITED
from vla_ros.runtime.safety.governor import State

FORWARD = [0.0, 0.3, 0, 0, 0, 0]
EXECUTORS = ["path_following", "full_chunk", "receding_horizon", "first_action"]


def rising(length: int) -> np.ndarray:
    """Row i moves at (i + 1) / 100 m/s."""
    actions = np.zeros((length, 7))
    actions[:, 0] = np.arange(1, length + 1) / 100
    return actions


def test_an_early_timer_neither_skips_nor_repeats_a_tick():
    tested = TickedGuard()
    tested.post(5, np.array([[tick, 0, 0, 0, 0, 0, 1] for tick in (0.05, 0.06, 0.07)]))
    early_by_a_bit = 0.001
    assert [tested.vx(tick - early_by_a_bit) for tick in (5, 6, 7)] == pytest.approx([0.05, 0.06, 0.07])


def test_stamps_that_jitter_by_a_few_guard_periods_do_not_stop_the_arm():
    tested = TickedGuard(periods_per_tick=10)
    jitter = iter([0, 30_000_000, -30_000_000, 15_000_000, 30_000_000] * 10)
    sent = []
    for period in range(400):
        now_ns = period * PERIOD_NS // 10
        if period % 10 == 3:
            plan = Plan(now_ns - 30_000_000 + next(jitter), PERIOD_NS, chunk())
            assert tested.core.hear_plan(plan, now_ns) is None
        sent.append(tested.vx(period / 10))
    assert sent[20:] == pytest.approx([0.1] * 380) and not tested.core.governor.stops


def test_after_a_stop_only_a_plan_from_a_new_observation_moves_the_arm():
    tested = TickedGuard(stop_ticks=2)
    tested.post(5, chunk())
    tested.tick(5)
    assert tested.vx(6, "stale") == 0.0
    assert not tested.post(5, chunk(20))
    assert [tested.vx(tick) for tick in (7, 8, 9)] == [0.0, None, None]
    assert tested.post(9, chunk())
    assert tested.vx(10) == pytest.approx(0.1)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.lists(st.sampled_from([None, None, "stale"]), max_size=5)), max_size=25),
    st.sampled_from(EXECUTORS),
    st.sampled_from([1, 4]),
)
def test_whatever_chunks_take_none_observed_before_a_stop_moves_the_arm_after_it(chunks, executor, periods_per_tick):
    tested = TickedGuard(
        make_executor(executor, horizon=3), limits=UNLIMITED, stop_ticks=2, periods_per_tick=periods_per_tick
    )
    tick, stopped = 0, -1.0
    for delay, reasons in chunks:
        observed = tick
        for index in range(delay):
            for period in range(periods_per_tick):
                now = tick + period / periods_per_tick
                was_running = tested.state is State.RUNNING
                twist = tested.tick(now, reasons[index] if index < len(reasons) else None).twist
                if tested.state is State.RUNNING:
                    assert twist[0] >= stopped - 1e-9
                elif was_running:
                    stopped = now
            tick += 1
        tested.post(observed, chunk(12, vx=observed))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 60), st.sampled_from(["twist", "zero", "press", "stale", "disarm"])), max_size=20)
)
def test_the_arm_stands_still_whoever_says_what_until_a_person_arms_it_again(events):
    tested = TickedGuard(make_executor("full_chunk"), periods_per_tick=4)
    tested.core.arm(False, 0)
    for index in range(240):
        now = index / 4
        said = [event for at, event in events if now <= at < now + 0.25]
        if "twist" in said or "zero" in said:
            tested.take_over(FORWARD if "twist" in said else np.zeros(6), 0.5)
        if "press" in said:
            tested.core.stops.hear(STOP, True, tested.steady_s)
            tested.core.stops.hear(STOP, False, tested.steady_s)
            tested.core.reset(tested.steady_s)
        if "disarm" in said:
            tested.core.arm(False, round(now * PERIOD_NS))
        if index % 4 == 0:
            tested.post(index // 4, chunk())
        assert tested.tick(now, "stale" if "stale" in said else None) == SILENCE


def test_starved_and_skipped_ticks_are_missed_ticks_and_stops_for_other_reasons_are_not():
    tested = TickedGuard(stop_ticks=1)
    tested.post(5, chunk(4))
    for tick in (3, 4, 5, 6, 8):  # 7 is skipped
        tested.tick(tick)
    assert (tested.core.ticks_total, tested.core.ticks_missed) == (4, 1)
    tested.tick(9)  # the plan has ended
    assert (tested.core.ticks_total, tested.core.ticks_missed) == (5, 2)
    tested.post(10, chunk(4))
    tested.tick(10)
    tested.tick(11, "no_command")
    assert (tested.core.ticks_total, tested.core.ticks_missed) == (6, 2)


def test_ticks_of_a_person_are_not_the_policys_and_none_of_them_is_missed():
    tested = TickedGuard(stop_ticks=1)
    tested.post(5, chunk(40))
    tested.tick(5)
    for tick in (6, 8, 9):
        tested.take_over(np.zeros(6))
        tested.tick(tick)
    for tick in (10, 11, 20, 21):  # the timer skips eight; then the takeover has ended
        tested.tick(tick)
    assert tested.core.governor.stops == {"handed_back": 1}
    assert (tested.core.ticks_total, tested.core.ticks_missed) == (1, 0)


def test_the_gripper_is_commanded_on_change_only_and_again_after_a_stop():
    tested = TickedGuard(stop_ticks=1)
    tested.post(5, np.concatenate([chunk(2, opening=0.0), chunk(2, opening=1.0)]))
    assert [tested.tick(tick).opening for tick in (5, 6, 7, 8)] == [0.0, None, 1.0, None]
    assert tested.tick(9).opening is None  # starved
    tested.post(10, chunk(2, opening=1.0))
    assert tested.tick(10).opening == 1.0


def test_the_plan_s_age_is_that_of_the_observation_which_the_twist_answers():
    tested = TickedGuard(RecedingHorizon(4))
    for tick in (5, 6, 7):
        tested.post(tick, chunk())
        tested.tick(tick)
    assert tested.core.plan_age_ms.summary().maximum == 200.0


def test_a_stopped_arm_does_not_move_its_gripper():
    tested = TickedGuard()
    tested.core.arm(False, 0)
    tested.post(5, chunk())
    assert tested.tick(5) == SILENCE


def test_a_clock_that_is_set_back_starts_a_new_grid():
    tested = TickedGuard()
    tested.post(500, chunk())
    tested.tick(500)
    assert tested.vx(3) == 0.0  # the old plan is gone: starved, a stop
    assert tested.state is State.STOPPING
    assert not tested.post(5, chunk())  # it is still slowing down
    assert [tested.vx(4), tested.vx(5)] == [0.0, None]
    assert tested.post(6, chunk())
    assert tested.vx(6) == pytest.approx(0.1)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("late_by", [1, 2.5, 3.9])
def test_a_plan_that_arrives_late_to_an_arm_at_rest_starts_with_its_first_row_that_is_due(executor, late_by):
    tested = TickedGuard(make_executor(executor, horizon=8), limits=UNLIMITED, periods_per_tick=10)
    for period in range(round(late_by * 10)):  # the guard has ticked at rest all the while
        assert tested.tick(3 + period / 10).twist is None
    assert tested.post(3, rising(8))
    first_due = int(np.ceil(late_by))
    sent = {period / 10: tested.vx(3 + period / 10) for period in range(round(late_by * 10), 80)}
    begun = [at for at, vx in sent.items() if vx is not None and vx > 0.0]
    row = 0 if executor == "path_following" else first_due  # a path begins with the arm's first motion
    assert min(begun) >= first_due
    assert sent[first_due + 0.5] == pytest.approx(rising(8)[row, 0], abs=1e-3)
    if executor == "first_action":
        assert max(begun) < first_due + 1  # and nothing else of it
    else:
        assert sent[first_due + 1.5] == pytest.approx(rising(8)[row + 1, 0], abs=1e-3)


@pytest.mark.parametrize("executor", ["path_following", "full_chunk"])
@pytest.mark.parametrize("stopped_by", ["period", "clock"])
def test_a_grid_that_restarts_after_rest_does_not_execute_rows_of_ticks_that_are_over(executor, stopped_by):
    tested = TickedGuard(make_executor(executor), limits=UNLIMITED, periods_per_tick=10)
    tested.post(5, chunk(2))
    for period in range(120):
        tested.tick(5 + period / 10)
    assert tested.state is State.WAITING
    if stopped_by == "clock":
        tested.core.restart()
        tested.tick(16.9)
    period_ns = 50_000_000 if stopped_by == "period" else PERIOD_NS
    rows_over = 3 * PERIOD_NS // period_ns  # those of 14, 15 and 16
    late = Plan(14 * PERIOD_NS, period_ns, rising(12))
    assert tested.core.hear_plan(late, 17 * PERIOD_NS) is None
    sent = [tested.vx(17 + period / 10) or 0.0 for period in range(10)]
    row = 0 if executor == "path_following" else rows_over
    middle = period_ns // 2 * 10 // PERIOD_NS
    assert sent[middle] == pytest.approx(rising(12)[row, 0], abs=2e-3)
    over = late.actions[:rows_over]
    expired = Plan(14 * PERIOD_NS + 1, period_ns, over)
    assert (tested.core.hear_plan(expired, 18 * PERIOD_NS) or "").startswith("late")


def test_whoever_takes_over_moves_the_arm_and_handing_back_is_a_stop_and_a_new_plan():
    tested = TickedGuard(stop_ticks=2)
    tested.post(5, chunk(20))
    assert tested.vx(5) == pytest.approx(0.1)
    tested.take_over(FORWARD)
    taken = tested.tick(6)
    assert taken.twist.tolist() == FORWARD and taken.opening is None and tested.core.taken_over
    tested.post(6, chunk(30))
    tested.take_over(np.zeros(6))
    assert [tested.vx(tick) for tick in range(7, 15)] == [0.0] * 4 + [0.0] + [None] * 3
    assert tested.core.governor.stops == {"handed_back": 1} and not tested.core.taken_over
    assert not tested.post(7, chunk(30))
    tested.post(14, chunk())
    assert tested.vx(15) == pytest.approx(0.1)


def test_who_takes_over_is_stopped_by_what_stops_everybody_and_limited_like_the_policy():
    tested = TickedGuard(stop_ticks=1)
    tested.take_over([9.0, 0, 0, 0, 0, 0])
    assert tested.vx(5) == pytest.approx(1.0)
    tested.core.stops.hear(STOP, True, tested.steady_s)
    tested.take_over(np.ones(6))
    assert tested.vx(6) == 0.0
    assert tested.core.governor.stops == {"emergency_stop": 1}
    tested.take_over(np.ones(6))
    assert tested.tick(7).twist is None
    tested.core.stops.hear(STOP, False, tested.steady_s)
    assert tested.core.reset(tested.steady_s) is None
    tested.take_over(np.ones(6))
    assert tested.tick(8).twist is None, "a person arms it first"


def test_who_takes_over_moves_the_gripper_only_while_the_arm_may_move():
    tested = TickedGuard(stop_ticks=1)

    def opening(tick: int, commanded: float | None = 0.25) -> float | None:
        tested.take_over(np.zeros(6), commanded)
        return tested.tick(tick).opening

    assert opening(5) == 0.25
    assert opening(6, None) is None
    tested.core.output = "servo_not_ready", ""
    assert [opening(7), opening(8)] == [None, None]
    tested.core.output = None
    assert opening(9) == 0.25
    tested.core.arm(False, 0)
    assert [opening(10), opening(11)] == [None, None]
    tested.core.arm(True, 0)
    assert [opening(12), opening(13)][-1] == 0.25
    tested.core.stops.hear(STOP, True, tested.steady_s)
    assert opening(14) is None
    tested.core.stops.hear(STOP, False, tested.steady_s)
    assert opening(15) is None, "it is latched until it is reset"
    assert tested.core.reset(tested.steady_s) is None
    assert opening(16) is None, "it is disarmed"
    tested.core.arm(True, 0)
    assert opening(17) == 0.25


def test_the_gravest_reason_is_named():
    tested = TickedGuard()
    tested.core.output = "servo_not_ready", "its last status is a warning"
    tested.tick(5, "stale")
    assert (tested.core.governor.reason, tested.core.detail) == ("servo_not_ready", "its last status is a warning")
    tested.core.stops.look(STOP, 1, "QoS mismatch", 0.0)
    tested.tick(6, "stale")
    assert tested.core.governor.reason == "emergency_stop_unheard"
    tested.core.stops.hear(STOP, True, tested.steady_s)
    tested.tick(7, "stale")
    assert tested.core.governor.reason == "emergency_stop"


@pytest.mark.parametrize(("stood_for_s", "resumes"), [(0.5, True), (1.5, False)])
def test_after_a_clock_that_stood_still_the_old_plan_does_not_move_the_arm(stood_for_s, resumes):
    tested = TickedGuard(periods_per_tick=10, resume_within_s=1.0)
    tested.post(5, chunk(60))
    for period in range(20):
        tested.tick(5 + period / 10)
    assert tested.state is State.RUNNING
    while tested.state in (State.RUNNING, State.STOPPING):
        tested.core.halt("clock_stopped")
    tested.steady_s += stood_for_s
    observed_before = Plan(6 * PERIOD_NS + 5 * PERIOD_NS // 10, PERIOD_NS, chunk(60))
    assert (tested.core.hear_plan(observed_before, 7 * PERIOD_NS) or "").startswith("before_stop")
    assert [tested.vx(7 + period / 10) for period in range(10)] == [None] * 10
    assert tested.post(8, chunk(60))
    assert [tested.vx(8 + period / 10) for period in range(10)][-1] == (pytest.approx(0.1) if resumes else None)
    assert resumes or "clock_stopped" in tested.core.detail
