# SPDX-License-Identifier: Apache-2.0
"""The executor delay_aware: what the policy is told, whatever chunks take, and that the arm notices no new chunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.robot import Limits
from vla_ros.runtime.execution.control import ControlLoop, GripperSwitch, ManualCommand
from vla_ros.runtime.execution.executors import EXECUTORS, make_executor
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.planner import RECENT_CHUNKS, ActionPrefix, ChunkDelay, ExecutorError
from vla_ros.runtime.safety.governor import SafetyGovernor

PERIOD_NS = 10**8
CHUNK, MAX_DELAY_STEPS = 12, 6
STEP_MPS = 0.01  # between two ticks of one plan
VX, OBSERVED = 0, 1  # what the rows of chunks hold: a speed, and the tick of the observation that they answer
HAND_MPS = 77.0


def unlimited() -> SafetyGovernor:
    infinity = math.inf
    limits = Limits(*(infinity,) * 6, (-infinity,) * 3, (infinity,) * 3)
    return SafetyGovernor(limits, period_s=0.1, stop_ticks=2, armed=True)


def timeline(name: str) -> ActionTimeline:
    return ActionTimeline(make_executor(name, horizon=3, decay=0.01))


class Run:
    """The node's two clocks by hand: one thing is computed at a time, the arm goes on meanwhile.

    observed: the tick of each chunk's observation; told: (tick of the first one, actions) of each chunk; done: tick ->
    what the arm was given; seams: ticks of a chunk's first action.
    """

    def __init__(self, executor: str = "delay_aware", max_delay_steps: int = MAX_DELAY_STEPS) -> None:
        self.control = ControlLoop(timeline(executor), unlimited(), GripperSwitch(), period_ns=PERIOD_NS)
        self.prefix = ActionPrefix(self.control.timeline, max_delay_steps)
        self.random = np.random.default_rng(0)
        self.tick = -1
        self.prefixes: list[tuple[int, np.ndarray]] = []
        self.observed: list[int] = []
        self.done: dict[int, np.ndarray] = {}
        self.seams: list[int] = []
        self.stops: list[int] = []

    def pass_tick(self, reason: str | None = None, manual: ManualCommand | None = None) -> None:
        self.tick += 1
        was_running = self.control.governor.state.value == "running"
        twist = self.control.tick(self.tick * PERIOD_NS, reason, (0.0, 0.0, 0.0), manual).twist
        if self.control.governor.state.value == "running" and manual is None:
            assert twist is not None
            self.done[self.tick] = twist
        elif was_running:
            self.stops.append(self.tick)

    def plan(self) -> np.ndarray:
        """A chunk for the newest tick that goes on from what the policy is told."""
        self.observed.append(self.tick)
        told = self.prefix.actions(self.tick)
        self.prefixes.append((self.tick + self.control.timeline.rest_ticks, told))
        chunk = np.zeros((CHUNK, 7))
        chunk[: len(told)] = told
        chunk[len(told) :, OBSERVED] = self.tick
        speed = told[-1, VX] if len(told) else self.random.uniform(-1, 1)
        steps = self.random.uniform(-STEP_MPS, STEP_MPS, CHUNK - len(told))
        chunk[len(told) :, VX] = speed + np.cumsum(steps)
        return chunk

    def chunk(self, ticks: int, reasons: Sequence[str | None] = (), manual: ManualCommand | None = None) -> bool:
        """Compute one for `ticks` ticks, the one of the observation among them; whether it was taken."""
        observed = self.tick
        chunk = self.plan()
        for _, reason in itertools.zip_longest(range(ticks - 1), reasons[: ticks - 1]):
            self.pass_tick(reason, manual)
        taken = self.control.timeline.post(observed, chunk)
        self.prefix.arrived(observed)
        if taken:
            self.seams.append(self.tick + 1)
        if self.tick == observed:
            self.pass_tick()
        return taken

    def jumps(self) -> list[int]:
        """The ticks at which the speed changes by more than a plan does, while the arm moves."""
        return [
            tick
            for tick in self.done
            if tick - 1 in self.done and abs(self.done[tick][VX] - self.done[tick - 1][VX]) > STEP_MPS + 1e-9
        ]


@pytest.mark.parametrize("ticks", [1, 2, 4, 6])
def test_a_policy_that_continues_its_prefix_never_makes_the_arm_jump(ticks):
    run = Run()
    run.prefix.expect(ticks)
    run.pass_tick()
    for _ in range(12):
        run.chunk(ticks)
    at_the_start = run.seams[1] if ticks > 1 else 0  # begun while the arm stood still
    assert [tick for tick in run.jumps() if tick > at_the_start] == []
    assert len(run.done) > 10 * ticks - 10 and run.prefix.delay.late_chunks == 0


@pytest.mark.parametrize("ticks", [2, 5])
def test_a_chunk_longer_than_its_prefix_is_executed_to_its_end(ticks):
    """What a policy with a shifted state gives: the rows that it was told, and a whole chunk more."""
    run = Run()
    run.prefix.expect(ticks)
    run.pass_tick()
    for _ in range(3):
        run.chunk(ticks)
    observed, told = run.tick, run.prefix.actions(run.tick)
    assert len(told) == ticks
    own = np.zeros((CHUNK, 7))
    own[:, VX] = told[-1, VX] + STEP_MPS * np.arange(1, CHUNK + 1)
    for _ in range(ticks - 1):
        run.pass_tick()
    run.control.timeline.post(observed, np.concatenate([told, own]))
    for _ in range(CHUNK):
        run.pass_tick()
    after = [run.done[tick][VX] for tick in range(observed + ticks - 1, observed + ticks + CHUNK)]
    np.testing.assert_allclose(after, [told[-1, VX], *own[:, VX]])
    run.pass_tick()
    assert run.stops == [run.tick]  # there is no more


def test_without_a_prefix_the_same_policy_does():
    run = Run("full_chunk")
    run.pass_tick()
    for _ in range(12):
        run.chunk(3)
    assert len(run.jumps()) > 5 and all(len(told) == 0 for _, told in run.prefixes)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=30), st.integers(1, MAX_DELAY_STEPS), st.integers(1, 9))
def test_whatever_chunks_take_the_prefix_is_executed_and_only_late_chunks_may_jump(delays, allowed, expected):
    run = Run(max_delay_steps=allowed)
    run.prefix.expect(expected)
    run.pass_tick()
    for ticks in delays:
        run.chunk(ticks)
    late = run.prefix.delay.late_chunks + sum(len(told) == 0 for _, told in run.prefixes)
    assert len(run.jumps()) <= late
    arrived = [*run.observed[1:], run.tick + 1]
    for (first_tick, told), over in zip(run.prefixes, arrived, strict=True):
        assert len(told) <= min(allowed, max([expected, *delays]))
        for tick in range(first_tick, min(first_tick + len(told), over)):
            assert np.array_equal(run.done[tick], told[tick - first_tick, :6])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.lists(st.sampled_from([None, None, "stale"]), max_size=6)), max_size=25),
    st.sampled_from(["delay_aware", "full_chunk", "receding_horizon", "first_action"]),
)
def test_nothing_that_was_planned_before_a_stop_moves_the_arm_after_it(chunks, executor):
    run = Run(executor)
    run.pass_tick()
    for ticks, reasons in chunks:
        run.chunk(ticks, reasons)
    for stop in run.stops:
        assert all(action[OBSERVED] >= stop for tick, action in run.done.items() if tick > stop)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(EXECUTORS)),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=8),
    st.integers(0, 2),
    st.integers(1, 8),
)
def test_the_prefix_is_what_any_executor_executes_if_no_chunk_arrives(name, posts, ago, count):
    tested, tick = timeline(name), 0
    random = np.random.default_rng(len(posts))
    popped = {}
    for pause, old in posts:
        tested.post(tick - old, random.normal(size=(CHUNK, 7)))
        for _ in range(pause):
            popped[tick] = tested.pop(tick)
            tested.acted(popped[tick] is not None)
            tick += 1
    assert popped[tick - 1] is not None or not len(tested.prefix(tick - 1, count))
    hypothesis.assume(popped[tick - 1] is not None)  # an arm that has stopped commits to nothing
    first_tick = tick - ago
    foreseen = tested.prefix(first_tick, count)
    for later in range(tick, first_tick + count):
        popped[later] = tested.pop(later)
    expected = list(itertools.takewhile(lambda a: a is not None, (popped.get(first_tick + i) for i in range(count))))
    assert len(foreseen) == len(expected) and all(map(np.array_equal, foreseen, expected))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(EXECUTORS.keys() - {"path_following"})),  # changes actions (test_path_following.py)
    st.lists(st.integers(1, 6), min_size=2, max_size=20),
)
def test_actions_come_from_the_newest_chunk_that_the_executor_allows(name, delays):
    tested, tick, started = timeline(name), 0, 0
    posted: list[int] = []
    used: list[tuple[int, float]] = []
    for delay in delays:
        for _ in range(delay):
            action = tested.pop(tick)
            if action is not None:
                assert action[VX] == pytest.approx(tick)
                newest = [first for first in posted if tick < first + CHUNK]
                if name == "temporal_ensemble":
                    weights = np.exp(-0.01 * np.arange(len(newest)))
                    assert action[OBSERVED] == pytest.approx(weights @ newest / weights.sum())
                elif name in ("full_chunk", "delay_aware"):
                    assert action[OBSERVED] == posted[-1]
                else:
                    started = tick if not used or used[-1][1] != action[OBSERVED] else started
                    assert tick - started < {"first_action": 1, "receding_horizon": 3}[name]
                    assert action[OBSERVED] == posted[-1] or tick > started
                used.append((tick, action[OBSERVED]))
            tick += 1
        first = tick - delay
        chunk = np.zeros((CHUNK, 7))
        chunk[:, VX], chunk[:, OBSERVED] = first + np.arange(CHUNK), first
        if tested.post(first, chunk):
            posted.append(first)


def test_an_arm_at_rest_has_no_prefix():
    run = Run()
    run.prefix.expect(3)
    run.pass_tick()
    run.chunk(1)
    run.pass_tick()
    assert len(run.prefix.actions(run.tick)) == 3
    run.pass_tick("stale")
    assert len(run.prefix.actions(run.tick)) == 0
    run.control.timeline.post(run.tick, np.ones((CHUNK, 7)))
    run.pass_tick("disarmed")
    assert len(run.prefix.actions(run.tick)) == 0, "it was planned, but the arm did not do it"


def test_the_prefix_of_an_arm_at_rest_starts_with_its_first_motion():
    """What was seen of it holds until then: chunks lose no row to the ticks that it stood, nor are told of them."""
    run = Run()
    run.prefix.expect(3)
    run.pass_tick()
    chunk = np.zeros((CHUNK, 7))
    chunk[:, VX] = 1 + np.arange(CHUNK)
    assert len(run.prefix.actions(0)) == 0
    run.pass_tick()
    run.pass_tick()
    run.control.timeline.post(0, chunk)
    run.prefix.arrived(0)
    told = run.prefix.actions(2)  # it still stands at tick 2
    assert told[:, VX].tolist() == [1, 2] and run.control.timeline.rest_ticks == 1
    assert run.prefix.delay.prefix_length == 3
    run.pass_tick()
    run.pass_tick()
    chunk = np.zeros((CHUNK, 7))
    chunk[:, VX] = [*told[:, VX], *(10 + np.arange(CHUNK - 2))]
    run.control.timeline.post(2, chunk)
    run.prefix.arrived(2)
    run.pass_tick()
    run.pass_tick()
    assert [run.done[tick][VX] for tick in range(3, 7)] == [1, 2, 10, 11]
    assert run.prefix.delay.late_chunks == 0
    told = run.prefix.actions(5)  # it moves: from the observation on
    assert told[:, VX].tolist() == [10, 11, 12] and run.control.timeline.rest_ticks == 0


def test_a_prefix_shorter_than_the_rest_still_shifts_the_chunk_to_the_first_motion():
    run = Run(max_delay_steps=1)
    run.prefix.expect(3)
    run.pass_tick()
    run.control.timeline.post(0, np.ones((CHUNK, 7)))
    chunk = np.zeros((CHUNK, 7))
    chunk[:, VX] = 10 + np.arange(CHUNK)
    assert len(run.prefix.actions(0)) == 0
    for _ in range(2):
        run.pass_tick()
    run.control.timeline.post(0, chunk)
    run.pass_tick()
    assert run.done[3][VX] == 12  # it has moved since tick 1


def test_the_chunk_of_a_held_arm_starts_when_it_arrives():
    run = Run()
    run.prefix.expect(2)
    run.pass_tick("disarmed")
    for first in (0, 2):
        chunk = np.zeros((CHUNK, 7))
        chunk[:, VX] = 1 + np.arange(CHUNK)
        assert len(run.prefix.actions(first)) == 0
        run.pass_tick("disarmed")
        run.control.timeline.post(first, chunk)
        run.pass_tick("disarmed" if first == 0 else None)
    assert run.done[4][VX] == 1


def test_a_takeover_is_not_part_of_the_prefix():
    run = Run()
    run.prefix.expect(3)
    run.pass_tick()
    run.chunk(1)
    hand = ManualCommand(np.array([HAND_MPS, 0, 0, 0, 0, 0]))
    run.pass_tick(manual=hand)
    run.chunk(4, manual=hand)
    assert len(run.prefixes[-1][1]) == 0


def test_the_prefix_ends_where_the_plan_ends():
    run = Run()
    run.prefix.expect(6)
    run.pass_tick()
    run.control.timeline.post(0, np.ones((4, 7)))
    run.pass_tick()
    run.pass_tick()
    assert len(run.prefix.actions(run.tick)) == 2


def test_actions_from_before_the_clock_was_set_back_are_not_in_the_prefix():
    tested = timeline("delay_aware")
    tested.post(100, np.ones((CHUNK, 7)))
    for tick in range(100, 106):
        tested.pop(tick)
        tested.acted(True)
    tested.restart()
    tested.post(98, np.zeros((3, 7)))
    tested.pop(98)
    tested.acted(True)
    assert tested.prefix(98, 6).tolist() == [[0.0] * 7] * 3


def test_a_chunk_whose_prefix_was_dropped_meanwhile_is_refused():
    run = Run()
    run.prefix.expect(3)
    run.pass_tick()
    run.chunk(1)
    chunk = run.plan()
    assert len(run.prefixes[-1][1]) == 3
    run.control.timeline.clear()
    assert not run.control.timeline.post(run.tick, chunk)
    run.pass_tick()
    assert run.control.timeline.post(run.tick, run.plan())


def test_the_slowest_recent_chunk_predicts_the_next_one_and_outliers_are_forgotten():
    run = Run()
    run.prefix.expect(9)  # the warm-up
    run.pass_tick()
    assert run.prefix.delay.ticks == 9
    for _ in range(RECENT_CHUNKS):
        run.chunk(2)
    assert run.prefix.delay.ticks == 2
    run.chunk(4)
    assert run.prefix.delay.ticks == 4
    run.chunk(2)
    assert (run.prefix.delay.ticks, run.prefix.delay.prefix_length) == (4, 4)


def test_a_delay_longer_than_in_training_clamps_the_prefix_and_is_reported():
    run = Run(max_delay_steps=2)
    run.prefix.expect(2)
    run.pass_tick()
    for _ in range(4):
        run.chunk(2)
    assert not run.prefix.delay.exceeds_prefix
    for _ in range(3):
        run.chunk(5)
    delay = run.prefix.delay
    assert delay.exceeds_prefix and delay == ChunkDelay(ticks=5, prefix_length=2, max_prefix=2, late_chunks=3)


def test_a_policy_trained_without_delays_is_refused_with_alternatives():
    with pytest.raises(ExecutorError, match=r"'delay_aware'.*one of full_chunk, .* policy\.max_delay_steps"):
        ActionPrefix(timeline("delay_aware"), 0)
    ActionPrefix(timeline("full_chunk"), 0)
