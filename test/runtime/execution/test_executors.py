# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.execution.timeline import ActionTimeline

LENGTH = 6


def chunk(first_tick: int, length: int = LENGTH) -> np.ndarray:
    """vx says which tick an action is for, vy which chunk it is of."""
    actions = np.zeros((length, 7))
    actions[:, 0] = first_tick + np.arange(length)
    actions[:, 1] = first_tick
    return actions


def timeline(name: str, horizon: int = 3, decay: float = 0.01) -> ActionTimeline:
    return ActionTimeline(make_executor(name, horizon=horizon, decay=decay))


def play(tested: ActionTimeline, ticks: range, *, every: int = 1, delay: int = 1) -> list[int | None]:
    """Of which chunk the action of each tick is, when one is planned `every` few ticks and ready `delay` later."""
    used = []
    for tick in ticks:
        if (tick - delay) % every == 0 and tick >= delay:
            tested.post(tick - delay, chunk(tick - delay))
        action = tested.pop(tick)
        used.append(None if action is None else int(action[1]))
    return used


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["full_chunk", "first_action", "receding_horizon", "temporal_ensemble"]),
    st.integers(1, 5), st.integers(0, 4), st.integers(1, 5),
)  # fmt: skip
def test_whatever_the_latency_an_action_is_for_the_tick_at_which_it_is_executed(name, every, delay, horizon):
    tested = timeline(name, horizon)
    for tick in range(40):
        if tick >= delay and (tick - delay) % every == 0:
            tested.post(tick - delay, chunk(tick - delay))
        action = tested.pop(tick)
        assert action is None or action[0] == pytest.approx(tick)


def test_a_full_chunk_is_replaced_by_the_next_one_at_once():
    assert play(timeline("full_chunk"), range(5)) == [None, 0, 1, 2, 3]
    assert play(timeline("full_chunk"), range(8), every=4) == [None, 0, 0, 0, 0, 4, 4, 4]


def test_a_receding_horizon_executes_that_many_actions_of_a_chunk_before_it_takes_the_newest():
    assert play(timeline("receding_horizon", 3), range(8)) == [None, 0, 0, 0, 3, 3, 3, 6]


def test_actions_beyond_the_horizon_are_not_executed():
    assert play(timeline("receding_horizon", 2), range(7), every=4) == [None, 0, 0, None, None, 4, 4]


def test_a_chunk_that_ends_before_the_horizon_gives_way_to_the_newest():
    tested = timeline("receding_horizon", 10)
    tested.post(0, chunk(0, length=2))
    assert tested.pop(0)[1] == 0
    tested.post(1, chunk(1))
    assert [tested.pop(tick)[1] for tick in (1, 2)] == [0, 1]


def test_the_first_action_is_the_first_that_is_still_to_come():
    tested = timeline("first_action")
    tested.pop(9)
    tested.post(7, chunk(7))
    assert tested.pop(10)[0] == 10 and tested.pop(11) is None


def test_an_ensemble_weighs_what_all_chunks_say_about_a_tick_the_oldest_most():
    tested = timeline("temporal_ensemble", decay=0.5)
    for first_tick in (0, 1, 2):
        tested.post(first_tick, chunk(first_tick))
    weights = np.exp(-0.5 * np.arange(3))
    assert tested.pop(2)[1] == pytest.approx(weights @ [0, 1, 2] / weights.sum())
    assert tested.pop(7)[1] == pytest.approx(2)  # the others have ended


@pytest.mark.parametrize("name", ["full_chunk", "first_action", "receding_horizon", "temporal_ensemble"])
def test_a_cleared_plan_leaves_nothing_behind(name):
    tested = timeline(name)
    tested.post(0, chunk(0))
    tested.pop(0)
    tested.post(1, chunk(1))
    tested.clear()
    assert [tested.pop(tick) for tick in (1, 2, 3)] == [None] * 3


@pytest.mark.parametrize("name", ["full_chunk", "first_action", "receding_horizon", "temporal_ensemble"])
def test_the_first_chunk_of_a_new_command_replaces_what_was_planned_for_the_old_one(name):
    tested = timeline(name)
    for tick in range(3):
        tested.post(tick, chunk(tick))
        tested.pop(tick)
    tested.post(2, np.full((LENGTH, 7), -1.0), replace_all=True)
    assert tested.pop(3)[1] == -1.0


def test_what_an_action_answers_is_the_oldest_observation_that_has_a_say_in_it():
    answered = {}
    for name in ("full_chunk", "receding_horizon", "temporal_ensemble"):
        tested = timeline(name, horizon=3)
        play(tested, range(4))
        answered[name] = tested.answered_tick
    assert answered == {"full_chunk": 2, "receding_horizon": 0, "temporal_ensemble": 0}
    tested.clear()
    tested.pop(4)
    assert tested.answered_tick is None


def test_an_unknown_executor_is_refused_with_those_that_there_are():
    with pytest.raises(
        ValueError, match=r"executor must be one of full_chunk, first_action, receding_horizon.*got 'rtc'"
    ):
        make_executor("rtc", horizon=1, decay=0.0)
    with pytest.raises(ValueError, match="horizon must be at least 1; got 0"):
        make_executor("receding_horizon", horizon=0, decay=0.0)


def test_the_executor_of_version_0_1_that_is_gone_is_refused_with_the_one_to_use():
    with pytest.raises(ValueError, match="got 'delay_aware'; use path_following"):
        make_executor("delay_aware")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["full_chunk", "first_action", "receding_horizon", "temporal_ensemble"]),
    st.lists(st.integers(1, 6), min_size=2, max_size=20),
)
def test_actions_come_from_the_newest_chunk_that_the_executor_allows(name, delays):
    length, tick, started = 12, 0, 0
    tested = timeline(name)
    posted: list[int] = []
    used: list[tuple[int, float]] = []
    for delay in delays:
        for _ in range(delay):
            action = tested.pop(tick)
            if action is not None:
                assert action[0] == pytest.approx(tick)
                newest = [first for first in posted if tick < first + length]
                if name == "temporal_ensemble":
                    weights = np.exp(-0.01 * np.arange(len(newest)))
                    assert action[1] == pytest.approx(weights @ newest / weights.sum())
                elif name == "full_chunk":
                    assert action[1] == posted[-1]
                else:
                    started = tick if not used or used[-1][1] != action[1] else started
                    assert tick - started < {"first_action": 1, "receding_horizon": 3}[name]
                    assert action[1] == posted[-1] or tick > started
                used.append((tick, action[1]))
            tick += 1
        if tested.post(tick - delay, chunk(tick - delay, length)):
            posted.append(tick - delay)
