# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import numpy as np
import pytest

from vla_ros.runtime.execution.timeline import ActionTimeline, predicted_path


def chunk(*values: float) -> np.ndarray:
    return np.array([[value] * 7 for value in values])


def popped(timeline: ActionTimeline, tick: int) -> float | None:
    action = timeline.pop(tick)
    return None if action is None else float(action[0])


def test_actions_come_at_the_ticks_they_were_planned_for_and_then_none():
    timeline = ActionTimeline()
    timeline.post(10, chunk(1, 2, 3))
    assert [popped(timeline, tick) for tick in (9, 10, 11, 12, 13)] == [None, 1, 2, 3, None]


def test_a_late_chunk_starts_with_the_action_of_the_tick_that_is_really_next():
    timeline = ActionTimeline()
    timeline.pop(10)
    timeline.pop(11)
    timeline.post(10, chunk(1, 2, 3, 4))
    assert [popped(timeline, tick) for tick in (12, 13, 14)] == [3, 4, None]


def test_the_newest_chunk_replaces_the_whole_future():
    timeline = ActionTimeline()
    timeline.post(10, chunk(1, 2, 3, 4))
    assert popped(timeline, 10) == 1
    timeline.post(10, chunk(9, 9))
    assert [popped(timeline, tick) for tick in (11, 12)] == [9, None]


def test_a_chunk_that_is_over_is_refused_and_leaves_the_plan_alone():
    timeline = ActionTimeline()
    timeline.post(20, chunk(1, 2, 3))
    timeline.pop(20)
    assert not timeline.post(10, chunk(7, 7, 7))
    assert popped(timeline, 21) == 2
    assert timeline.statistics().expired == 1


def test_a_plan_from_before_a_stop_is_dropped_and_refused():
    timeline = ActionTimeline()
    timeline.post(10, chunk(1, 2, 3, 4))
    timeline.clear(observed_from=12)
    assert popped(timeline, 11) is None
    assert not timeline.post(11, chunk(5, 5, 5, 5))
    assert timeline.post(12, chunk(6, 6))
    assert popped(timeline, 12) == 6


def test_a_later_clear_does_not_let_older_observations_in_again():
    timeline = ActionTimeline()
    timeline.clear(observed_from=12)
    timeline.clear(observed_from=5)
    timeline.clear()
    assert not timeline.post(11, chunk(1, 1, 1))


def test_starved_counts_only_ticks_for_which_there_could_have_been_a_plan():
    timeline = ActionTimeline()
    timeline.pop(1)
    timeline.post(2, chunk(1))
    timeline.pop(2)
    timeline.pop(3)
    timeline.clear()
    timeline.pop(4)
    statistics = timeline.statistics()
    assert (statistics.popped, statistics.starved, statistics.posted) == (2, 1, 1)


def test_ticks_come_again_only_after_a_restart():
    timeline = ActionTimeline()
    timeline.pop(10)
    with pytest.raises(ValueError, match="restart"):
        timeline.pop(10)
    timeline.restart()
    timeline.post(1, chunk(1))
    assert popped(timeline, 1) == 1


def test_the_plan_is_the_newest_chunk_from_a_tick_on():
    timeline = ActionTimeline()
    assert timeline.plan(0) is None
    timeline.post(10, chunk(1, 2, 3))
    assert [timeline.plan(tick)[:, 0].tolist() for tick in (9, 10, 12, 13)] == [[1, 2, 3], [1, 2, 3], [3], []]
    timeline.clear()
    assert timeline.plan(10) is None


def test_a_chunk_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 6\)"):
        ActionTimeline().post(0, np.zeros((3, 6)))


def test_posting_and_popping_from_two_threads_never_returns_a_tick_of_another_chunk():
    timeline = ActionTimeline()
    done = threading.Event()

    def post() -> None:
        for tick in range(3000):
            timeline.post(tick, np.full((8, 7), tick) + np.arange(8)[:, None])
        done.set()

    thread = threading.Thread(target=post)
    thread.start()
    for tick in range(3000):
        action = timeline.pop(tick)
        assert action is None or action[0] == tick
    thread.join()
    assert done.is_set()


HERE = np.array([0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0])


def test_a_path_leads_where_the_twists_of_the_plan_lead_and_turns_as_they_turn():
    plan = np.array([[0.1, 0, 0, 0, 0, 0, 1], [0, -0.2, 0, 0, 0, np.pi, 1], [0, 0, 0.3, 0, 0, 0, 1]])
    path = predicted_path(HERE, plan, 0.5)
    positions = [[0.4, 0.1, 0.2], [0.45, 0.1, 0.2], [0.45, 0.0, 0.2], [0.45, 0.0, 0.35]]
    assert path[:, :3] == pytest.approx(np.array(positions))
    half = np.sqrt(0.5)
    assert path[:, 3:] == pytest.approx(np.array([[0, 0, 0, 1]] * 2 + [[0, 0, half, half]] * 2))


def test_a_plan_without_actions_is_a_path_of_where_the_tool_is():
    assert predicted_path(HERE, np.zeros((0, 7)), 0.1).tolist() == [HERE.tolist()]
