# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Servo's handshake step by step, without moveit_msgs: services that answer when the test says so."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from rcl_interfaces.msg import ParameterValue
from std_msgs.msg import Int8

from vla_ros.errors import RobotError
from vla_ros.nodes.guard import servo_link
from vla_ros.nodes.guard.servo_link import ServoLink
from vla_ros.robot import Servo

PERIOD_S = 0.1
NOW_NS = 1_800_000_000 * 10**9


class Client:
    def __init__(self, name: str, called: list) -> None:
        self.srv_name, self.ready = name, True
        self._called = called

    def service_is_ready(self) -> bool:
        return self.ready

    def call_async(self, request):
        def answer(response) -> None:
            call.response = response
            for callback in call.callbacks:
                callback(call)

        call = SimpleNamespace(callbacks=[], answer=answer, result=lambda: call.response, request=request)
        call.add_done_callback = call.callbacks.append
        self._called.append((self.srv_name.rsplit("/", 1)[1], call))
        return call


class Node:
    """What of a node the link uses. `called`: services and their pending calls; `gids`: who publishes the status."""

    def __init__(self) -> None:
        self.called: list = []
        self.clients: dict[str, Client] = {}
        self.gids = [b"first"]
        self.warnings: list[str] = []
        self.parameters = {"use_sim_time": False}

    def create_client(self, kind, name):
        return self.clients.setdefault(name.rsplit("/", 1)[1], Client(name, self.called))

    def create_subscription(self, kind, topic, callback, qos):
        self.hear = callback
        return SimpleNamespace(topic_name=topic)

    def create_timer(self, period_s, callback, clock):
        self.turn = callback

    def get_publishers_info_by_topic(self, topic):
        return [SimpleNamespace(endpoint_gid=list(gid)) for gid in self.gids]

    def get_parameter(self, name):
        return SimpleNamespace(value=self.parameters[name])

    def get_logger(self):
        return SimpleNamespace(info=lambda text: None, warning=self.warnings.append)


@dataclasses.dataclass
class Request:
    """moveit_msgs/srv/ServoCommandType."""

    command_type: int
    TWIST = 1


@pytest.fixture
def node(monkeypatch) -> Node:
    command_type = SimpleNamespace(Request=Request)
    monkeypatch.setattr(servo_link, "message_class", lambda name: command_type)
    return Node()


@pytest.fixture
def humble_node(monkeypatch) -> Node:
    """Beside the moveit_msgs of Humble, which has no command types and no message for the status."""

    def lacks(name: str):
        raise RobotError(f"message type {name!r} is not installed")

    monkeypatch.setattr(servo_link, "message_class", lacks)
    monkeypatch.setattr(servo_link.importlib.util, "find_spec", lambda name: object())
    return Node()


@pytest.fixture
def now(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(s=100.0)
    monkeypatch.setattr(servo_link.time, "monotonic", lambda: clock.s)
    monkeypatch.setattr(servo_link.time, "time_ns", lambda: NOW_NS)
    return clock


def parameters(units: str = "speed_units", timeout_s: float = 0.25, use_sim_time: bool = False):
    values = [ParameterValue(type=4, string_value=units), ParameterValue(type=3, double_value=timeout_s)]
    return SimpleNamespace(values=[*values, ParameterValue(type=1, bool_value=use_sim_time)])


YES, NO = SimpleNamespace(success=True), SimpleNamespace(success=False, message="not now")


def answer(node: Node, *responses) -> list[str]:
    """Let the link ask, and give these answers; returns what it asked."""
    asked = []
    for response in responses:
        node.turn()
        name, call = node.called.pop()
        asked.append(name)
        call.answer(response)
    return asked


def hear(node: Node, code: int = 0, message: str = "", *, sent_s: float = 0.0) -> None:
    """Receive a status that was sent at `sent_s` by Servo's clock, relative to ours now."""
    sent = {"source_timestamp": NOW_NS + round(sent_s * 1e9)}
    node.hear(SimpleNamespace(code=code, message=message), sent)


def make(node: Node) -> ServoLink:
    return ServoLink(node, Servo("servo_node"), PERIOD_S)


def test_units_and_timeout_are_checked_before_the_type_is_switched_and_the_pause_ended(node, now):
    link = make(node)
    link.start()
    assert answer(node, parameters(), YES) == ["get_parameters", "switch_command_type"]
    assert link.reason == "servo_not_ready"
    assert answer(node, YES) == ["pause_servo"] and link.reason == "servo_not_ready"
    hear(node)
    assert link.reason is None


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (parameters(units="unitless"), "command_in_type must be speed_units.*got 'unitless'"),
        (parameters(timeout_s=0.1), r"incoming_command_timeout must be at least 0\.2 s.*got 0\.1"),
        (SimpleNamespace(values=[]), "has no parameter .*is it MoveIt Servo"),
    ],
)
def test_settings_that_would_change_the_motion_are_refused(node, now, response, detail):
    link = make(node)
    answer(node, response)
    assert link.reason == "servo_refused"
    assert re.search(detail, link.detail)
    node.turn()
    assert node.called == []  # it is asked again, and not at once
    now.s += 2.1
    assert answer(node, parameters(), YES) == ["get_parameters", "switch_command_type"]
    hear(node)
    assert link.reason is None


def test_a_service_that_is_missing_or_never_answers_is_asked_again(node, now):
    link = make(node)
    node.clients["get_parameters"].ready = False
    node.turn()
    assert node.called == [] and "get_parameters is not available" in link.detail
    node.clients["get_parameters"].ready = True
    node.turn()
    _, lost = node.called.pop()
    now.s += 2.1
    assert answer(node, parameters(), YES) == ["get_parameters", "switch_command_type"]
    lost.answer(parameters(units="unitless"))  # an answer from before does not count
    hear(node)
    assert link.reason is None


def test_a_service_that_stays_missing_beside_a_status_is_explained(node, now):
    link = make(node)
    node.clients["get_parameters"].ready = False
    now.s += 5.1
    node.turn()
    assert link.detail == "service servo_node/get_parameters is not available"
    hear(node)
    node.turn()
    assert link.reason == "servo_not_ready" and "although servo_node sends its status" in link.detail
    assert node.warnings[-1].endswith(link.detail)


@pytest.mark.parametrize("ours", [False, True])
def test_a_servo_on_another_clock_is_refused_until_both_use_the_same(node, now, ours):
    node.parameters["use_sim_time"] = ours
    link = make(node)
    answer(node, parameters(use_sim_time=not ours))
    theirs = "false" if ours else "true"
    assert link.reason == "servo_clock"
    assert link.detail == f"servo_node has use_sim_time {theirs}, the guard {str(ours).lower()}: set both alike"
    hear(node)
    assert link.reason == "servo_clock"
    now.s += 2.1
    assert answer(node, parameters(use_sim_time=ours), YES) == ["get_parameters", "switch_command_type"]
    hear(node)
    assert link.reason is None


@pytest.mark.parametrize(("sent_s", "difference"), [(0.2, "0.20 s ahead of"), (-3.0, "3.00 s behind")])
def test_a_servo_whose_machine_has_another_time_is_refused_until_it_is_set(node, now, sent_s, difference):
    link = make(node)
    answer(node, parameters(), YES)
    hear(node)
    assert link.reason is None
    for _ in range(servo_link.COMPARED):
        hear(node, sent_s=sent_s)
    assert link.reason == "servo_clock"
    assert f"{difference} the guard's; at most 0.125 s is allowed" in link.detail
    for _ in range(servo_link.COMPARED):
        hear(node, sent_s=-0.01)
    assert link.reason is None
    assert len(node.warnings) == 1


def test_statuses_that_arrive_late_do_not_look_like_another_clock(node, now):
    link = make(node)
    answer(node, parameters(), YES)
    for delay_s in (0.01, 0.4, 0.3, 0.02, 0.5):
        hear(node, sent_s=-delay_s)
        assert link.reason is None


def test_with_simulated_time_the_system_clocks_do_not_matter(node, now):
    node.parameters["use_sim_time"] = True
    link = make(node)
    answer(node, parameters(use_sim_time=True), YES)
    hear(node, sent_s=100.0)
    assert link.reason is None


def test_a_middleware_that_does_not_say_when_a_status_was_sent_is_no_mismatch(node, now):
    link = make(node)
    answer(node, parameters(), YES)
    node.hear(SimpleNamespace(code=0, message=""), {"source_timestamp": 0})
    assert link.reason is None


def test_silence_stops_the_arm_but_does_not_end_a_pause(node, now):
    link = make(node)
    link.start()
    answer(node, parameters(), YES, YES)
    now.s += 0.9
    hear(node)
    now.s += 0.9
    node.turn()
    assert link.reason is None
    now.s += 0.2
    node.turn()
    assert link.reason == "servo_silent" and node.called == []
    hear(node)
    assert link.reason is None


def test_a_restarted_servo_is_switched_again(node, now):
    link = make(node)
    answer(node, parameters(), YES)
    hear(node)
    node.gids = [b"second"]
    node.turn()
    assert link.reason == "servo_not_ready" and "restarted" in link.detail
    assert answer(node, parameters(), YES) == ["get_parameters", "switch_command_type"]
    hear(node)
    assert link.reason is None


def test_a_refusal_is_named_with_servo_s_own_words(node, now):
    link = make(node)
    link.start()
    answer(node, parameters(), NO)
    assert (link.reason, link.detail) == ("servo_refused", "servo_node/switch_command_type: rejected not now")


def test_during_a_repeated_handshake_servo_is_not_ready(node, now):
    link = make(node)
    link.start()
    answer(node, parameters(), YES, YES)
    hear(node)
    assert link.reason is None
    link.start()  # the node was deactivated and activated again
    hear(node)
    assert link.reason == "servo_not_ready"
    answer(node, parameters(), YES, YES)
    hear(node)
    assert link.reason is None


def test_a_servo_status_other_than_ok_is_a_warning_while_it_lasts(node, now):
    link = make(node)
    answer(node, parameters(), YES)
    for code, message in ((0, ""), (4, "close to the table"), (4, "close to the table"), (2, "singularity")):
        hear(node, code, message)
    assert link.reason is None and link.warning == "servo reports 2: singularity"
    assert node.warnings == ["servo_node reports 4: close to the table", "servo_node reports 2: singularity"]
    hear(node)
    assert link.warning is None


def test_humble_s_servo_is_started_when_the_guard_is_and_not_before(humble_node, now):
    link = make(humble_node)
    assert answer(humble_node, parameters()) == ["get_parameters"]
    now.s += 5.0
    humble_node.turn()
    assert humble_node.called == [] and humble_node.warnings == [] and link.reason == "servo_not_ready"
    link.start()
    assert answer(humble_node, parameters(), YES) == ["get_parameters", "start_servo"]
    humble_node.hear(Int8(data=0))
    assert link.reason is None


def test_humble_s_servo_that_was_restarted_is_started_again(humble_node, now):
    link = make(humble_node)
    link.start()
    answer(humble_node, parameters(), YES)
    humble_node.hear(Int8(data=0))
    humble_node.gids = [b"second"]
    humble_node.turn()
    assert link.reason == "servo_not_ready" and "restarted" in link.detail
    assert answer(humble_node, parameters(), YES) == ["get_parameters", "start_servo"]


def test_humble_s_servo_that_never_begins_to_compute_is_silent(humble_node, now):
    link = make(humble_node)
    link.start()
    answer(humble_node, parameters(), YES)  # it says yes even if it has no joint states
    now.s += 1.1
    humble_node.turn()
    assert link.reason == "servo_silent"


def test_humble_s_status_codes_are_told_in_words(humble_node, now):
    link = make(humble_node)
    link.start()
    answer(humble_node, parameters(), YES)
    humble_node.hear(Int8(data=2))
    assert link.warning == "servo reports 2: close to a singularity: halted"


def test_without_moveit_msgs_the_package_to_install_is_named(monkeypatch, humble_node):
    monkeypatch.setattr(servo_link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RobotError, match="moveit_msgs/srv/ServoCommandType"):
        make(humble_node)
