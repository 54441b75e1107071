# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The gripper's action servers, over DDS."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("control_msgs", reason="control_msgs is not installed (it is not on PyPI)")

from control_msgs.action import GripperCommand, ParallelGripperCommand
from policy_bench import FakeRobot, policy_node, write_checkpoint, write_robot
from rclpy.action import ActionServer, GoalResponse

ACTIONS = {
    ParallelGripperCommand: {
        "type": "control_msgs/action/ParallelGripperCommand", "joints": ["left", "right"], "max_effort": 20.0,
    },
    GripperCommand: {"type": "control_msgs/action/GripperCommand", "max_effort": 20.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.__name__)
def test_goals_are_sent_on_change_without_waiting_and_failures_are_counted(kind, ros_environment, tmp_path):
    robot, goals, accept = FakeRobot(int(ros_environment["ROS_DOMAIN_ID"])), [], [True]
    command = {
        "topic": "gripper_command", "type": "std_msgs/msg/Float64MultiArray", "closed": 0.0, "open": 0.08,
        "action": {"name": "gripper/command", **ACTIONS[kind]},
    }  # fmt: skip

    def execute(handle):
        goals.append(handle.request.command)
        handle.succeed()
        return kind.Result(reached_goal=True)

    def answer(_):
        return GoalResponse.ACCEPT if accept[0] else GoalResponse.REJECT

    try:
        files = write_checkpoint(tmp_path), write_robot(tmp_path, gripper_command=command)
        with policy_node(*files, ros_environment):
            robot.ready()
            robot.say("grip 1.0")
            robot.wait_state("waiting", "gripper_not_ready")
            server = ActionServer(robot.node, kind, "gripper/command", execute, goal_callback=answer)
            robot.wait_value(lambda: len(goals) == 1, "the first goal")
            robot.say("grip 0.0")
            robot.wait_value(lambda: len(goals) == 2, "the second goal")
            assert [position(goal) for goal in goals] == [0.08, 0.0] and robot.openings == [0.08, 0.0]
            accept[0] = False
            robot.say("grip 1.0")
            robot.wait(lambda: failed(robot) == "1", "the failure in the diagnostics")
            robot.wait_moving(0.0)
            server.destroy()
    finally:
        robot.close()


def position(goal) -> float:
    if hasattr(goal, "max_effort"):
        assert goal.max_effort == 20.0
        return goal.position
    assert list(goal.name) == ["left", "right"] and set(goal.effort) == {20.0} and len(set(goal.position)) == 1
    return goal.position[0]


def failed(robot: FakeRobot) -> str | None:
    newest = robot.diagnostics[-1].status if robot.diagnostics else []
    found = [status for status in newest if status.name.endswith("outputs")]
    return {pair.key: pair.value for pair in found[0].values}.get("gripper goals failed") if found else None
