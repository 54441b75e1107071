# SPDX-License-Identifier: Apache-2.0
"""Situations from bug reports of other robots and our own: people and devices that misbehave around the guard."""

from __future__ import annotations

import array
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("trajectory_msgs")

from guard_bench import FakeArm, guard_bench, other_node
from policy_bench import write_robot

pytestmark = pytest.mark.ros

BUTTON = """
import time, rclpy
from std_msgs.msg import Bool
rclpy.init()
node = rclpy.create_node("button")
publisher = node.create_publisher(Bool, "cell_stop", 10)
while True:
    publisher.publish(Bool(data=False))
    time.sleep(0.1)
"""


def moving(arm: FakeArm) -> None:
    """Bring it to motion."""
    arm.wait_state("disarmed")
    assert arm.arm().success
    arm.wait_moving()


def disarmed_by(arm: FakeArm, reason: str) -> None:
    arm.wait_state("disarmed")
    assert arm.states[-1]["detail"].startswith(reason), arm.states[-1]


@pytest.mark.parametrize("kind", ["std_msgs/Empty", "std_msgs/UInt8"])
def test_an_emergency_stop_of_another_message_type_stops_the_arm_and_is_named(tmp_path, ros_environment, kind) -> None:
    from std_msgs import msg

    with guard_bench(tmp_path, ros_environment) as (arm, _, _), other_node(ros_environment, "button") as node:
        moving(arm)
        node.create_publisher(getattr(msg, kind.partition("/")[2]), "emergency_stop", 10)
        arm.wait_standing()
        arm.wait_state("disarmed")
        expected = f"button publishes {kind.replace('/', '/msg/')}, expected std_msgs/msg/Bool"
        assert arm.states[-1]["detail"] == f"emergency_stop_unheard: emergency_stop: {expected}"


def test_two_boxes_on_one_topic_cannot_release_each_other(tmp_path: Path, ros_environment) -> None:
    with guard_bench(tmp_path, ros_environment) as (arm, _, _), other_node(ros_environment, "second_box") as node:
        moving(arm)
        arm.press(True)
        arm.wait_state("fault", "emergency_stop")
        second = node.create_publisher(arm.bool, "emergency_stop", 10)
        for _ in range(10):
            second.publish(arm.bool(data=False))
            time.sleep(0.05)
        refused = arm.reset()
        assert not refused.success and "2 publishers" in refused.message
        assert not arm.arm().success
        arm.stays(0.5)


def test_an_emergency_stop_whose_process_is_killed_is_a_stop(tmp_path: Path, ros_environment) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    buttons = [{"topic": "emergency_stop"}, {"topic": "cell_stop"}]
    with guard_bench(tmp_path, ros_environment, robot={"emergency_stops": buttons}) as (arm, _, _):
        button = subprocess.Popen([sys.executable, "-c", BUTTON], env=ros_environment)
        heard: list[Any] = []
        arm.node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)

        def said() -> str:
            values = {pair.key: pair.value for status in (heard[-1].status if heard else []) for pair in status.values}
            return values.get("cell_stop", "")

        try:
            while said() != "released":
                time.sleep(0.05)
            moving(arm)
        finally:
            button.kill()
            button.wait()
        arm.wait_state("fault", "emergency_stop")
        assert arm.states[-1]["detail"].endswith("the publisher of cell_stop is gone")
        arm.stays(0.2)
        assert arm.reset().success  # whoever resets has seen that the button is gone


def test_a_button_that_is_pressed_only_once_outlives_every_transition(tmp_path: Path, ros_environment) -> None:
    buttons = [{"topic": "emergency_stop"}, {"topic": "cell_stop"}]
    bench = guard_bench(tmp_path, ros_environment, arm_on_start=True, robot={"emergency_stops": buttons})
    with bench as (arm, _, _), other_node(ros_environment) as node:
        button = node.create_publisher(arm.bool, "cell_stop", 10)  # volatile: nobody hears it twice
        arm.wait(lambda: button.get_subscription_count() > 0, "the guard")
        arm.wait_moving()
        button.publish(arm.bool(data=True))
        arm.wait_state("fault", "emergency_stop")
        assert arm.change_state("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE") == [True] * 4
        arm.stays(1.0)
        assert "cell_stop was pressed" in arm.arm().message
        refused = arm.reset()
        assert not refused.success and "cell_stop is still pressed" in refused.message


def test_a_cell_s_button_stops_the_arm_in_its_namespace(tmp_path: Path, ros_environment) -> None:
    buttons = [{"topic": "emergency_stop"}, {"topic": "/cell/emergency_stop"}]
    with (
        guard_bench(tmp_path, ros_environment, robot={"emergency_stops": buttons}) as (arm, _, _),
        other_node(ros_environment, "cell") as node,
    ):
        button = node.create_publisher(arm.bool, "/cell/emergency_stop", 10)
        arm.wait(lambda: button.get_subscription_count() > 0, "the guard")
        moving(arm)
        button.publish(arm.bool(data=True))
        arm.wait_state("fault", "emergency_stop")
        assert arm.states[-1]["detail"].endswith("/cell/emergency_stop was pressed")


def test_a_takeover_with_another_message_type_stops_the_arm_and_is_named(tmp_path: Path, ros_environment) -> None:
    from geometry_msgs.msg import Twist

    with guard_bench(tmp_path, ros_environment) as (arm, _, _), other_node(ros_environment, "joystick") as node:
        moving(arm)
        node.create_publisher(Twist, "takeover_twist", 10)
        arm.wait_standing()
        arm.wait_state("disarmed")
        assert "joystick publishes geometry_msgs/msg/Twist" in arm.states[-1]["detail"]


def test_takeover_twists_that_come_late_are_not_obeyed(tmp_path: Path, ros_environment) -> None:
    from rclpy.time import Time

    with guard_bench(tmp_path, ros_environment) as (arm, _, _):
        hand = arm.node.create_publisher(arm.twist, "takeover_twist", 10)
        moving(arm)
        for _ in range(40):
            message = arm.twist()
            message.header.frame_id = "base_link"
            late_ns = arm.node.get_clock().now().nanoseconds - 5 * 10**9
            message.header.stamp, message.twist.linear.x = Time(nanoseconds=late_ns).to_msg(), -0.1
            hand.publish(message)
            time.sleep(0.02)
        assert min(twist.linear_x for twist in arm.twists) >= 0.0 and arm.states[-1]["taken over"] == "False"
    assert "its stamp is 5.0" in (tmp_path / "guard.log").read_text()


def test_a_false_of_one_deadman_counts_beside_the_true_of_another(tmp_path: Path, ros_environment) -> None:
    with (
        guard_bench(tmp_path, ros_environment, require_enable=True) as (arm, _, _),
        other_node(ros_environment) as node,
    ):
        held = arm.node.create_publisher(arm.bool, "enable", 10)
        arm.node.create_timer(1 / 30, lambda: held.publish(arm.bool(data=True)))
        moving(arm)
        released = node.create_publisher(arm.bool, "enable", 10)
        arm.wait(lambda: released.get_subscription_count() > 0, "the guard")
        until_s = time.monotonic() + 2.0
        while time.monotonic() < until_s:
            released.publish(arm.bool(data=False))
            time.sleep(0.05)
        after_s = until_s - 1.5
        assert not [twist for twist in arm.twists if twist.linear_x and twist.received_s > after_s]


def test_disarming_for_a_moment_keeps_the_first_run_slow(tmp_path: Path, ros_environment) -> None:
    with guard_bench(tmp_path, ros_environment, first_run_scale=0.2) as (arm, _, _):
        arm.wait_state("disarmed")
        arm.wait_for_planner()
        assert arm.arm().message == "armed at 20% of the speed; the policy follows 'move along x'"
        arm.wait_moving(0.01)
        assert arm.arm(False).success
        arm.wait_standing()
        assert arm.arm().success
        arm.twists.clear()
        arm.wait_moving(0.01)
        assert max(twist.linear_x for twist in arm.twists) <= 0.01 + 1e-9


def test_simulated_time_without_a_clock_is_named_and_cannot_be_armed(tmp_path: Path, ros_environment) -> None:
    with guard_bench(tmp_path, ros_environment, use_sim_time=True) as (arm, _, _):
        arm.wait_state("disarmed", "clock_stopped")
        assert arm.states[-1]["detail"] == "use_sim_time is set, and nothing advances on /clock"
        refused = arm.arm()
        assert not refused.success and "/clock" in refused.message
        arm.stays(0.5)


def test_a_configure_that_fails_leaves_nothing_behind(tmp_path: Path, ros_environment) -> None:
    action = {"name": "gripper", "type": "control_msgs/action/GripperCommand", "max_effort": 20.0}
    gripper = {"topic": "gripper_command", "type": "std_msgs/msg/Float64MultiArray", "closed": 0.0, "open": 0.08}
    if importlib.util.find_spec("control_msgs") is not None:
        pytest.skip("control_msgs is installed")
    broken = {"gripper_command": {**gripper, "action": action}}
    with guard_bench(tmp_path, ros_environment, autostart=False, robot=broken) as (arm, _, _):
        arm.wait_state("unconfigured")
        for _ in range(3):
            assert arm.change_state("CONFIGURE") == [False]
        arm.wait(lambda: arm.states[-1]["reason"] == "error", "the reason")
        assert "control_msgs" in arm.states[-1]["detail"]
        time.sleep(0.5)
        assert arm.node.count_publishers("twist_command") == 0
        write_robot(tmp_path)
        assert arm.change_state("CONFIGURE", "ACTIVATE") == [True, True]
        moving(arm)
        assert arm.node.count_publishers("twist_command") == 1
        assert arm.change_state("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE") == [True] * 4
        assert arm.arm().success
        arm.twists.clear()
        arm.wait_moving()


def test_a_gripper_command_of_nan_and_a_takeover_of_nan_do_nothing(tmp_path: Path, ros_environment) -> None:
    from std_msgs.msg import Float64MultiArray

    with guard_bench(tmp_path, ros_environment) as (arm, _, _):
        gripper = arm.node.create_publisher(Float64MultiArray, "takeover_gripper", 10)
        hand = arm.node.create_publisher(arm.twist, "takeover_twist", 10)
        moving(arm)
        message: Any = arm.twist()
        message.twist.linear.x = float("nan")
        for _ in range(20):
            hand.publish(message)
            gripper.publish(Float64MultiArray(data=array.array("d", [float("nan")])))
            time.sleep(0.02)
        assert np.isfinite([twist.linear_x for twist in arm.twists]).all() and np.isfinite(arm.openings).all()
        assert arm.states[-1]["state"] == "running"
