# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What the guard hears of buttons, deadmen and takeovers, and what it says of those that it cannot hear."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Empty, Float64MultiArray

from vla_ros.nodes.common.qos import unheard
from vla_ros.nodes.guard.emergency_inputs import EmergencyInputs
from vla_ros.nodes.guard.operator_inputs import OperatorInputs
from vla_ros.robot import EmergencyStop, load_robot
from vla_ros.robot_streams import TakeoverTwist
from vla_ros.runtime.safety.operator_signals import Deadman, Takeover

LOSSY = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def node():
    rclpy.init(args=[])
    node = rclpy.create_node("guard")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def other():
    """A node of another participant: within one, DDS refuses a second type on a topic."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("button", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 10.0
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return condition()


def operator_inputs(
    node, *, require_enable: bool = False, frame: str | None = None, pose: np.ndarray | None = None
) -> tuple[OperatorInputs, Deadman, Takeover]:
    deadman, takeover = Deadman(required=require_enable), Takeover()
    robot = dataclasses.replace(load_robot("tabletop"), takeover_twist=TakeoverTwist(frame))
    return OperatorInputs(node, robot, deadman, takeover, threading.RLock(), lambda: pose), deadman, takeover


def emergency_inputs(node, on_stop=lambda: None, topics: tuple[str, ...] = ("emergency_stop",)) -> EmergencyInputs:
    return EmergencyInputs(node, [EmergencyStop(topic) for topic in topics], on_stop, threading.RLock())


def test_every_pulse_of_the_emergency_stop_is_received_while_the_executor_is_busy(node):
    pressed: list[bool] = []
    inputs = emergency_inputs(node, lambda: pressed.append(True))
    button = node.create_publisher(Bool, "emergency_stop", QoSProfile(depth=10))

    def hear_until(condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 10.0
        while not condition():  # nobody spins
            assert time.monotonic() < deadline_s
            inputs.take()

    assert wait_until(lambda: button.get_subscription_count() >= 1)
    for data in (True, True, True, False):
        button.publish(Bool(data=data))
    assert button.wait_for_all_acked(Duration(seconds=5.0))
    hear_until(lambda: bool(inputs.stops.latched) and inputs.stops.reset(0.0) is None)
    assert pressed == [True]
    button.publish(Bool(data=True))
    hear_until(lambda: bool(inputs.stops.latched))
    assert pressed == [True, True]


def test_a_takeover_s_gripper_command_is_clipped_counts_once_and_only_for_a_while(node):
    inputs, _, takeover = operator_inputs(node)
    for value, opening in ((0.04, 0.5), (9.0, 1.0), (-1.0, 0.0), (float("nan"), None)):
        inputs._on_takeover_gripper(Float64MultiArray(data=[value]))
        assert [takeover.opening(time.monotonic()) for _ in range(2)] == [opening, None]
    inputs._on_takeover_gripper(Float64MultiArray(data=[0.04]))
    assert takeover.opening(time.monotonic() + 0.31) is None


def test_a_twist_by_hand_in_another_frame_or_with_an_old_stamp_is_dropped(node):
    from rclpy.time import Time

    inputs, _, takeover = operator_inputs(node)

    def hear(frame: str, age_s: float | None) -> bool:
        message = TwistStamped()
        message.header.frame_id, message.twist.linear.x = frame, 0.1
        if age_s is not None:
            now_ns = node.get_clock().now().nanoseconds
            message.header.stamp = Time(nanoseconds=now_ns - round(age_s * 1e9)).to_msg()
        inputs._on_takeover_twist(message)
        heard = takeover.twist(time.monotonic()) is not None
        takeover.__init__()
        return heard

    assert hear("base_link", 0.05) and hear("/base_link", None) and hear("", 0.0)
    assert not hear("tool0", 0.05) and not hear("base_link", 0.4) and not hear("base_link", -1.0)


def test_a_twist_by_hand_in_the_tool_s_frame_is_rotated_into_the_base_frame(node):
    quarter = np.array([0.4, 0.0, 0.3, 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])  # about z
    message = TwistStamped()
    message.header.frame_id, message.twist.linear.x, message.twist.angular.y = "joy", 0.1, 0.2
    inputs, _, takeover = operator_inputs(node, frame="tool", pose=quarter)
    inputs._on_takeover_twist(message)
    np.testing.assert_allclose(takeover.twist(time.monotonic()), [0, 0.1, 0, -0.2, 0, 0], atol=1e-12)
    inputs, _, takeover = operator_inputs(node, frame="base", pose=quarter)
    inputs._on_takeover_twist(message)
    np.testing.assert_allclose(takeover.twist(time.monotonic()), [0.1, 0, 0, 0, 0.2, 0])


def test_a_twist_in_the_tool_s_frame_is_dropped_without_a_pose_and_zero_still_hands_back(node):
    inputs, _, takeover = operator_inputs(node, frame="tool")
    message = TwistStamped()
    message.twist.linear.x = 0.1
    inputs._on_takeover_twist(message)
    assert takeover.twist(time.monotonic()) is None
    inputs._on_takeover_twist(TwistStamped())
    assert takeover.ended(time.monotonic() + 1.0) == "handed_back"


@pytest.mark.parametrize("kind", [Bool, Empty])
def test_a_button_that_cannot_be_heard_is_a_reason_not_to_move_while_it_is_there(node, other, kind):
    inputs = emergency_inputs(node)
    button = other.create_publisher(kind, "emergency_stop", LOSSY if kind is Bool else QoSProfile(depth=1))
    expected = "QoS mismatch: the publisher button must be RELIABLE"
    if kind is Empty:
        expected = "button publishes std_msgs/msg/Empty, expected std_msgs/msg/Bool"

    def reason() -> tuple[str, str] | None:
        inputs.look()
        return inputs.stops.reason(time.monotonic())

    assert wait_until(lambda: reason() == ("emergency_stop_unheard", f"emergency_stop: {expected}"))
    assert inputs.stops.problems() == [f"emergency_stop: {expected}"]
    other.destroy_publisher(button)  # a button that is gone is a stop
    assert wait_until(lambda: reason() == ("emergency_stop", "the publisher of emergency_stop is gone"))


@pytest.mark.parametrize(
    ("kind", "qos", "problem"),
    [
        (TwistStamped, LOSSY, "QoS mismatch: the publisher button must be RELIABLE"),
        (Twist, 1, "button publishes geometry_msgs/msg/Twist, expected geometry_msgs/msg/TwistStamped"),
    ],
)
def test_a_hand_that_cannot_be_heard_is_a_reason_not_to_move_while_it_is_there(node, other, kind, qos, problem):
    inputs, _, _ = operator_inputs(node)
    node.create_publisher(TwistStamped, "takeover_twist", QoSProfile(depth=1))
    hand = other.create_publisher(kind, "takeover_twist", qos)
    assert wait_until(lambda: inputs.problem() == ("takeover_unheard", f"takeover_twist: {problem}"))
    assert inputs.problems() == {"takeover_twist": problem}
    other.destroy_publisher(hand)
    assert wait_until(lambda: inputs.problem() is None)


@pytest.mark.parametrize("required", [False, True])
def test_a_deadman_that_cannot_be_heard_counts_where_it_is_required(node, other, required):
    inputs, _, _ = operator_inputs(node, require_enable=required)
    other.create_publisher(Bool, "enable", LOSSY)
    assert wait_until(lambda: "enable" in inputs.problems())
    assert (inputs.problem() is not None) is required
    assert inputs.problem() is None or inputs.problem()[0] == "enable_unheard"


def test_the_publishers_of_a_topic_are_counted(node):
    for _ in range(2):
        node.create_publisher(Bool, "emergency_stop", QoSProfile(depth=1))
    assert wait_until(lambda: unheard(node, "emergency_stop", "std_msgs/msg/Bool") == (2, None))


def test_two_boxes_on_one_topic_are_a_reason_not_to_move(node):
    inputs = emergency_inputs(node)
    for _ in range(2):
        node.create_publisher(Bool, "emergency_stop", QoSProfile(depth=1))

    def reason() -> tuple[str, str]:
        inputs.look()
        return inputs.stops.reason(time.monotonic()) or ("", "")

    assert wait_until(lambda: reason()[0] == "emergency_stop_ambiguous")
    assert reason()[1] == "emergency_stop has 2 publishers: give each button its own topic in the robot's file"


def test_a_cell_s_button_is_heard_by_an_arm_in_a_namespace(other):
    rclpy.init(args=["--ros-args", "-r", "__ns:=/left"])
    arm = rclpy.create_node("guard")
    try:
        inputs = emergency_inputs(arm, topics=("emergency_stop", "/emergency_stop"))
        button = other.create_publisher(Bool, "/emergency_stop", QoSProfile(depth=1))
        assert wait_until(lambda: button.get_subscription_count() >= 1)
        button.publish(Bool(data=True))
        deadline_s = time.monotonic() + 10.0
        while not inputs.stops.latched and time.monotonic() < deadline_s:
            inputs.take()
        assert inputs.stops.latched == "/emergency_stop was pressed"
    finally:
        arm.destroy_node()
        rclpy.try_shutdown()


def test_a_twist_of_zeros_hands_back_and_silence_does_not(node):
    inputs, _, takeover = operator_inputs(node)
    message = TwistStamped()
    inputs._on_takeover_twist(message)
    now_s = time.monotonic()
    assert np.array_equal(takeover.twist(now_s), np.zeros(6)) and takeover.ended(now_s + 1.0) == "handed_back"
    message.twist.linear.x = 0.1
    inputs._on_takeover_twist(message)
    assert takeover.ended(time.monotonic() + 1.0) == "operator_lost"
