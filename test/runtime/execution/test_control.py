# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.robot import Limits
from vla_ros.runtime.execution.control import SILENCE, ControlLoop, GripperSwitch, ManualCommand
from vla_ros.runtime.execution.executors import RecedingHorizon, make_executor
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.rollout import UNLIMITED
from vla_ros.runtime.safety.governor import SafetyGovernor, State

PERIOD_NS = 100_000_000
CENTRE = (0.5, 0.0, 0.3)


def loop(stop_ticks: int = 2) -> ControlLoop:
    limits = Limits(1.0, 1.0, 1e6, 1e6, 1e9, 1e9, (0.0, -1.0, 0.0), (1.0, 1.0, 1.0))
    governor = SafetyGovernor(limits, period_s=0.1, stop_ticks=stop_ticks, armed=True)
    return ControlLoop(ActionTimeline(), governor, GripperSwitch(min_interval_s=0.0), period_ns=PERIOD_NS)


def chunk(length: int = 8, vx: float = 0.1, opening: float = 1.0) -> np.ndarray:
    return np.tile([vx, 0, 0, 0, 0, 0, opening], (length, 1))


def vx(command) -> float | None:
    return None if command.twist is None else float(command.twist[0])


def test_the_tick_is_the_grid_s_nearest_so_an_early_timer_neither_skips_nor_repeats_one():
    tested = loop()
    tested.timeline.post(5, np.array([[tick, 0, 0, 0, 0, 0, 1] for tick in (0.05, 0.06, 0.07)]))
    early_by_a_bit = 100_000
    sent = [vx(tested.tick(tick * PERIOD_NS - early_by_a_bit, None, CENTRE)) for tick in (5, 6, 7)]
    assert sent == pytest.approx([0.05, 0.06, 0.07])


def test_a_second_call_for_the_same_tick_is_silent():
    tested = loop()
    tested.timeline.post(5, chunk())
    tested.tick(5 * PERIOD_NS, None, CENTRE)
    assert tested.tick(5 * PERIOD_NS + 1000, None, CENTRE) is SILENCE
    assert vx(tested.tick(6 * PERIOD_NS, None, CENTRE)) == pytest.approx(0.1)


def test_after_a_stop_only_a_plan_from_a_new_observation_moves_the_arm():
    tested = loop(stop_ticks=2)
    tested.timeline.post(5, chunk())
    tested.tick(5 * PERIOD_NS, None, CENTRE)
    assert vx(tested.tick(6 * PERIOD_NS, "disabled", CENTRE)) == 0.0
    tested.timeline.post(5, chunk(20))
    assert [vx(tested.tick(tick * PERIOD_NS, None, CENTRE)) for tick in (7, 8, 9)] == [0.0, None, None]
    tested.timeline.post(9, chunk())
    assert vx(tested.tick(10 * PERIOD_NS, None, CENTRE)) == pytest.approx(0.1)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.lists(st.sampled_from([None, None, "stale"]), max_size=5)), max_size=25),
    st.sampled_from(["full_chunk", "receding_horizon", "first_action"]),
)
def test_whatever_chunks_take_none_observed_before_a_stop_moves_the_arm_after_it(chunks, executor):
    governor = SafetyGovernor(UNLIMITED, period_s=0.1, stop_ticks=2, armed=True)
    timeline = ActionTimeline(make_executor(executor, horizon=3))
    tested = ControlLoop(timeline, governor, GripperSwitch(), period_ns=PERIOD_NS)
    tick, stopped = 0, -1
    for delay, reasons in chunks:
        observed = tick
        for index in range(delay):
            was_running = governor.state is State.RUNNING
            twist = tested.tick(tick * PERIOD_NS, reasons[index] if index < len(reasons) else None, CENTRE).twist
            if governor.state is State.RUNNING:
                assert twist[0] >= stopped
            elif was_running:
                stopped = tick
            tick += 1
        timeline.post(observed, chunk(12, vx=observed))


def test_starved_and_skipped_ticks_are_missed_ticks_and_stops_for_other_reasons_are_not():
    tested = loop(stop_ticks=1)
    tested.timeline.post(5, chunk(4))
    for tick in (3, 4, 5, 6, 8):  # 7 is skipped
        tested.tick(tick * PERIOD_NS, None, CENTRE)
    assert (tested.ticks_total, tested.ticks_missed) == (4, 1)
    tested.tick(9 * PERIOD_NS, None, CENTRE)  # the plan has ended
    assert (tested.ticks_total, tested.ticks_missed) == (5, 2)
    tested.timeline.post(10, chunk(4))
    tested.tick(10 * PERIOD_NS, None, CENTRE)
    tested.tick(11 * PERIOD_NS, "no_command", CENTRE)
    assert (tested.ticks_total, tested.ticks_missed) == (6, 2)


def test_the_gripper_is_commanded_on_change_only_and_again_after_a_stop():
    tested = loop(stop_ticks=1)
    tested.timeline.post(5, np.concatenate([chunk(2, opening=0.0), chunk(1, opening=1.0)]))
    openings = [tested.tick(tick * PERIOD_NS, None, CENTRE).opening for tick in (5, 6, 7)]
    assert openings == [0.0, None, 1.0]
    assert tested.tick(8 * PERIOD_NS, None, CENTRE).opening is None  # starved
    tested.timeline.post(9, chunk(2, opening=1.0))
    assert tested.tick(9 * PERIOD_NS, None, CENTRE).opening == 1.0


def test_the_plan_s_age_is_that_of_the_observation_which_the_twist_answers():
    tested = loop()
    tested.timeline = ActionTimeline(RecedingHorizon(4))
    for tick in (5, 6, 7):
        tested.timeline.post(tick, chunk())
        tested.tick(tick * PERIOD_NS, None, CENTRE)
    assert tested.plan_age_ms.summary().maximum == 200.0


def test_a_stopped_arm_does_not_move_its_gripper():
    tested = loop()
    tested.governor.arm(False)
    tested.timeline.post(5, chunk())
    assert tested.tick(5 * PERIOD_NS, None, CENTRE) == SILENCE


def test_a_clock_that_is_set_back_starts_a_new_grid():
    tested = loop()
    tested.timeline.post(500, chunk())
    tested.tick(500 * PERIOD_NS, None, CENTRE)
    assert vx(tested.tick(3 * PERIOD_NS, None, CENTRE)) == 0.0  # the old plan is gone: starved, a stop
    assert tested.governor.state is State.STOPPING
    tested.timeline.post(5, chunk())
    tested.tick(4 * PERIOD_NS, None, CENTRE)
    assert vx(tested.tick(5 * PERIOD_NS, None, CENTRE)) == pytest.approx(0.1)


def test_whoever_takes_over_moves_the_arm_and_handing_back_is_a_stop_and_a_new_plan():
    tested, hand = loop(stop_ticks=2), ManualCommand(np.array([0.0, 0.3, 0, 0, 0, 0]))
    tested.timeline.post(5, chunk(20))
    assert vx(tested.tick(5 * PERIOD_NS, None, CENTRE)) == pytest.approx(0.1)
    taken = tested.tick(6 * PERIOD_NS, None, CENTRE, manual=hand)
    assert taken.twist.tolist() == hand.twist.tolist() and taken.opening is None and tested.taken_over
    tested.timeline.post(6, chunk(20))
    assert [vx(tested.tick(tick * PERIOD_NS, None, CENTRE)) for tick in (7, 8, 9)] == [0.0, 0.0, None]
    assert tested.governor.stops == {"handed_back": 1} and not tested.taken_over
    tested.timeline.post(9, chunk())
    assert vx(tested.tick(10 * PERIOD_NS, None, CENTRE)) == pytest.approx(0.1)


def test_who_takes_over_is_stopped_by_what_stops_everybody_and_limited_like_the_policy():
    tested = loop(stop_ticks=1)
    hand = ManualCommand(np.array([9.0, 0, 0, 0, 0, 0]))
    assert vx(tested.tick(5 * PERIOD_NS, None, CENTRE, manual=hand)) == pytest.approx(1.0)
    assert vx(tested.tick(6 * PERIOD_NS, "emergency_stop", CENTRE, manual=ManualCommand(np.ones(6)))) == 0.0
    assert tested.governor.stops == {"emergency_stop": 1}
    assert tested.tick(7 * PERIOD_NS, None, CENTRE, manual=ManualCommand(np.ones(6))).twist is None


def test_who_takes_over_moves_the_gripper_only_while_the_arm_may_move():
    tested, hand = loop(stop_ticks=1), ManualCommand(np.zeros(6), opening=0.25)
    assert tested.tick(5 * PERIOD_NS, None, CENTRE, hand).opening == 0.25
    assert tested.tick(6 * PERIOD_NS, None, CENTRE, ManualCommand(np.zeros(6))).opening is None
    assert tested.tick(7 * PERIOD_NS, "disabled", CENTRE, hand).opening is None
    tested.tick(8 * PERIOD_NS, "disabled", CENTRE, hand)
    assert tested.tick(9 * PERIOD_NS, None, CENTRE, hand).opening == 0.25
    tested.governor.arm(False)
    assert tested.tick(10 * PERIOD_NS, None, CENTRE, hand).opening is None
    tested.governor.arm(True)
    assert tested.tick(11 * PERIOD_NS, "emergency_stop", CENTRE, hand).opening is None
    assert tested.tick(12 * PERIOD_NS, None, CENTRE, hand).opening is None  # a fault until it is reset
