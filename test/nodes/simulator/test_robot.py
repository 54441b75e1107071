# SPDX-License-Identifier: Apache-2.0
"""When the simulator steps, with fake clocks."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="the package vla_ros.nodes needs rclpy")

from vla_ros.nodes.simulator.robot import STEP_NS, RealTimePace, SimulatedPace


class FakeTime:
    def __init__(self) -> None:
        self.now_ns = 1_000_003_000_000

    def sleep(self, duration_s: float) -> None:
        self.now_ns += round(duration_s * 1e9)

    def steady_s(self) -> float:
        return self.now_ns / 1e9


def test_real_time_steps_are_absolute_multiples_of_the_step():
    fake = FakeTime()
    pace = RealTimePace(lambda: fake.now_ns, fake.sleep)
    for _ in range(5):
        step = pace.wait()
        assert (step.time_ns % STEP_NS, step.steps, step.lost_ns) == (0, 1, 0)
        assert 0 <= fake.now_ns - step.time_ns < 1000


def test_real_time_catches_up_on_a_short_delay_and_skips_a_long_one():
    fake = FakeTime()
    pace = RealTimePace(lambda: fake.now_ns, fake.sleep)
    pace.wait()
    fake.now_ns += 3 * STEP_NS
    assert pace.wait().steps == 3
    fake.now_ns += 20 * STEP_NS
    step = pace.wait()
    assert (step.steps, step.lost_ns) == (1, 19 * STEP_NS)
    assert step.time_ns == fake.now_ns // STEP_NS * STEP_NS


def test_simulated_time_runs_at_its_factor_and_never_jumps():
    fake = FakeTime()
    pace = SimulatedPace(0, 5.0, fake.steady_s, fake.sleep)
    start_ns = fake.now_ns
    times_ns = [pace.wait().time_ns for _ in range(50)]
    assert times_ns == [STEP_NS * (index + 1) for index in range(50)]
    assert (fake.now_ns - start_ns) / 1e9 == pytest.approx(50 * STEP_NS / 1e9 / 5.0, rel=0.01)
    fake.now_ns += 10 * STEP_NS  # a busy machine: simulated time continues where it was
    assert pace.wait().time_ns == 51 * STEP_NS
    before_ns = fake.now_ns
    pace.wait()
    assert fake.now_ns - before_ns == pytest.approx(STEP_NS / 5.0, rel=0.01)
