# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What the policy node and the guard share: a session that ends whatever happens, reports, `--help` without ROS."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import TransitionCallbackReturn

from vla_ros.nodes.common.diagnostics import OK, status
from vla_ros.nodes.common.lifecycle_node import SessionNode, transition


class Node(SessionNode):
    """A node whose session does nothing."""

    def __init__(self) -> None:
        super().__init__("any", [], threading.Lock())
        self.published = []
        self._state_publisher = self._diagnostics_publisher = SimpleNamespace(publish=self.published.append)
        self.start_reports()

    @transition
    def on_configure(self, state) -> None:
        self.session = SimpleNamespace(robot=SimpleNamespace(name="arm"), active=False, close=lambda: None)

    @staticmethod
    def idle_status(state, error):
        return status("idle", OK, f"{state} {error}".strip(), {})

    def active_status(self, session):
        return status("active", OK, "active", {})

    def statuses(self, session, now_ns):
        return [status("part", OK, "", {"active": session is not None})]


@pytest.fixture
def node():
    rclpy.init(args=[])
    node = Node()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_the_state_is_published_at_the_start_and_after_each_transition(node):
    node.trigger_configure()
    node.session.active = True
    node.publish_state()
    node.trigger_cleanup()
    states = [(message.message, message.hardware_id) for message in node.published]
    assert states == [("unconfigured", ""), ("inactive", "arm"), ("active", "arm"), ("unconfigured", "")]
    assert {message.name for message in node.published} == {"/any"}


def test_diagnostics_bear_the_names_of_node_and_robot(node):
    node.trigger_configure()
    node._on_diagnostics()
    part = node.published[-1].status[0]
    assert (part.name, part.hardware_id, part.values[0].value) == ("/any: part", "arm", "False")


def test_a_session_that_fails_to_close_is_given_up_and_the_reason_stays(node):
    def fail() -> None:
        raise RuntimeError("stuck")

    node.trigger_configure()
    node.session.close = fail
    assert node.trigger_cleanup() != TransitionCallbackReturn.SUCCESS
    assert node.session is None and node.last_error == "RuntimeError: stuck"
    assert node.published[-1].message == "unconfigured RuntimeError: stuck"


def test_a_state_is_reported_once(node):
    for facts in (("running",), ("running",), ("stopped",)):
        node.report_change(facts, None, expected=True)
    assert len(node.published) == 3  # with the one at the start


def test_a_transition_that_the_state_lacks_is_refused_and_the_node_goes_on(node):
    client = node.create_client(ChangeState, "any/change_state")
    assert client.wait_for_service(timeout_sec=20)

    def request(transition: int) -> bool:
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(node, future, timeout_sec=20)
        return future.result().success

    assert not request(Transition.TRANSITION_ACTIVATE)
    assert request(Transition.TRANSITION_CONFIGURE)


@pytest.mark.parametrize("name", ["guard", "policy"])
def test_help_needs_no_rclpy(name):
    code = f"import sys; sys.modules['rclpy'] = None; from vla_ros.nodes.{name}.node import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: {name}_node" in result.stdout and "parameters (--ros-args -p NAME:=VALUE" in result.stdout
