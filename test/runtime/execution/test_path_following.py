# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.runtime.execution.executors import CORRECTION_TICKS, make_executor, rejoin_path
from vla_ros.runtime.execution.timeline import ActionTimeline

LENGTH = 8


def timeline() -> ActionTimeline:
    return ActionTimeline(make_executor("path_following", horizon=1, decay=0.0))


def moves(tested: ActionTimeline, tick: int, twist: np.ndarray | None = None) -> np.ndarray:
    """Let an arm that moves act at a tick."""
    action = tested.pop(tick)
    assert action is not None
    tested.acted(True, twist)
    return action


def stands(tested: ActionTimeline, tick: int) -> None:
    tested.pop(tick)
    tested.acted(False)


def chunk_at(speed: float, length: int = LENGTH) -> np.ndarray:
    chunk = np.zeros((length, 7))
    chunk[:, 0] = speed
    return chunk


def slow_with_a_fast_end(seed: int, length: int = LENGTH) -> np.ndarray:
    """No correction of its first rows is faster than its last one."""
    chunk = np.random.default_rng(seed).uniform(-0.1, 0.1, (length, 7))
    chunk[-1, [0, 3]] = 10
    return chunk


@settings(max_examples=60, deadline=None)
@given(st.integers(0, LENGTH - CORRECTION_TICKS - 1), st.integers(0, 1000))
def test_a_chunk_that_comes_late_leads_to_where_it_would_have_led_in_time(late: int, seed: int) -> None:
    tested, chunk = timeline(), slow_with_a_fast_end(seed)
    tested.post(0, slow_with_a_fast_end(seed + 1, 2 * LENGTH))
    moves(tested, 0)
    done = [moves(tested, tick) for tick in range(1, 1 + late)]
    tested.post(1, chunk)
    done = np.array([*done, *(moves(tested, tick) for tick in range(1 + late, 1 + LENGTH))])
    back = late + CORRECTION_TICKS
    np.testing.assert_allclose(done[:back, :6].sum(axis=0), chunk[:back, :6].sum(axis=0))
    np.testing.assert_array_equal(done[back:], chunk[back:])
    np.testing.assert_array_equal(done[late:, 6], chunk[late:, 6])  # openings are no motion


def test_a_chunk_that_matches_what_was_executed_is_unchanged() -> None:
    chunk = slow_with_a_fast_end(0)
    np.testing.assert_array_equal(rejoin_path(chunk, chunk[:3, :6]), chunk)
    np.testing.assert_array_equal(rejoin_path(chunk, chunk[:0, :6]), chunk)


def test_what_a_policy_gave_is_not_changed_in_place() -> None:
    chunk = slow_with_a_fast_end(0)
    before = chunk.copy()
    rejoin_path(chunk, np.zeros((3, 6)))
    np.testing.assert_array_equal(chunk, before)


def test_the_arm_gets_no_faster_than_the_chunk_or_the_arm_itself() -> None:
    chunk = chunk_at(-0.1)
    assert rejoin_path(chunk, np.tile(chunk_at(0.1)[0, :6], (3, 1)))[3:, 0].tolist() == pytest.approx([-0.1] * 5)
    chunk[-1, 0] = -0.25
    assert rejoin_path(chunk, np.tile(chunk_at(0.1)[0, :6], (3, 1)))[3:, 0].min() == pytest.approx(-0.25)
    chunk[:, 4] = 0.3  # its turning has a limit of its own
    followed = rejoin_path(chunk, np.zeros((3, 6)))
    assert followed[3:5, 4].tolist() == pytest.approx([0.3, 0.3]) and followed[3, 0] == pytest.approx(-0.25)


def play(
    policy: Callable[[int], float], ticks: int, delay: int, busy: int, limit: Callable[[float], float] = lambda v: v
) -> list[float]:
    """What the arm is given by a policy that says for each observation's tick how fast to go, wherever the arm is."""
    tested, given = timeline(), []
    tested.post(0, chunk_at(policy(0), 2 * LENGTH))
    for tick in range(ticks):
        observed = tick - delay
        if observed > 0 and observed % busy == 0:
            tested.post(observed, chunk_at(policy(observed), 2 * LENGTH))
        twist = np.zeros(6)
        action = tested.pop(tick)
        assert action is not None
        twist[0] = limit(action[0])
        tested.acted(True, twist)
        given.append(float(twist[0]))
    return given


@pytest.mark.parametrize(("delay", "busy"), [(d, b) for d in range(1, 6) for b in range(max(1, d - 1), d + 1)])
def test_catching_up_dies_away_where_the_policy_does_not_answer_to_it(delay: int, busy: int) -> None:
    given = play(lambda tick: 0.1 if tick < 20 else -0.1, 90, delay, busy)
    assert np.abs(given).max() <= 0.1 + 1e-9
    assert given[20 + delay + busy + CORRECTION_TICKS] < 0
    assert given[60:] == pytest.approx([-0.1] * 30, abs=1e-3)


@pytest.mark.parametrize(("delay", "busy"), [(2, 2), (3, 2), (3, 3), (5, 4), (5, 5)])
def test_noise_does_not_build_up(delay: int, busy: int) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.01, 4000)
    given = np.array(play(lambda tick: 0.1 + noise[tick], 4000, delay, busy))
    assert given[2000:].std() < 1.1 * given[:2000].std() < 0.05


def test_motion_that_the_limits_took_away_is_not_paid_back() -> None:
    """At a wall: all that was planned led into it, the next chunk leads away, and nothing leads into it again."""
    tested = timeline()
    tested.post(0, chunk_at(0.1))
    for tick in range(4):
        moves(tested, tick, np.zeros(6))
    tested.post(1, chunk_at(-0.1))
    assert all(moves(tested, tick)[0] <= -0.1 for tick in range(4, 9))


def test_an_arm_that_stands_still_is_not_hurried_along_a_path_that_it_has_not_begun() -> None:
    """The first chunk at 200 ms is for the ticks from the arm's first motion on, and begins at its beginning."""
    tested, chunk = timeline(), slow_with_a_fast_end(0)
    for tick in range(3):
        stands(tested, tick)
    tested.post(0, chunk)
    np.testing.assert_array_equal([moves(tested, tick) for tick in range(3, 3 + LENGTH)], chunk)


def test_an_arm_that_is_armed_with_a_plan_is_not_pulled_back() -> None:
    """It was seen standing, and had moved for two ticks when the next chunk came."""
    tested = timeline()
    tested.post(0, chunk_at(0.1))
    stands(tested, 0)
    stands(tested, 1)
    done = [moves(tested, tick)[0] for tick in (2, 3)]
    tested.post(1, chunk_at(0.1))
    assert done + [moves(tested, tick)[0] for tick in range(4, 9)] == pytest.approx([0.1] * 7)


def test_what_was_planned_before_a_stop_is_not_made_up_for() -> None:
    tested, chunk = timeline(), slow_with_a_fast_end(1)
    tested.post(0, slow_with_a_fast_end(0))
    moves(tested, 0)
    moves(tested, 1)
    for tick in (2, 3):  # the governor holds the arm
        stands(tested, tick)
    tested.post(3, chunk)
    np.testing.assert_array_equal(tested.pop(4), chunk[0])
