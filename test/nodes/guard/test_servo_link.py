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

from vla_ros.nodes.guard import servo_link
from vla_ros.nodes.guard.servo_link import ServoLink
from vla_ros.robot import Servo

PERIOD_S = 0.1


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

    def create_client(self, kind, name):
        return self.clients.setdefault(name.rsplit("/", 1)[1], Client(name, self.called))

    def create_subscription(self, kind, topic, callback, qos):
        self.hear = callback
        return SimpleNamespace(topic_name=topic)

    def create_timer(self, period_s, callback, clock):
        self.turn = callback

    def get_publishers_info_by_topic(self, topic):
        return [SimpleNamespace(endpoint_gid=list(gid)) for gid in self.gids]

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
def now(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(s=100.0)
    monkeypatch.setattr(servo_link.time, "monotonic", lambda: clock.s)
    return clock


def parameters(units: str = "speed_units", timeout_s: float = 0.25):
    values = [ParameterValue(type=4, string_value=units), ParameterValue(type=3, double_value=timeout_s)]
    return SimpleNamespace(values=values)


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


def hear(node: Node, code: int = 0, message: str = "") -> None:
    node.hear(SimpleNamespace(code=code, message=message))


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
        (SimpleNamespace(values=[]), "has no parameter .*is it MoveIt Servo, Jazzy or newer"),
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
