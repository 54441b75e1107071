# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.runtime.executors import make_executor
from vla_ros.runtime.path_following import CATCH_UP_TICKS, follow_path
from vla_ros.runtime.timeline import ActionTimeline

LENGTH = 8


def timeline() -> ActionTimeline:
    return ActionTimeline(make_executor("path_following", horizon=1, decay=0.0))


def moves(tested: ActionTimeline, tick: int) -> np.ndarray:
    """Let an arm that moves act at a tick."""
    action = tested.pop(tick)
    assert action is not None
    tested.acted(moved=True)
    return action


def chunks(*, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, LENGTH - CATCH_UP_TICKS), st.integers(0, 1000))
def test_a_chunk_that_comes_late_leads_to_where_it_would_have_led_in_time(late: int, seed: int) -> None:
    tested, random = timeline(), chunks(seed=seed)
    tested.post(0, random.normal(size=(2 * LENGTH, 7)))
    moves(tested, 0)
    tested.committed(1, 0)  # an observation is taken
    done = [moves(tested, tick) for tick in range(1, 1 + late)]
    chunk = random.normal(size=(LENGTH, 7))
    tested.post(1, chunk)
    done += [moves(tested, tick) for tick in range(1 + late, 1 + LENGTH)]
    np.testing.assert_allclose(np.sum(done, axis=0)[:6], chunk.sum(axis=0)[:6])
    back = late + CATCH_UP_TICKS
    np.testing.assert_allclose(np.sum(done[:back], axis=0)[:6], chunk[:back].sum(axis=0)[:6])
    np.testing.assert_array_equal(np.array(done[late:])[:, 6], chunk[late:, 6])  # openings are no motion
    np.testing.assert_array_equal(np.array(done).reshape(-1, 7)[back:], chunk[back:])


def test_a_chunk_that_says_what_was_done_is_left_as_it_is() -> None:
    chunk = chunks().normal(size=(LENGTH, 7))
    np.testing.assert_array_equal(follow_path(chunk, chunk[:3]), chunk)
    np.testing.assert_array_equal(follow_path(chunk, chunk[:0]), chunk)


def test_what_a_policy_gave_is_not_changed_in_place() -> None:
    chunk = chunks().normal(size=(LENGTH, 7))
    before = chunk.copy()
    follow_path(chunk, np.zeros((3, 7)))
    np.testing.assert_array_equal(chunk, before)


def test_with_one_row_left_the_arm_goes_no_faster_than_with_more() -> None:
    chunk = np.ones((LENGTH, 7))
    one, two = (follow_path(chunk, np.zeros((LENGTH - left, 7))) for left in (1, 2))
    assert one[-1, 0] == 1 + (LENGTH - 1) / CATCH_UP_TICKS
    assert two[-1, 0] == 1 + (LENGTH - 2) / CATCH_UP_TICKS


def test_an_arm_that_stands_still_is_not_hurried_along_a_path_that_it_has_not_begun() -> None:
    """The first chunk at 200 ms is for the ticks from the arm's first motion on, and begins at its beginning."""
    tested, chunk = timeline(), chunks().normal(size=(LENGTH, 7))
    tested.committed(0, 0)  # an observation of an arm that stands
    for tick in range(3):
        assert tested.pop(tick) is None
        tested.acted(moved=False)
    tested.post(0, chunk)
    np.testing.assert_array_equal([moves(tested, tick) for tick in range(3, 3 + LENGTH)], chunk)


def test_what_was_planned_before_a_stop_is_not_made_up_for() -> None:
    tested, random = timeline(), chunks()
    tested.post(0, random.normal(size=(LENGTH, 7)))
    moves(tested, 0)
    moves(tested, 1)
    tested.pop(2)
    tested.acted(moved=False)  # the governor holds the arm
    tested.committed(3, 0)
    tested.pop(3)
    tested.acted(moved=False)
    chunk = random.normal(size=(LENGTH, 7))
    tested.post(3, chunk)
    np.testing.assert_array_equal(tested.pop(4), chunk[0])
