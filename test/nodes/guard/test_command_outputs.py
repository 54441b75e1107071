# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The gripper's goals without control_msgs: an action server that answers what the test says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from vla_ros.nodes.guard import command_outputs
from vla_ros.nodes.guard.command_outputs import SUCCEEDED, GripperOutput
from vla_ros.robot_streams import GripperAction, GripperCommand

ABORTED = 6


class Done:
    """A future that is done."""

    def __init__(self, result) -> None:
        self.result = lambda: result

    def add_done_callback(self, callback) -> None:
        callback(self)


class Client:
    """An action client; `answer` is what its server does with each goal: None refuses it, else its final status."""

    answer: int | None = SUCCEEDED

    def __init__(self, *_) -> None: ...

    def send_goal_async(self, goal) -> Done:
        result = SimpleNamespace(status=self.answer, result=SimpleNamespace(stalled=False, reached_goal=False))
        return Done(SimpleNamespace(accepted=self.answer is not None, get_result_async=lambda: Done(result)))


@pytest.fixture
def sink(monkeypatch) -> GripperOutput:
    goal = SimpleNamespace(Goal=lambda: SimpleNamespace(command=SimpleNamespace()))
    monkeypatch.setattr(command_outputs, "message_class", lambda name: goal)
    monkeypatch.setattr(command_outputs, "ActionClient", Client)
    node = SimpleNamespace(
        create_publisher=lambda *_: SimpleNamespace(publish=lambda _: None),
        get_logger=lambda: SimpleNamespace(error=lambda text, **_: None),
    )
    action = GripperAction("gripper", "control_msgs/action/GripperCommand", 20.0)
    command = GripperCommand("gripper_command", "std_msgs/msg/Float64MultiArray", 0.0, 0.08, action=action)
    return GripperOutput(node, command, command.topic, action)


def test_a_goal_that_failed_is_a_warning_until_one_succeeds(sink):
    warnings = []
    for sink._client.answer in (SUCCEEDED, None, SUCCEEDED, ABORTED, SUCCEEDED):
        sink.send(1.0)
        warnings.append(sink.warning)
    assert warnings == [
        None, "gripper action 'gripper' rejected the goal",
        None, "gripper action 'gripper' did not reach the goal (status 6)", None,
    ]  # fmt: skip
    assert sink.goals_failed == 2
