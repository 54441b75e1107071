# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from vla_ros.robot import Limits
from vla_ros.runtime.execution.control import ControlLoop, GripperSwitch
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.run_summary import run_summary
from vla_ros.runtime.safety.governor import SafetyGovernor
from vla_ros.runtime.stats import Summary

PERIOD_NS = 100_000_000
CENTRE = (0.5, 0.0, 0.3)


def loop() -> ControlLoop:
    limits = Limits(1.0, 1.0, 1e6, 1e6, 1e9, 1e9, (0.0, -1.0, 0.0), (1.0, 1.0, 1.0))
    governor = SafetyGovernor(limits, period_s=0.1, stop_ticks=1, armed=True)
    return ControlLoop(ActionTimeline(), governor, GripperSwitch(), period_ns=PERIOD_NS)


def test_a_run_is_summarized_in_ticks_latencies_and_stops():
    control = loop()
    control.timeline.post(5, np.zeros((3, 7)))
    for tick in (6, 7, 8, 9):  # the plan is over at 8: starved, a stop
        control.tick(tick * PERIOD_NS + 20_000_000, None, CENTRE)
    text = run_summary(control, Summary(4, 8.0, 9.0, 9.5, 10.0), 2, 12.0, Summary(4, 30.0, 40.0, 41.0, 42.0))
    assert "active for 12.0 s" in text and "ticks: 3, missed 1 (33.33 %)" in text
    assert "p50 8.0 ms, p95 9.0 ms, p99 9.5 ms, worst 10.0 ms" in text
    assert "plan age at the twist: p50 170.0 ms" in text  # 120 and 220 ms
    assert "camera stamp to twist: p50 30.0 ms, p95 40.0 ms" in text
    assert "stops: starved 1" in text and "overrun by inference: 2" in text


def test_an_idle_run():
    text = run_summary(loop(), None, 0, 1.0, None)
    assert "ticks: 0, missed 0, limited 0" in text and "inference: none" in text and "stops: none" in text
