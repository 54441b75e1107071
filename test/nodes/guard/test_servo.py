# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The policy node and a Servo that behaves as MoveIt's, over DDS. test_servo_link.py does without moveit_msgs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("moveit_msgs", reason="moveit_msgs is not installed (it is not on PyPI)")

import fake_servo
from fake_servo import FakeServo
from moveit_msgs.msg import ServoStatus
from policy_bench import FakeRobot, policy_node, write_checkpoint, write_robot

TWIST = {"topic": "servo_node/delta_twist_cmds", "type": "geometry_msgs/msg/TwistStamped", "stamp": "header"}
# The fake robot's pose does not follow what the fake Servo does.
SERVO = {
    "twist_command": TWIST, "demonstrated_twist": TWIST, "servo": {"node": "servo_node"},
    "unchecked": ["arm_not_following", "pose_frozen"],
}  # fmt: skip


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> Iterator[FakeRobot]:
    folder = tmp_path_factory.mktemp("servo")
    robot = FakeRobot(int(os.environ["ROS_DOMAIN_ID"]))
    try:
        with policy_node(write_checkpoint(folder), write_robot(folder, **SERVO), dict(os.environ)):
            robot.wait(lambda: bool(robot.states) and robot.states[-1]["state"] == "waiting", "the node")
            robot.ready()
            robot.say("move 0.05")
            yield robot
    finally:
        robot.close()


@pytest.fixture
def make_servo(robot):
    made = []

    def make(**settings) -> FakeServo:
        made.append(FakeServo(robot.context, robot._executor, **settings))
        return made[-1]

    yield make
    for servo in made:
        servo.close()
    robot.wait_state("waiting", "servo_not_ready")


def wait_speed(robot: FakeRobot, servo: FakeServo, speed: float) -> None:
    robot.wait_value(lambda: servo.linear_x == pytest.approx(speed), f"the arm at {speed} m/s")


def outputs(robot: FakeRobot) -> dict[str, str]:
    newest = robot.diagnostics[-1].status if robot.diagnostics else []
    found = [status for status in newest if status.name.endswith("outputs")]
    return {pair.key: pair.value for pair in found[0].values} if found else {}


def test_servo_is_switched_to_twists_and_moves_the_arm_in_metres_a_second(robot, make_servo):
    robot.wait_state("waiting", "servo_not_ready")
    servo = make_servo()
    wait_speed(robot, servo, 0.05)
    robot.say("")
    wait_speed(robot, servo, 0.0)
    robot.say("move 0.05")
    wait_speed(robot, servo, 0.05)


def test_servo_that_takes_fractions_of_a_scale_is_refused_with_what_to_set(robot, make_servo):
    from rclpy.parameter import Parameter

    servo = make_servo(units="unitless")
    robot.wait_state("waiting", "servo_refused")
    assert "command_in_type must be speed_units" in robot.states[-1]["detail"] and not servo.moved_s
    servo.node.set_parameters([Parameter("moveit_servo.command_in_type", value="speed_units")])
    wait_speed(robot, servo, 0.05)


def test_servo_that_gives_up_between_two_commands_is_refused_with_what_to_set(robot, make_servo):
    servo = make_servo(timeout_s=0.05)
    robot.wait_state("waiting", "servo_refused")
    assert "must be at least 0.1 s" in robot.states[-1]["detail"] and not servo.moved_s


def test_a_servo_on_another_clock_is_refused_until_both_use_the_same(robot, make_servo):
    from rclpy.parameter import Parameter

    servo = make_servo(use_sim_time=True)
    robot.wait_state("waiting", "servo_clock")
    assert "use_sim_time true, the guard false" in robot.states[-1]["detail"] and not servo.moved_s
    servo.node.set_parameters([Parameter("use_sim_time", value=False)])
    wait_speed(robot, servo, 0.05)


def test_a_pause_of_servo_stops_the_policy_until_it_is_ended(robot, make_servo):
    servo = make_servo()
    wait_speed(robot, servo, 0.05)
    servo.paused = True
    robot.wait_state("waiting", "servo_silent")
    assert servo.paused  # it is not ours to end
    servo.paused = False
    wait_speed(robot, servo, 0.05)


def test_a_servo_that_was_restarted_is_switched_again(robot, make_servo):
    servo = make_servo()
    wait_speed(robot, servo, 0.05)
    servo.close()
    again = make_servo()
    wait_speed(robot, again, 0.05)
    servo.close = lambda: None


def test_servo_s_status_is_reported(robot, make_servo):
    servo = make_servo()
    servo.status = (ServoStatus.DECELERATE_FOR_COLLISION, "close to the table")
    wait_speed(robot, servo, 0.05)
    robot.wait(lambda: outputs(robot).get("servo status") == "4: close to the table", "the status")
    newest = next(status for status in robot.diagnostics[-1].status if status.name.endswith("outputs"))
    assert (newest.level, newest.message) == (b"\1", "servo reports 4: close to the table")


def test_a_frame_that_servo_does_not_know_moves_nothing_and_is_reported(robot, make_servo, monkeypatch):
    monkeypatch.setattr(fake_servo, "FRAMES", ("world",))
    servo = make_servo()
    robot.wait(lambda: outputs(robot).get("servo status") == f"{ServoStatus.INVALID}: invalid command", "the status")
    assert servo.moved_s == []
