# SPDX-License-Identifier: Apache-2.0
"""What the policy and its guard do together over DDS, with a robot that behaves and one that does not."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
import spoilt_messages as spoil
from policy_bench import CONTROL_HZ, STOP_TICKS, TIMEOUT_S, FakeRobot, policy_node, write_checkpoint, write_robot

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


def test_a_command_that_is_not_latched_is_heard(robot):
    unlatched = robot.node.create_publisher(robot._messages.text, "language_command", 10)
    robot.wait(lambda: bool(robot.states) and unlatched.get_subscription_count() > 0, "the node")
    unlatched.publish(robot._messages.text(data="move 0.04"))
    robot.wait_moving(0.04)
    robot.destroy_publisher(unlatched)


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
    robot.wait_state("disarmed")
    robot.assert_silent()  # a reset never moves the arm
    assert robot.arm(True).success
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
    missed, expired = int(robot.states[-1]["ticks missed"]), int(robot.diagnosed("guard", "chunks expired") or 0)
    robot.say("slow 0.7")
    robot.wait_state("waiting", "starved")
    assert values(robot)[-STOP_TICKS:] == [0.0] * STOP_TICKS
    robot.wait(lambda: int(robot.states[-1]["ticks missed"]) > missed, "a missed tick")
    robot.wait(lambda: int(robot.diagnosed("guard", "chunks expired") or 0) > expired, "a late chunk in diagnostics")
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
    robot.wait(lambda: robot.states[-1]["command"] == "grip 0.5", "the command")
    robot.twists.clear()
    robot.wait(lambda: len(robot.twists) >= 10, "ten more ticks")
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
    refused = robot.set_parameter("checkpoint", "another", node="policy")
    assert not refused.successful and "run the cleanup transition first" in refused.reason


def test_whatever_changes_safety_is_read_only_while_the_node_is_configured(robot):
    from vla_ros.nodes.guard.parameters import PARAMETERS as GUARD
    from vla_ros.nodes.policy.parameters import PARAMETERS as POLICY

    fixed = {spec.name for spec in GUARD if not spec.dynamic}
    safety = {"require_enable", "stop_time_s", "dry_run", "allow_other_publishers", "first_run_scale"}
    assert safety | {"resume_within_s", "heartbeat_max_age_s"} <= fixed
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    for node, specs in (("guard", GUARD), ("policy", POLICY)):
        values = {spec.name: spec.default for spec in specs if not spec.dynamic}
        for name, value in {**values, "use_sim_time": True}.items():
            refused = robot.set_parameter(name, value, node=node)
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
    robot.wait_value(lambda: robot.reset().success, "a reset")  # the release may arrive after the call
    robot.wait_state("disarmed")
    robot.assert_silent()  # a reset never moves the arm
    assert robot.arm(True).success
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
    robot.wait(lambda: robot.states[-1]["taken over"] == "True", "the state")
    message.twist.linear.x = 0.0  # the hand lets go: without this the operator would be lost
    robot.wait(lambda: values(robot)[-1] == 0.0, "a zero twist of the hand")
    timer.cancel()
    robot.wait_moving(0.05)
    robot.wait(lambda: marks == [False, True, False], "the end of the mark")
    sent = values(robot)
    after = sent[len(sent) - sent[::-1].index(-0.2) :]
    assert after[:STOP_TICKS] == [0.0] * STOP_TICKS  # handing back is a stop
    robot.destroy_publisher(hand)


def test_a_takeover_that_breaks_off_disarms(robot):
    from geometry_msgs.msg import TwistStamped

    hand = robot.node.create_publisher(TwistStamped, "takeover_twist", 1)
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    message = TwistStamped()
    message.twist.linear.x = -0.1
    timer = robot.node.create_timer(0.02, lambda: hand.publish(message))
    robot.wait(lambda: values(robot)[-1] == -0.1, "the hand's twist")
    timer.cancel()
    robot.wait_state("disarmed")
    assert robot.states[-1]["detail"].startswith("operator_lost")
    robot.assert_silent()
    robot.destroy_publisher(hand)


def test_diagnostics_name_every_stream_with_its_rate_and_what_the_guard_does(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    reports = len(robot.diagnostics)
    robot.wait(lambda: len(robot.diagnostics) >= reports + 6, "three reports of each node")
    statuses = {status.name: status for message in robot.diagnostics[reports:] for status in message.status}
    of_policy = ("transport", "policy", "camera skew", "image decoder", *(f"stream {each}" for each in STREAMS))
    of_guard = ("guard", "outputs", "operator inputs")
    assert set(statuses) == {f"/policy: {name}" for name in of_policy} | {f"/guard: {name}" for name in of_guard}
    # A busy machine may lose an image, which is a warning of its stream.
    assert {status.level for name, status in statuses.items() if "stream" not in name} == {b"\0"}
    assert {status.level for status in statuses.values()} <= {b"\0", b"\1"}
    found = {name: {pair.key: pair.value for pair in status.values} for name, status in statuses.items()}
    camera, policy, guard = (found[f"/{name}"] for name in ("policy: stream wrist", "policy: policy", "guard: guard"))
    assert float(camera["rate Hz"]) == pytest.approx(30, rel=0.2) and float(camera["age s"]) < 0.2
    assert policy["state"] == "active" and float(policy["inference p95 ms"]) < 50
    # From a camera's stamp to the plan: at least the plan's share of the age at which its first action is executed.
    assert 0 < float(policy["camera to plan p50 ms"]) < 150
    assert guard["state"] == "running" and 0 < float(guard["plan age p50 ms"]) < 100
    assert int(guard["ticks total"]) >= len(robot.twists) - 1 and "ticks limited" in guard
    outputs = found["/guard: outputs"]
    assert outputs["publishers of the command"] == "2" and outputs["gripper goals failed"] == "0"
    assert outputs["subscribers with incompatible QoS"] == "0"
    assert found["/guard: operator inputs"]["emergency_stop"] == "released"


@pytest.mark.parametrize(
    ("camera", "fields", "reason"),
    [
        ("static", {"format": "h264"}, "format 'h264' is video"),
        ("static", {"format": "16UC1; png compressed "}, "encoding '16UC1' is depth or labels"),
        ("wrist", {"encoding": "8UC3"}, "leaves the order of its channels open (rgb or bgr?)"),
        ("wrist", {"step": 1}, "the driver must publish step = "),
    ],
)
def test_what_is_no_picture_stops_the_arm_and_diagnostics_say_why_and_how_often(robot, camera, fields, reason):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    robot.spoil[camera] = spoil.changed(**fields)
    robot.wait_state("waiting", "undecodable")
    assert_stops(robot, 0.05)

    def said() -> bool:
        statuses = [status for message in robot.diagnostics[-6:] for status in message.status]
        texts = [status.message for status in statuses if status.name == f"/policy: stream {camera}"]
        return any(reason in text and "can't be decoded, at " in text for text in texts)

    robot.wait(said, f"diagnostics with {reason!r}")
    assert int(robot.diagnosed(f"stream {camera}", "undecodable at ticks") or 0) > 0
    robot.spoil.clear()
    robot.wait_moving(0.05)


def test_simulated_time_that_stops_stops_the_arm_and_one_that_is_set_back_starts_anew(ros_environment, tmp_path):
    robot = FakeRobot(int(ros_environment["ROS_DOMAIN_ID"]), clock_ns=1_000_000_000_000)
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    try:
        with policy_node(*files, ros_environment, use_sim_time=True):
            robot.ready()
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


def test_a_dry_run_says_what_it_would_do_and_cannot_move_anything(other_robot, ros_environment, tmp_path):
    from geometry_msgs.msg import TwistStamped

    robot, preview = other_robot, []
    robot.node.create_subscription(TwistStamped, "guard/preview", preview.append, 10)
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, dry_run=True):
        robot.ready()
        robot.say("move 0.9")
        robot.wait(lambda: any(message.twist.linear.x == 0.2 for message in preview), "a preview within the limits")
        publishers = robot.node.get_publishers_info_by_topic("/twist_command")
        assert [publisher.node_name for publisher in publishers] == ["robot"]  # the sentinel's alone
        assert robot.node.get_publishers_info_by_topic("/gripper_command") == []
        assert robot.states[-1]["dry run"] == "True" and robot.twists == []


def test_a_second_publisher_on_the_command_topic_stops_the_arm(other_robot, ros_environment, tmp_path):
    robot = other_robot
    robot.destroy_publisher(robot.sentinel)
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with policy_node(*files, ros_environment, allow_other_publishers=False, first_run_scale=0.5):
        robot.ready()
        robot.say("move 0.08")
        robot.wait_moving(0.04)  # half, on the first run
        robot.twists.clear()
        robot.wait_moving(0.04)
        robot.sentinel = robot.node.create_publisher(robot._messages.twist, "twist_command", 1)
        robot.wait_state("disarmed")
        assert "second_publisher: 1 other nodes publish twist_command" in robot.states[-1]["detail"]
        assert_stops(robot, 0.04)
        robot.destroy_publisher(robot.sentinel)
        robot.twists.clear()
        reports = len(robot.diagnostics)
        robot.wait(lambda: len(robot.diagnostics) >= reports + 4, "two more reports of each node")
        assert robot.twists == []  # its end moves nothing
        assert robot.arm(True).success
        robot.wait_moving(0.04)  # still: nobody but the guard has ended the first run


def test_two_arms_in_two_namespaces_do_not_hear_each_other(ros_environment, tmp_path):
    domain_id = int(ros_environment["ROS_DOMAIN_ID"])
    files = write_checkpoint(tmp_path), write_robot(tmp_path)
    with contextlib.ExitStack() as stack:
        robots = []
        for namespace in ("left", "right"):
            robots.append(FakeRobot(domain_id, namespace=namespace))
            stack.callback(robots[-1].close)
            options = {"namespace": namespace, "allow_other_publishers": False}
            robots[-1].destroy_publisher(robots[-1].sentinel)
            stack.enter_context(policy_node(*files, ros_environment, **options))
        left, right = robots
        for each in robots:
            each.ready()
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


def test_with_a_deadman_the_arm_moves_only_while_enable_says_so(other_robot, ros_environment, tmp_path):
    robot = other_robot
    robot.silent.add("enable")
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, require_enable=True):
        robot.ready()
        robot.say("move 0.05")
        robot.wait_state("waiting", "disabled")
        robot.assert_silent()
        robot.silent.clear()
        robot.wait_moving(0.05)
        robot.twists.clear()
        robot.wait_moving(0.05)
        robot.silent.add("enable")
        robot.enable.publish(robot.kind("bool")(data=False))
        robot.wait_state("waiting", "disabled")
        assert_stops(robot, 0.05)
        robot.silent.clear()
        robot.wait_moving(0.05)


def test_a_deadman_that_falls_silent_disarms_and_its_return_moves_nothing(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, require_enable=True):
        robot.ready()
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        robot.silent.add("enable")
        robot.wait_state("disarmed")
        assert robot.states[-1]["detail"] == "operator_lost"
        assert_stops(robot, 0.05)
        robot.silent.clear()
        robot.assert_silent()


def test_sigterm_of_the_policy_while_moving_stops_the_arm(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment) as process:
        robot.ready()
        robot.wait_state("waiting", "no_command")
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
        robot.wait_state("waiting")
        assert robot.states[-1]["reason"] == "inactive"
        assert_stops(robot, 0.05)


def test_a_bug_in_the_policy_s_ticks_ends_its_node_and_stops_the_arm(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment) as process:
        robot.ready()
        robot.say("move 0.05")
        robot.wait(lambda: 0.05 in values(robot), "motion")
        robot.say("bug")
        assert process.wait(TIMEOUT_S) == 1
        robot.wait(lambda: values(robot)[-1] == 0.0, "a zero twist at the end")
        robot.assert_silent()
    assert "'NoneType' object is not callable" in process.output


def test_deactivation_and_a_new_activation_over_the_lifecycle_services(other_robot, ros_environment, tmp_path):
    robot = other_robot

    def change(node: str, *names: str) -> bool:
        return all(robot.change_state(name, node) for name in names)

    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, autostart=False):
        assert not robot.arm(True).success
        for node in ("guard", "policy"):
            assert change(node, "CONFIGURE", "ACTIVATE")
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        assert change("policy", "DEACTIVATE")
        robot.wait_state("waiting", "inactive")
        assert_stops(robot, 0.05)
        assert change("policy", "CLEANUP", "CONFIGURE", "ACTIVATE")
        robot.wait_state("disarmed")  # another policy than the one that the arm was armed for
        assert robot.states[-1]["detail"] == "policy_restarted: the planner was restarted"
        assert robot.arm(True).success
        robot.wait_moving(0.05)  # the command still holds
        assert change("guard", "DEACTIVATE")
        robot.wait_state("inactive")
        robot.assert_silent()
        assert values(robot)[-2] == 0.0  # the last one before the sentinel
        assert change("guard", "CLEANUP", "CONFIGURE", "ACTIVATE")
        robot.wait_moving(0.05)  # arm_on_start


@pytest.mark.parametrize("executor", ["full_chunk", "path_following"])
def test_an_arm_is_led_back_to_the_path_of_a_chunk_that_comes_late(other_robot, ros_environment, tmp_path, executor):
    robot, checkpoint = other_robot, write_checkpoint(tmp_path)
    with policy_node(checkpoint, write_robot(tmp_path), ros_environment, executor=executor):
        robot.ready()
        robot.wait_state("waiting", "no_command")
        robot.say(f"alternate {1.3 / CONTROL_HZ}")  # where the chunk before was faster the arm has gone too far
        robot.wait(lambda: len(robot.twists) >= 40, "40 twists")
        assert (min(values(robot)) < -0.001) == (executor == "path_following")
        assert robot.states[-1]["state"] == "running"


@pytest.mark.parametrize("way", ["say it again", "arm"])
def test_a_command_from_before_the_start_is_followed_only_when_a_person_means_it(
    other_robot, ros_environment, tmp_path, way
):
    robot, (checkpoint, robot_file) = other_robot, (write_checkpoint(tmp_path), write_robot(tmp_path))
    robot.say("move 0.05")
    time.sleep(0.2)  # well before the node's start
    with policy_node(checkpoint, robot_file, ros_environment, arm_on_start=way == "say it again"):
        robot.wait(lambda: any(each["reason"] == "latched_command" for each in robot.policy_states), "latched_command")
        robot.wait_value(lambda: "say it again" in robot.policy_states[-1]["detail"], "the way out")
        robot.assert_silent()
        if way == "arm":
            assert robot.arm(True).success
        else:
            robot.say("move 0.05")
        robot.wait_moving(0.05)


def test_a_camera_that_comes_back_after_a_long_time_moves_nothing(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, resume_within_s=1.0):
        robot.ready()
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        robot.silent.add("static")
        robot.wait_state("disarmed")
        assert robot.states[-1]["detail"].startswith("stale")
        robot.silent.clear()
        robot.twists.clear()
        robot.wait_value(lambda: robot.policy_states[-1]["reason"] == "", "plans")
        robot.assert_silent()
        assert robot.arm(True).success
        robot.wait_moving(0.05)


@pytest.mark.parametrize("what", ["a model step holds Python's lock", "a command of 5 MB"])
def test_an_emergency_stop_waits_for_nothing_that_the_policy_does(other_robot, ros_environment, tmp_path, what):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment):
        robot.ready()
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        robot.say("lock 3" if "lock" in what else "move 0.05 " + "stop, " * (5 * 10**6 // 6))
        time.sleep(0.1)  # it has begun, and the plan of before is still being executed
        pressed_s = time.monotonic()
        robot.press(True)
        robot.wait_state("fault", "emergency_stop")
        last_s = max(twist.received_s for twist in robot.twists if twist.linear_x)
        assert last_s - pressed_s < 0.02 + 0.05  # and what a loaded machine adds


def test_a_command_that_is_far_too_long_stops_the_arm(other_robot, ros_environment, tmp_path):
    robot = other_robot
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment) as process:
        robot.ready()
        robot.say("move 0.05")
        robot.wait_moving(0.05)
        robot.say("move 0.05 " + "x" * 5_000_000)
        robot.wait_state("waiting", "no_command")
        assert_stops(robot, 0.05)
        robot.say("move 0.03")
        robot.wait_moving(0.03)
    assert "a command may have 2000 characters" in process.output


def test_an_emergency_stop_that_is_pressed_while_the_model_loads_is_heard(other_robot, ros_environment, tmp_path):
    robot, checkpoint = other_robot, write_checkpoint(tmp_path)
    (checkpoint / "load_s").write_text("3")
    with policy_node(checkpoint, write_robot(tmp_path), ros_environment):
        robot.wait_value((checkpoint / "loading").exists, "a model that loads")
        robot.wait(lambda: bool(robot.states), "the guard")
        robot.press(True)
        robot.ready()
        robot.say("move 0.05")
        robot.wait(lambda: robot.states[-1]["command"] == "move 0.05", "the command")
        robot.assert_silent()
        assert not robot.arm(True).success and not robot.reset().success


def test_a_policy_in_doubt_does_not_wear_out_the_gripper(robot):
    robot.say("flap")
    robot.wait(lambda: len(robot.openings) >= 2, "two commands")
    begun_s, count = time.monotonic(), len(robot.openings)
    robot.wait(lambda: len(robot.openings) >= count + 4, "four more")
    assert time.monotonic() - begun_s > 3 * 0.5 and set(robot.openings) == {0.0, 0.08}
