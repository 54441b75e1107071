# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What the policy node says about transitions, and when its watchdog acts, without a robot."""

from __future__ import annotations

import gc
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Float64MultiArray, String

from vla_ros import resources
from vla_ros.nodes.guard.operator_inputs import OperatorInputs
from vla_ros.nodes.policy import lifecycle
from vla_ros.nodes.policy import session as policy_session
from vla_ros.nodes.policy.session import PolicySession
from vla_ros.robot import load_robot
from vla_ros.runtime.execution.control import ControlLoop, GripperSwitch
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.engine import EngineStatus
from vla_ros.runtime.safety.governor import SafetyGovernor, State
from vla_ros.runtime.safety.interlocks import Interlocks, Watchdog
from vla_ros.runtime.stats import RecentValues

PERIOD_NS = 20_000_000


@pytest.fixture
def node(monkeypatch):
    rclpy.init(args=[])
    node = lifecycle.PolicyNode()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def wait_until(condition) -> bool:
    deadline_s = time.monotonic() + 10.0
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def ros_context_node():
    rclpy.init(args=[])
    node = rclpy.create_node("alone")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_the_reason_of_a_failed_transition_stays_known(node, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA is out of memory")

    monkeypatch.setattr(lifecycle, "PolicySession", fail)
    node.trigger_configure()
    assert node.last_error == "RuntimeError: CUDA is out of memory"


def test_reports_look_into_no_folder(node, monkeypatch):
    looked: list[str] = []
    monkeypatch.setattr(resources, "path", looked.append)
    node._on_diagnostics()
    assert not looked


class Session(PolicySession):
    """One that runs, with a clock that the test turns, and without engine, robot and topics."""

    def __init__(self) -> None:
        governor = SafetyGovernor(load_robot("tabletop").limits, period_s=0.02, stop_ticks=2, armed=True)
        self.control = ControlLoop(ActionTimeline(), governor, GripperSwitch(), period_ns=PERIOD_NS)
        self.clock_ns, self.sent = 1_000_000_000, []
        self._on_change = lambda: None
        self._watchdog = Watchdog(0.02)
        status = EngineStatus("", None, "", None, 0)
        self.engine = SimpleNamespace(
            set_command=lambda _: None, status=lambda: status, forget_observations=lambda: self.called.append("engine")
        )
        self._started_s = 0.0
        self.camera_to_twist_ms = RecentValues()
        self.streams = SimpleNamespace(stop=lambda: None, start=lambda: self.called.append("streams"))
        self.called: list[str] = []
        self.turn = threading.RLock()
        self._control_thread = SimpleNamespace(stop=lambda: None, check=lambda: None)
        self._period_s = PERIOD_NS / 1e9
        twists = SimpleNamespace(flush=lambda timeout_s: None)
        self.outputs = SimpleNamespace(twists=twists, send=self.sent.append)
        self.interlocks = Interlocks(require_enable=False)
        self.hear = lambda: None
        self.inputs = SimpleNamespace(
            mark_intervention=lambda taken_over: None, take_emergency_stops=lambda: self.hear()
        )
        log = SimpleNamespace(info=lambda _: None, warning=lambda _: None)
        self._ros_clock = SimpleNamespace(ros_time_is_active=True)
        self._node = SimpleNamespace(get_logger=lambda: log)
        governor.tick(np.zeros(7), None, (0.5, 0.0, 0.3))
        assert self.moving

    def _now_ns(self) -> int:
        return self.clock_ns


def test_a_slow_clock_is_no_stopped_clock(monkeypatch):
    session, now_s = Session(), 100.0
    monkeypatch.setattr(policy_session.time, "monotonic", lambda: now_s)
    for _ in range(100):  # simulated time at a hundredth of real time
        now_s += 0.02
        session.clock_ns += 200_000
        session._on_watchdog()
    assert session.sent == [] and session.control.governor.state is State.RUNNING
    for _ in range(4):
        now_s += 0.02
        session._on_watchdog()
    assert session.control.governor.stops == {"clock_stopped": 1}
    assert [command.twist.tolist() for command in session.sent] == [[0.0] * 6] * 2


def test_a_system_clock_that_is_set_back_stops_the_arm_and_finds_its_grid_again():
    session = Session()
    session._ros_clock.ros_time_is_active = False
    session._on_watchdog()
    session.clock_ns -= 10**11
    session._on_watchdog()
    assert session.control.governor.stops == {"clock_set_back": 1}
    assert session.called == ["engine", "streams"]


def test_an_exception_in_a_control_tick_is_raised_in_the_thread_that_can_end_the_node():
    def check() -> None:
        raise RuntimeError("in a tick")

    session = Session()
    session._control_thread.check = check
    with pytest.raises(RuntimeError, match="in a tick"):
        session._on_watchdog()


def test_disarming_waits_for_the_running_tick():
    session = Session()
    with session.turn:
        disarming = threading.Thread(target=session.arm, args=[False])
        disarming.start()
        time.sleep(0.05)
        assert session.control.governor.armed
    disarming.join()
    assert not session.control.governor.armed


def test_the_reason_for_the_end_is_the_reason_of_the_stop():
    session = Session()
    session.stop("deactivated")
    assert session.control.governor.stops == {"deactivated": 1}
    assert [command.twist.tolist() for command in session.sent[:2]] == [[0.0] * 6] * 2
    assert (session.control.governor.state, session.control.governor.armed) == (State.DISARMED, False)


def test_an_emergency_stop_cuts_short_the_slowing_down_of_a_deactivation():
    session = Session()
    for _ in range(5):
        session.control.governor.tick(np.array([0.3, 0, 0, 0, 0, 0, 1]), None, (0.5, 0.0, 0.3))
    session.hear = lambda: len(session.sent) == 1 and session.interlocks.emergency_stop(True)
    session.stop("deactivated")
    speeds = [command.twist[0] for command in session.sent if command.twist is not None]
    assert speeds[0] > 0.05 and speeds[1:] == [0.0, 0.0]
    assert session.control.governor.reason == "emergency_stop"


def operator_inputs(node, interlocks: Interlocks, on_pressed=lambda: None) -> OperatorInputs:
    return OperatorInputs(node, interlocks, load_robot("tabletop"), on_pressed, threading.RLock())


def test_every_pulse_of_the_emergency_stop_is_received_while_the_executor_is_busy(ros_context_node):
    node = ros_context_node
    interlocks, pressed = Interlocks(require_enable=False), []
    inputs = operator_inputs(node, interlocks, lambda: pressed.append(True))
    button = node.create_publisher(Bool, "emergency_stop", QoSProfile(depth=10))

    def hear_until(condition) -> None:
        deadline_s = time.monotonic() + 10.0
        while not condition() and time.monotonic() < deadline_s:  # nobody spins
            inputs.take_emergency_stops()
        assert condition()

    assert wait_until(lambda: button.get_subscription_count() >= 1)
    for data in (True, True, True, False):
        button.publish(Bool(data=data))
    assert button.wait_for_all_acked(Duration(seconds=5.0))
    hear_until(lambda: interlocks.emergency and not interlocks._pressed)
    assert interlocks.reset() and pressed == [True]
    button.publish(Bool(data=True))
    hear_until(lambda: interlocks.emergency)
    assert pressed == [True, True]


def test_a_takeover_s_gripper_command_is_clipped_counts_once_and_only_during_the_takeover(ros_context_node):
    interlocks = Interlocks(require_enable=False)
    inputs = operator_inputs(ros_context_node, interlocks)
    inputs._on_takeover_gripper(Float64MultiArray(data=[0.04]))
    assert interlocks.manual_command(time.monotonic()) is None
    inputs._on_takeover_twist(TwistStamped())
    assert interlocks.manual_command(time.monotonic()).opening is None  # what was said before is forgotten
    for value, opening in ((0.04, 0.5), (9.0, 1.0), (-1.0, 0.0), (float("nan"), None)):
        inputs._on_takeover_gripper(Float64MultiArray(data=[value]))
        assert [interlocks.manual_command(time.monotonic()).opening for _ in range(2)] == [opening, None]


def test_a_qos_mismatch_is_reported_while_its_publisher_exists(ros_context_node):
    node = ros_context_node
    inputs = OperatorInputs(
        node, Interlocks(require_enable=False), load_robot("tabletop"), lambda: None, threading.RLock()
    )
    node.create_publisher(Bool, "enable", QoSProfile(depth=1))
    lossy = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    button = node.create_publisher(Bool, "emergency_stop", lossy)
    assert wait_until(lambda: inputs.qos_mismatches() == ["emergency_stop"])
    assert inputs.qos_mismatches("emergency_stop") == ["emergency_stop"]
    assert inputs.unheard_stop() == "emergency_stop_unheard"
    node.destroy_publisher(button)
    assert wait_until(lambda: inputs.qos_mismatches() == [])


@pytest.mark.parametrize(
    ("topic", "kind", "reason"),
    [("language_command", String, "command_unheard"), ("takeover_twist", TwistStamped, "takeover_unheard")],
)
def test_a_stop_word_or_takeover_with_a_qos_mismatch_is_a_reason_not_to_move(ros_context_node, topic, kind, reason):
    inputs = OperatorInputs(
        ros_context_node, Interlocks(require_enable=False), load_robot("tabletop"), lambda: None, threading.RLock()
    )
    ros_context_node.create_publisher(kind, topic, QoSProfile(depth=1))
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    lossy = ros_context_node.create_publisher(kind, topic, best_effort)
    assert wait_until(lambda: inputs.unheard_stop() == reason)
    ros_context_node.destroy_publisher(lossy)
    assert wait_until(lambda: inputs.unheard_stop() is None)


def test_a_loaded_policy_is_excluded_from_garbage_collection_until_it_is_unloaded():
    given = {"checkpoint": resources.path("config/checkpoints/tabletop"), "robot": "tabletop"}
    rclpy.init(args=["--ros-args", *(part for name, value in given.items() for part in ("-p", f"{name}:={value}"))])
    node = lifecycle.PolicyNode()
    try:
        node.trigger_configure()
        assert node.last_error == "" and gc.get_freeze_count() > 100_000
        node.trigger_cleanup()
        assert gc.get_freeze_count() == 0
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
