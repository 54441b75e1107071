# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""When the guard's watchdog acts, and how a session stops, without topics and with a clock that the test turns."""

from __future__ import annotations

import dataclasses
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from vla_ros.nodes.guard import session as guard_session
from vla_ros.nodes.guard.parameters import PARAMETERS
from vla_ros.nodes.guard.session import GuardSession, make_guard
from vla_ros.robot import load_robot
from vla_ros.runtime.execution.plans import Plan, PlannerStatus
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.safety.operator_signals import EmergencyStops
from vla_ros.runtime.safety.watchdog import Watchdog

PERIOD_NS, START_NS = 20_000_000, 10**18
HERE = np.array([0.5, 0.0, 0.3])
VALUES = {spec.name: spec.default for spec in PARAMETERS} | {"stop_time_s": 0.04}
ROBOT = dataclasses.replace(load_robot("tabletop"), command_hz=50.0)


class Session(GuardSession):
    """One that moves at `speed`; `sent` are its commands."""

    def __init__(self, speed: float = 0.0) -> None:
        self.clock_ns, self.sent, self.called, self.logged, self.stuck = START_NS, [], [], [], ""
        self._started_s, self._active_s = time.monotonic(), 2.0
        self._stops = EmergencyStops({"emergency_stop": None})
        self.core = make_guard(VALUES.__getitem__, ROBOT, self._stops)
        self.take = lambda: None
        self._emergency = SimpleNamespace(take=lambda: self.take())
        self._on_change = lambda: None
        self._watchdog = Watchdog(PERIOD_NS / 1e9)
        self._turn = threading.RLock()
        self._thread = SimpleNamespace(stop=lambda: None, check=lambda: None)
        self._period_s, self._period_ns = PERIOD_NS / 1e9, PERIOD_NS
        twists = SimpleNamespace(flush=lambda timeout_s: None)
        self.outputs = SimpleNamespace(twists=twists, send=self.sent.append)
        self.inputs = SimpleNamespace(mark_intervention=lambda taken_over: None)
        self.pose = SimpleNamespace(forget=lambda: self.called.append("pose"))
        log = SimpleNamespace(info=self.logged.append, warning=lambda _: None)
        self._ros_clock = SimpleNamespace(ros_time_is_active=True)
        self._node = SimpleNamespace(get_logger=lambda: log)
        self.core.arm(True, START_NS)
        self.core.hear_status(PlannerStatus("one", "go"), 0.0)
        actions = np.tile([speed, 0, 0, 0, 0, 0, 1.0], (50, 1))
        assert self.core.hear_plan(Plan(START_NS, PERIOD_NS, actions), START_NS) is None
        for number in range(1 if speed == 0.0 else 8):
            self.core.tick(START_NS + number * PERIOD_NS, 0.001 * number, HERE)
        assert self.moving

    def _now_ns(self) -> int:
        return self.clock_ns


def test_a_slow_clock_is_no_stopped_clock(monkeypatch):
    session, now_s = Session(), 100.0
    monkeypatch.setattr(guard_session.time, "monotonic", lambda: now_s)
    for _ in range(100):  # simulated time at a hundredth of real time
        now_s += 0.02
        session.clock_ns += 200_000
        session._on_watchdog()
    assert session.sent == [] and session.core.governor.state is State.RUNNING and session.stuck == ""
    for _ in range(7):
        now_s += 0.02
        session._on_watchdog()
    assert session.core.governor.stops == {"clock_stopped": 1}
    assert session.stuck == "clock_stopped: use_sim_time is set, and nothing advances on /clock"
    assert [command.twist.tolist() for command in session.sent] == [[0.0] * 6] * 2


def test_a_system_clock_that_is_set_back_stops_the_arm_and_finds_its_grid_again():
    session = Session()
    session._ros_clock.ros_time_is_active = False
    session._on_watchdog()
    session.clock_ns -= 10**11
    session._on_watchdog()
    assert session.core.governor.stops == {"clock_set_back": 1} and session.called == ["pose"]
    plan = Plan(session.clock_ns, PERIOD_NS, np.zeros((3, 7)))
    while session.moving:
        assert session.core.hear_plan(plan, session.clock_ns) == "stopping: the clock was set back"
        session.halt("clock_set_back")
    assert session.core.hear_plan(plan, session.clock_ns) is None


def test_an_exception_in_a_tick_is_raised_in_the_thread_that_can_end_the_node():
    def check() -> None:
        raise RuntimeError("in a tick")

    session = Session()
    session._thread.check = check
    with pytest.raises(RuntimeError, match="in a tick"):
        session._on_watchdog()


def test_disarming_waits_for_the_running_tick():
    session = Session()
    with session._turn:
        disarming = threading.Thread(target=session.arm, args=[False])
        disarming.start()
        time.sleep(0.05)
        assert session.core.governor.armed
    disarming.join()
    assert not session.core.governor.armed


def test_the_reason_for_the_end_is_the_reason_of_the_stop():
    session = Session()
    session.stop("deactivated")
    assert session.core.governor.stops == {"deactivated": 1}
    assert [command.twist.tolist() for command in session.sent[:2]] == [[0.0] * 6] * 2
    assert (session.core.governor.state, session.core.governor.armed) == (State.DISARMED, False)
    summary = next(text for text in session.logged if text.startswith("run summary:"))
    assert "active for 2.0 s" in summary and "stops: deactivated 1" in summary


def test_an_emergency_stop_cuts_short_the_slowing_down_of_a_deactivation():
    session = Session(speed=0.3)
    session.take = lambda: len(session.sent) == 1 and session._stops.hear("emergency_stop", True, 0.0)
    session.stop("deactivated")
    speeds = [command.twist[0] for command in session.sent if command.twist is not None]
    assert speeds[0] > 0.05 and speeds[1:] == [0.0, 0.0]
    assert session.core.governor.reason == "emergency_stop"


def test_a_stop_outside_the_ticks_happens_only_while_the_arm_moves():
    session = Session()
    session.halt("emergency_stop")
    assert [command.twist.tolist() for command in session.sent] == [[0.0] * 6]
    session.stop("deactivated")
    sent = len(session.sent)
    session.halt("emergency_stop")
    assert len(session.sent) == sent
