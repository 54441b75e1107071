# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from ticked_guard import TickedGuard

from vla_ros.runtime.run_summary import run_summary


def test_a_run_is_summarized_in_ticks_plan_ages_refusals_and_stops():
    guard = TickedGuard(stop_ticks=1)
    guard.post(5, np.zeros((3, 7)))
    assert not guard.post(4, np.zeros((3, 7)))
    for tick in (6, 7, 8, 9):  # the plan is over at 8: starved, a stop
        guard.tick(tick + 0.2)
    text = run_summary(guard.core, 12.0)
    assert "active for 12.0 s, controlled by the policy for 0.3 s" in text
    assert "ticks: 3, missed 1 (33.33 %), limited 0" in text
    assert "plans: 1, refused: out_of_order 1" in text
    assert "plan age at the twist: p50 170.0 ms, p95 215.0 ms, p99 219.0 ms, worst 220.0 ms" in text  # 120 and 220 ms
    assert "stops: starved 1" in text


def test_an_idle_run():
    text = run_summary(TickedGuard().core, 1.0)
    assert "ticks: 0, missed 0, limited 0" in text and "plans: 0, refused: none" in text
    assert "plan age at the twist: none" in text and "stops: none" in text
