# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from vla_ros.nodes.common.clock import take_real_time_priority

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="this system has no SCHED_FIFO"),
]


def test_the_calling_thread_asks_for_fifo_with_the_priority_given(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *given: asked.append(given))
    assert take_real_time_priority(50) is None
    assert asked == [(0, os.SCHED_FIFO, os.sched_param(50))]


def test_zero_asks_for_nothing(monkeypatch):
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: pytest.fail("asked"))
    assert take_real_time_priority(0) is None


def test_a_user_without_permission_is_told_how_to_get_it(monkeypatch):
    def refuse(*_) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert "rtprio 50" in (take_real_time_priority(50) or "")
