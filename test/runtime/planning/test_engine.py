# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from vla_ros.contract import Timing
from vla_ros.grid import Grid
from vla_ros.observations.observation import Observation, Refusal
from vla_ros.runtime.execution.executors import TemporalEnsemble
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.engine import RECENT_CHUNKS, Engine

MS = 1_000_000
PERIOD_NS = 100 * MS
SETTLE_NS = 20 * MS


class World:
    """What the engine observes; tests change it."""

    def __init__(self) -> None:
        self.command = ""
        self.refusal: Refusal | None = None
        self.snapshots = 0

    def push(self, stream: str, stamp_ns: int, value: str) -> None:
        assert stream == "language"
        self.command = value

    def clear(self) -> None: ...

    def snapshot(self, time_ns: int):
        self.snapshots += 1
        if self.refusal is not None:
            return self.refusal
        if not self.command:
            return Refusal("no_command", "language", "the language command is empty")
        return Observation(time_ns, {}, {}, None, self.command)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def engine(policy, clock, world):
    engine = Engine(lambda: policy, world, ActionTimeline(), clock)
    engine.start(10.0)
    yield engine
    assert engine.stop(10.0)


def timeline(engine: Engine) -> ActionTimeline:
    return engine._plans


def at(tick: int, late_ms: int = 0) -> int:
    """The time at which the observation of `tick` is due."""
    return tick * PERIOD_NS + SETTLE_NS + late_ms * MS


def run_ticks(engine, clock, *ticks: int) -> None:
    for tick in ticks:
        clock.turn_to_ns(at(tick))


def test_it_observes_once_a_tick_after_the_settle_time_and_plans_from_that_tick(engine, clock, policy):
    engine.set_command("go")
    clock.turn_to_ns(at(3) - 1)
    before = list(policy.ticks)
    clock.turn_to_ns(at(3))
    clock.turn_to_ns(at(3, late_ms=70))
    assert 3 not in before and policy.ticks[-1] == 3
    assert timeline(engine).pop(4)[0] == pytest.approx(0.004)
    assert engine.status().reason is None


@pytest.mark.parametrize("control_hz", [7.5, 29.97, 30.0])
def test_at_any_rate_it_observes_on_the_exact_grid_of_today(clock, policy, world, control_hz):
    policy.contract = dataclasses.replace(policy.contract, timing=Timing(control_hz, 2, 4))
    seen: list[tuple[int, int]] = []
    policy.before_step = lambda observation: seen.append((clock.now_ns(), observation.time_ns))
    grid = Grid(control_hz)
    first = grid.tick_at(1_800_000_000 * 10**9)
    clock.set_ns(grid.start_ns(first))
    engine = Engine(lambda: policy, world, ActionTimeline(), clock)
    engine.start(10.0)
    engine.set_command("go")
    due = [grid.start_ns(tick) for tick in range(first + 1, first + 13)]
    for time_ns in due:
        clock.turn_to_ns(time_ns + SETTLE_NS - 1)
        clock.turn_to_ns(time_ns + SETTLE_NS)
    assert engine.stop(10.0)
    assert seen[-12:] == [(time_ns + SETTLE_NS, time_ns) for time_ns in due]
    assert [time_ns for _, time_ns in seen[-12:]] == [
        round(tick * 10**9 / grid.rate_hz) for tick in range(first + 1, first + 13)
    ]


def test_images_are_decoded_during_the_settle_time_before_the_observation_is_due(clock, policy):
    looks = []

    class Observing(World):
        def snapshot(self, time_ns: int):
            looks.append((clock.now_ns(), time_ns // PERIOD_NS))
            if at(2) < clock.now_ns() < at(3):
                raise MemoryError("reported when it is due, if it still holds then")
            return Observation(time_ns, {}, {}, None, "go")

    engine = Engine(lambda: policy, Observing(), ActionTimeline(), clock)
    engine.start(10.0)
    engine.set_command("go")
    run_ticks(engine, clock, 2)
    looks.clear()
    clock.turn_to_ns(at(3) - SETTLE_NS // 2)
    clock.turn_to_ns(at(3))
    assert looks == [(at(3) - SETTLE_NS // 2, 3), (at(3), 3)]
    assert policy.ticks[-1] == 3 and engine.reason is None
    assert engine.stop(10.0)


def test_the_policy_is_built_warmed_and_used_in_one_thread(clock, policy, world):
    made_in = []

    def make():
        made_in.append(threading.get_ident())
        return policy

    engine = Engine(make, world, ActionTimeline(), clock)
    engine.start(10.0)
    assert policy.calls == [("warm_up",)]
    engine.set_command("go")
    run_ticks(engine, clock, 1, 2)
    assert policy.threads == set(made_in) and threading.get_ident() not in policy.threads
    assert engine.status().inference_ms.count == len(policy.ticks)  # warm-up is not in the statistics
    engine.stop()


def test_slow_inference_goes_on_with_the_newest_tick_and_an_empty_history(engine, clock, policy):
    engine.set_command("go")
    run_ticks(engine, clock, 5)

    def be_slow(observation):
        policy.before_step = lambda observation: None
        clock.set_ns(at(9, late_ms=30))

    policy.before_step = be_slow
    clock.turn_to_ns(at(6))
    assert policy.ticks == [5, 6, 9]
    assert policy.calls[policy.calls.index(("step", 6)) + 1] == ("clear_history",)
    assert engine.status().overruns == 2


def test_a_new_command_reaches_the_policy_and_the_old_chunk_in_flight_is_discarded(engine, clock, policy, world):
    engine.set_command("go")
    run_ticks(engine, clock, 1)

    def change(observation):
        policy.before_step = lambda observation: None
        engine.set_command("stop here")

    policy.before_step = change
    run_ticks(engine, clock, 2)
    assert timeline(engine).pop(2)[0] == pytest.approx(0.002)  # still the plan of tick 1, which has 4 actions
    assert timeline(engine).statistics().posted == 1
    run_ticks(engine, clock, 3)
    assert ("reset", "stop here") in policy.calls
    assert timeline(engine).statistics().posted == 2


def test_the_first_plan_of_a_new_command_is_not_averaged_with_those_of_the_old_one(policy, clock, world):
    engine = Engine(lambda: policy, world, ActionTimeline(TemporalEnsemble()), clock)
    engine.start(10.0)
    engine.set_command("go")
    run_ticks(engine, clock, 1, 2)
    policy.spoil = lambda chunk: np.full_like(chunk, -1.0)
    engine.set_command("turn back")
    run_ticks(engine, clock, 3)
    assert timeline(engine).pop(4)[0] == -1.0
    assert engine.stop(10.0)


def test_an_observation_from_before_the_command_does_not_plan_for_it(engine, clock, policy):
    clock.turn_to_ns(at(1) - 1)
    engine.set_command("newer than tick 1, whose observation is taken later")
    run_ticks(engine, clock, 1)
    assert timeline(engine).statistics().posted == 0
    assert engine.reason == "planning"


def test_an_empty_command_drops_the_plan_at_once(engine, clock, world):
    engine.set_command("go")
    run_ticks(engine, clock, 1)
    engine.set_command("")
    assert timeline(engine).pop(2) is None
    assert engine.reason == "no_command"


def test_the_same_command_again_after_a_pause_starts_from_an_empty_history(engine, clock, policy, world):
    engine.set_command("go")
    run_ticks(engine, clock, 1)
    engine.set_command("")
    run_ticks(engine, clock, 2)
    engine.set_command("go")
    run_ticks(engine, clock, 3)
    assert policy.calls[-2:] == [("clear_history",), ("step", 3)]


def test_a_refused_observation_drops_plan_and_history_and_sets_the_reason(engine, clock, policy, world):
    engine.set_command("go")
    run_ticks(engine, clock, 1)
    world.refusal = Refusal("stale", "wrist", "stream 'wrist' is 0.500 s old")
    run_ticks(engine, clock, 2)
    assert timeline(engine).pop(2) is None
    assert (engine.status().reason, engine.status().detail) == ("stale", "stream 'wrist' is 0.500 s old")
    assert policy.calls[-1] == ("clear_history",)
    world.refusal = None
    run_ticks(engine, clock, 3)
    assert engine.reason is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_chunk_that_is_not_finite_is_a_fault_until_it_is_reset(engine, clock, policy, value):
    engine.set_command("go")
    run_ticks(engine, clock, 1)
    policy.spoil = lambda chunk: np.full_like(chunk, value)
    run_ticks(engine, clock, 2)
    policy.spoil = lambda chunk: chunk
    run_ticks(engine, clock, 3)
    assert timeline(engine).pop(3) is None
    assert engine.reason == "non_finite"
    engine.reset()
    run_ticks(engine, clock, 4)
    assert timeline(engine).pop(4) is not None


def test_in_a_fault_observations_are_still_taken_and_dropped(engine, clock, policy, world):
    engine.set_command("go")
    policy.spoil = lambda chunk: np.full_like(chunk, np.nan)
    run_ticks(engine, clock, 1)
    before, steps = world.snapshots, len(policy.ticks)
    run_ticks(engine, clock, 2, 3)
    assert world.snapshots == before + 2 and len(policy.ticks) == steps
    assert engine.reason == "non_finite"


def test_a_reset_forgets_the_history_too(engine, clock, policy):
    engine.set_command("go")
    run_ticks(engine, clock, 1, 2)
    engine.reset()
    run_ticks(engine, clock, 3)
    assert policy.calls[-3:] == [("step", 2), ("clear_history",), ("step", 3)]


def test_an_exception_is_a_fault_with_its_traceback_and_the_thread_stays_answerable(engine, clock, policy):
    def fail(observation):
        raise RuntimeError("out of memory")

    engine.set_command("go")
    policy.before_step = fail
    run_ticks(engine, clock, 1, 2)
    status = engine.status()
    assert status.reason == "policy_error" and "out of memory" in status.detail and "Traceback" in status.detail
    engine.set_command("something else")
    assert engine.reason == "policy_error"
    policy.before_step = lambda observation: None
    engine.set_command("go")
    engine.reset()
    run_ticks(engine, clock, 3)
    assert engine.reason is None


@pytest.mark.parametrize("shape", [(4, 5), (7,), (0, 7)])
def test_a_chunk_of_another_shape_is_a_fault_that_names_it(engine, clock, policy, shape):
    engine.set_command("go")
    policy.spoil = lambda chunk: np.zeros(shape)
    run_ticks(engine, clock, 1)
    status = engine.status()
    assert status.reason == "policy_error" and f"got {shape}" in status.detail


def test_a_crashed_thread_is_a_fault_that_no_reset_clears(engine, clock, policy, monkeypatch):
    engine.set_command("go")
    run_ticks(engine, clock, 1)
    monkeypatch.setattr(engine, "_settle", lambda *_: 1 / 0)
    clock.wait_for_sleeper()
    clock.set_ns(at(2, late_ms=50))
    engine._thread.join(10.0)
    engine.reset()
    status = engine.status()
    assert status.reason == "policy_error" and "ZeroDivisionError" in status.detail
    assert timeline(engine).pop(2) is None


def test_ticks_per_chunk_are_estimated_from_the_warm_up_and_then_measured(clock, policy, world):
    policy.warm_up_s = 0.15
    plan = ActionTimeline()
    engine = Engine(lambda: policy, world, plan, clock)
    assert engine.status().ticks_per_chunk is None
    engine.start(10.0)
    assert engine.status().ticks_per_chunk == 2, "settle and warm-up: 0.17 s"
    engine.set_command("go")
    policy.before_step = lambda observation: plan.pop(observation.time_ns // PERIOD_NS)  # the arm moves on meanwhile
    run_ticks(engine, clock, *range(1, RECENT_CHUNKS))
    assert engine.status().ticks_per_chunk == 2, "the slowest of the recent ones"
    run_ticks(engine, clock, RECENT_CHUNKS)
    assert engine.status().ticks_per_chunk == 1, "the warm-up is forgotten"
    policy.before_step = lambda observation: plan.pop(observation.time_ns // PERIOD_NS + 3)
    run_ticks(engine, clock, RECENT_CHUNKS + 1)
    assert engine.status().ticks_per_chunk == 4
    assert engine.stop(10.0)


def test_start_raises_what_building_the_policy_raised(clock, world):
    def make():
        raise ValueError("model.safetensors is missing")

    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        Engine(make, world, ActionTimeline(), clock).start(10.0)


def test_a_clock_that_is_set_back_continues_on_the_new_grid(engine, clock, policy):
    engine.set_command("go")
    run_ticks(engine, clock, 100, 101)
    clock.wait_for_sleeper()
    clock.set_ns(at(3, late_ms=10))
    clock.wait_for_sleeper()
    run_ticks(engine, clock, 4)
    assert policy.ticks == [100, 101, 4]
