# SPDX-License-Identifier: Apache-2.0
"""What the policy node does over DDS, with a robot that behaves and one that does not."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from policy_bench import CONTROL_HZ, STOP_TICKS, TIMEOUT_S, FakeRobot, policy_node, write_checkpoint, write_robot

from vla_ros.nodes.policy import node as policy_node_module

pytestmark = pytest.mark.ros

STREAMS = ("static", "wrist", "ee_pose", "gripper_state")


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[FakeRobot]:
    """One node for all tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("policy")
    robot = FakeRobot(int(os.environ["ROS_DOMAIN_ID"]))
    try:
        with policy_node(write_checkpoint(folder), write_robot(folder), dict(os.environ)):
            robot.wait_state("waiting", "no_command")
            yield robot
    finally:
        robot.close()


@pytest.fixture
def other_robot(ros_environment) -> Iterator[FakeRobot]:
    """A robot for a node of the test's own, in another ROS domain."""
    robot = FakeRobot(int(ros_environment["ROS_DOMAIN_ID"]))
    yield robot
    robot.close()


@pytest.fixture
def robot(running) -> FakeRobot:
    running.idle()
    return running


def values(robot: FakeRobot) -> list[float]:
    return [twist.linear_x for twist in robot.twists]


def policy_values(robot: FakeRobot) -> dict[str, str]:
    """What the newest diagnostics say of the policy."""
    statuses = robot.diagnostics[-1].status if robot.diagnostics else []
    return {v.key: v.value for status in statuses if status.name.endswith("policy") for v in status.values}


def assert_stops(robot: FakeRobot, speed: float) -> None:
    """Speed until the stop, then exactly the zero twists of one stop, and silence."""
    robot.assert_silent()
    sent = values(robot)[:-1]  # without the sentinel
    assert sent[-STOP_TICKS:] == [0.0] * STOP_TICKS
    assert set(sent[:-STOP_TICKS]) == {speed}


def test_a_command_moves_the_arm_at_the_control_rate(robot):
    robot.say("move 0.05")
    robot.wait(lambda: len(robot.twists) >= 20, "20 twists")
    assert set(values(robot)) == {0.05}
    assert {twist.frame for twist in robot.twists} == {"base_link"}
    intervals_s = np.diff([twist.received_s for twist in robot.twists])
    assert np.median(intervals_s) == pytest.approx(1 / CONTROL_HZ, rel=0.1)


def test_twists_are_stamped_on_the_grid_at_publish(robot):
    robot.say("move 0.05")
    robot.wait(lambda: len(robot.twists) >= 20, "20 twists")
    period_ns = 10**9 / CONTROL_HZ
    phases_ms = sorted((twist.stamp_ns % period_ns) / 1e6 for twist in robot.twists)
    assert phases_ms[len(phases_ms) // 2] < 10.0


def test_speed_is_limited_to_the_robot_file(robot):
    robot.say("move 0.9")
    robot.wait_moving(0.2)
    robot.wait(lambda: sum(twist.linear_x > 0.199 for twist in robot.twists) >= 10, "ten twists at the limit")
    assert max(twist.linear_x for twist in robot.twists) <= 0.2 + 1e-9


@pytest.mark.parametrize("camera", ["static", "wrist"])
def test_a_silent_camera_stops_the_arm_and_its_return_moves_it_again(robot, camera):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.silent.add(camera)
    silenced_s = time.monotonic()
    robot.wait_state("waiting", "stale")
    assert_stops(robot, 0.05)
    last_motion_s = max(twist.received_s for twist in robot.twists if twist.linear_x == 0.05)
    assert last_motion_s - silenced_s < 0.2 + 3 / CONTROL_HZ  # max_age_s and a few control periods
    robot.silent.clear()
    robot.wait_moving(0.05)


@pytest.mark.parametrize("stream", ["ee_pose", "joint_states"])
def test_a_silent_state_stops_the_arm(robot, stream):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.silent.add(stream)
    robot.wait_state("waiting")
    assert_stops(robot, 0.05)


@pytest.mark.parametrize("stream", ["ee_pose", "joint_states"])
def test_a_state_without_numbers_stops_the_arm_and_its_return_moves_it_again(robot, stream):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.broken.add(stream)
    robot.wait_state("waiting")
    assert_stops(robot, 0.05)
    robot.broken.clear()
    robot.wait_moving(0.05)


def test_a_volatile_command_is_received(robot):
    unlatched = robot.node.create_publisher(robot._messages.text, "language_command", 10)
    robot.wait(lambda: bool(robot.states) and unlatched.get_subscription_count() > 0, "the node")
    unlatched.publish(robot._messages.text(data="move 0.04"))
    robot.wait_moving(0.04)
    robot.node.destroy_publisher(unlatched)


def test_an_empty_command_stops_the_arm(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.say("")
    robot.wait_state("waiting", "no_command")
    assert_stops(robot, 0.05)


@pytest.mark.parametrize(("command", "reason"), [("nan", "non_finite"), ("fail", "policy_error")])
def test_a_broken_policy_stops_the_arm_until_it_is_reset(robot, command, reason):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.say(command)
    robot.wait_state("fault", reason)
    assert_stops(robot, 0.05)
    robot.say("move 0.03")
    robot.assert_silent()
    assert robot.reset().success
    robot.wait_moving(0.03)


def test_a_new_command_takes_effect_within_a_chunk_and_without_a_stop(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    said_s = time.monotonic()
    robot.say("move -0.05")
    robot.wait_moving(-0.05)
    assert robot.twists[-1].received_s - said_s < 8 / CONTROL_HZ
    assert 0.0 not in values(robot)


def test_inference_slower_than_the_chunk_stops_the_arm_is_counted_and_moves_it_again_when_it_is_fast(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    missed = robot.states[-1]["ticks"]["missed"]
    robot.say("slow 0.7")
    robot.wait_state("waiting", "starved")
    assert values(robot)[-STOP_TICKS:] == [0.0] * STOP_TICKS
    robot.wait(lambda: robot.states[-1]["ticks"]["missed"] > missed, "a missed tick")
    robot.wait(lambda: int(policy_values(robot).get("chunks expired", 0)) > 0, "a late chunk in the diagnostics")
    stopped = len(robot.twists)
    robot.say("move 0.08")
    robot.wait_moving(0.08)
    assert 0.05 not in values(robot)[stopped:], "a chunk that was too late moved the arm"


def test_the_gripper_is_commanded_on_change_in_the_actuator_s_unit(robot):
    robot.say("grip 1.0")
    robot.wait(lambda: robot.openings == [0.08], "open")
    robot.say("grip 0.1")
    robot.wait(lambda: robot.openings == [0.08, 0.0], "closed")
    robot.say("grip 0.5")
    ticks = robot.states[-1]["ticks"]["total"]
    robot.wait(lambda: robot.states[-1]["ticks"]["total"] > ticks, "more ticks")
    assert robot.openings == [0.08, 0.0]


def test_disarming_stops_the_arm_and_arming_moves_it_again(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    assert robot.arm(False).success
    robot.wait_state("disarmed")
    assert_stops(robot, 0.05)
    assert robot.arm(True).success
    robot.wait_moving(0.05)


def test_speed_scale_may_change_while_running_and_the_checkpoint_may_not(robot):
    robot.say("move 0.08")
    robot.wait_moving(0.08)
    assert robot.set_parameter("speed_scale", 0.5).successful
    robot.wait_moving(0.04)
    assert not robot.set_parameter("speed_scale", 1.5).successful
    assert robot.set_parameter("speed_scale", 1.0).successful
    refused = robot.set_parameter("checkpoint", "another")
    assert not refused.successful and "run the cleanup transition first" in refused.reason


def test_whatever_changes_safety_is_read_only_while_the_node_is_armed(robot):
    from vla_ros.nodes.policy.parameters import PARAMETERS

    fixed = {spec.name: spec.default for spec in PARAMETERS if not spec.dynamic}
    assert {"require_enable", "stop_ticks", "dry_run", "allow_other_publishers", "first_run_scale"} <= set(fixed)
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    for name, value in {**fixed, "use_sim_time": True}.items():
        refused = robot.set_parameter(name, value)
        assert not refused.successful and "run the cleanup transition first" in refused.reason, name
    robot.twists.clear()
    robot.wait_moving(0.05)


def test_an_emergency_stop_holds_until_it_is_released_and_reset(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.press(True)
    robot.wait_state("fault", "emergency_stop")
    assert_stops(robot, 0.05)
    refused = robot.reset()
    assert not refused.success and "still pressed" in refused.message
    robot.press(False)
    robot.assert_silent()
    assert robot.reset().success
    robot.wait_moving(0.05)


def test_whoever_takes_over_moves_the_arm_within_its_limits_and_the_bag_can_tell(robot):
    from geometry_msgs.msg import TwistStamped
    from std_msgs.msg import Bool

    from vla_ros.nodes.common.qos import LATCHED_QOS

    marks: list[bool] = []
    robot.node.create_subscription(Bool, "intervention", lambda message: marks.append(message.data), LATCHED_QOS)
    hand = robot.node.create_publisher(TwistStamped, "takeover_twist", 1)
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    message = TwistStamped()
    message.twist.linear.x = -0.9
    timer = robot.node.create_timer(0.02, lambda: hand.publish(message))
    robot.wait(lambda: values(robot)[-1] == -0.2, "the hand's twist, limited")
    robot.wait(lambda: marks == [False, True], "the mark")
    assert robot.states[-1]["taken_over"] or robot.wait(lambda: robot.states[-1]["taken_over"], "the state") is None
    robot.node.destroy_timer(timer)
    robot.wait_moving(0.05)
    robot.wait(lambda: marks == [False, True, False], "the end of the mark")
    sent = values(robot)
    after = sent[len(sent) - sent[::-1].index(-0.2) :]
    assert after[:STOP_TICKS] == [0.0] * STOP_TICKS  # handing back is a stop
    robot.node.destroy_publisher(hand)


def test_diagnostics_name_every_stream_with_its_rate_and_the_policy_s_latency(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    reports = len(robot.diagnostics)
    robot.wait(lambda: len(robot.diagnostics) >= reports + 3, "three reports")
    statuses = {status.name: status for status in robot.diagnostics[-1].status}
    assert set(statuses) == {
        f"/policy: {name}"
        for name in (
            "transport", "policy", "outputs", "operator inputs", "camera skew", *(f"stream {each}" for each in STREAMS)
        )
    }  # fmt: skip
    camera = {pair.key: pair.value for pair in statuses["/policy: stream wrist"].values}
    assert float(camera["rate Hz"]) == pytest.approx(30, rel=0.2) and float(camera["age s"]) < 0.2
    policy = {pair.key: pair.value for pair in statuses["/policy: policy"].values}
    assert policy["state"] == "running" and float(policy["inference p95 ms"]) < 50
    # Up to a frame's time and a tick, and never less than the plan's age, which counts from the tick that looked.
    traced_ms, plan_ms = float(policy["camera to twist p50 ms"]), float(policy["plan age p50 ms"])
    assert plan_ms <= traced_ms < plan_ms + 100
    assert statuses["/policy: transport"].level == b"\0"


def test_simulated_time_that_stops_stops_the_arm_and_set_back_it_starts_over(ros_environment, tmp_path):
    robot = FakeRobot(int(ros_environment["ROS_DOMAIN_ID"]), clock_ns=1_000_000_000_000)
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    try:
        with policy_node(*files, ros_environment, use_sim_time=True):
            robot.wait_state("waiting", "no_command")
            robot.say("move 0.05")
            robot.wait_moving(0.05)
            robot.silent.add("clock")
            robot.wait_state("waiting", "clock_stopped")
            assert_stops(robot, 0.05)
            robot.clock_ns = 5_000_000_000
            robot.silent.clear()
            robot.wait_moving(0.05)
    finally:
        robot.close()


def test_a_dry_run_publishes_previews_and_cannot_move_anything(other_robot, ros_environment, tmp_path):
    from geometry_msgs.msg import TwistStamped

    robot, preview = other_robot, []
    robot.node.create_subscription(TwistStamped, "policy/preview", preview.append, 10)
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, dry_run=True):
        robot.say("move 0.9")
        robot.wait(lambda: any(message.twist.linear.x == 0.2 for message in preview), "a preview within the limits")
        publishers = robot.node.get_publishers_info_by_topic("/twist_command")
        assert [publisher.node_name for publisher in publishers] == ["robot"]  # the sentinel's alone
        assert "policy" not in {info.node_name for info in robot.node.get_publishers_info_by_topic("/gripper_command")}
        assert robot.states[-1]["dry_run"] and robot.twists == []


def test_a_second_publisher_on_the_command_topic_stops_the_arm(other_robot, ros_environment, tmp_path):
    robot = other_robot
    robot.node.destroy_publisher(robot.sentinel)
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with policy_node(*files, ros_environment, allow_other_publishers=False, first_run_scale=0.5):
        robot.say("move 0.08")
        robot.wait_moving(0.04)  # half, on the first run
        robot.sentinel = robot.node.create_publisher(robot._messages.twist, "twist_command", 1)
        robot.wait_state("waiting", "second_publisher")
        assert_stops(robot, 0.04)
        robot.node.destroy_publisher(robot.sentinel)
        robot.wait_moving(0.04)


def test_two_arms_in_two_namespaces_do_not_hear_each_other(ros_environment, tmp_path):
    domain_id = int(ros_environment["ROS_DOMAIN_ID"])
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with contextlib.ExitStack() as stack:
        robots = []
        for namespace in ("left", "right"):
            robots.append(FakeRobot(domain_id, namespace=namespace))
            stack.callback(robots[-1].close)
            options = {"namespace": namespace, "allow_other_publishers": False}
            robots[-1].node.destroy_publisher(robots[-1].sentinel)
            stack.enter_context(policy_node(*files, ros_environment, **options))
        left, right = robots
        right.wait_state("waiting", "no_command")
        left.say("move 0.05")
        left.wait_moving(0.05)
        assert right.twists == [] and right.states[-1]["reason"] == "no_command"
        right.say("move 0.03")
        right.wait_moving(0.03)
        left.press(True)
        left.wait_state("fault", "emergency_stop")
        count = len(right.twists)
        right.wait(lambda: len(right.twists) >= count + 10, "ten more twists")
        assert {twist.linear_x for twist in right.twists[count:]} == {0.03}


def test_with_a_deadman_the_arm_moves_only_while_enable_is_true(other_robot, ros_environment, tmp_path):
    robot = other_robot
    robot.silent.add("enable")
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, require_enable=True):
        robot.say("move 0.05")
        robot.wait_state("waiting", "disabled")
        robot.assert_silent()
        robot.silent.clear()
        robot.wait_moving(0.05)
        robot.twists.clear()
        robot.silent.add("enable")
        robot.wait_state("waiting", "disabled")
        assert_stops(robot, 0.05)


def test_sigterm_while_moving_sends_zero_twists_last(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment) as process:
        robot.wait_state("waiting", "no_command")
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    robot.wait(lambda: values(robot)[-1] == 0.0, "a zero twist at the end")


def test_a_bug_in_the_control_loop_sends_zero_twists_last_and_ends_the_node(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment) as process:
        robot.say("move 0.05")
        robot.wait(lambda: 0.05 in values(robot), "motion")
        robot.say("bug")
        assert process.wait(TIMEOUT_S) == 1
    assert "'NoneType' object is not callable" in process.output
    robot.wait(lambda: values(robot)[-1] == 0.0, "a zero twist at the end")


def test_deactivation_and_a_new_activation_over_the_lifecycle_services(other_robot, ros_environment, tmp_path):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    robot = other_robot
    client = robot.node.create_client(ChangeState, "policy/change_state")

    def change(transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return robot.call(client, request).success

    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, autostart=False):
        assert not robot.arm(True).success
        assert change(Transition.TRANSITION_CONFIGURE) and change(Transition.TRANSITION_ACTIVATE)
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        assert change(Transition.TRANSITION_DEACTIVATE)
        robot.wait_state("inactive")
        robot.assert_silent()
        assert values(robot)[-2] == 0.0  # the last one before the sentinel
        assert change(Transition.TRANSITION_CLEANUP) and change(Transition.TRANSITION_CONFIGURE)
        assert change(Transition.TRANSITION_ACTIVATE)
        robot.wait_moving(0.05)  # the command still holds


def test_a_misspelt_parameter_ends_the_node_with_a_line_that_names_it(ros_environment, tmp_path):
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with policy_node(*files, ros_environment, require_enabel=True) as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "policy has no parameter require_enabel; its parameters are " in process.output
    assert "require_enable," in process.output and "Traceback" not in process.output


@pytest.mark.parametrize("executor", ["full_chunk", "path_following"])
def test_an_arm_is_led_back_to_the_path_of_a_chunk_that_comes_late(other_robot, ros_environment, tmp_path, executor):
    robot, checkpoint = other_robot, write_checkpoint(tmp_path)
    with policy_node(checkpoint, write_robot(tmp_path), ros_environment, executor=executor):
        robot.wait_state("waiting", "no_command")
        robot.say(f"alternate {1.3 / CONTROL_HZ}")  # where the chunk before was faster the arm has gone too far
        robot.wait(lambda: len(robot.twists) >= 40, "40 twists")
        assert (min(values(robot)) < -0.001) == (executor == "path_following")
        assert robot.states[-1]["state"] == "running"


def test_the_executor_of_version_0_1_that_is_gone_ends_the_node_with_the_way_out(ros_environment, tmp_path):
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with policy_node(*files, ros_environment, executor="delay_aware") as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "got 'delay_aware'; use path_following" in process.output and "Traceback" not in process.output


def test_a_checkpoint_without_weights_ends_the_node_with_a_line_that_names_the_file(ros_environment, tmp_path):
    node = Path(policy_node_module.__file__)
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, script=node) as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "model.safetensors" in process.output and "Traceback" not in process.output
