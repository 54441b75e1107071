# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process, a robot in this one, and DDS between them."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from vla_ros import images
from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.nodes import policy_node as policy_node_module

pytestmark = pytest.mark.ros

CONTROL_HZ = 20.0
STOP_TICKS = 4
TIMEOUT_S = 20.0
FAKE_NODE = Path(__file__).with_name("fake_policy_node.py")


def contract() -> PolicyContract:
    names = ("ee_x", "gripper_opening")
    return PolicyContract(
        cameras=(Camera("static", 16, 16), Camera("wrist", 16, 16)),
        proprioception=Proprioception(names, ("m", "1"), (0.0, 0.0), (1.0, 1.0)),
        language=Language("{command}", "none", 8),
        timing=Timing(CONTROL_HZ, 2, 8),
        action=ActionSpace((-1.0,) * 6, (1.0,) * 6),
        provenance=Provenance("none", "0", "none", "none", "0"),
    )


def write_robot(folder: Path) -> Path:
    header = {"stamp": "header"}
    raw, compressed = ({"type": f"sensor_msgs/msg/{kind}", **header} for kind in ("Image", "CompressedImage"))
    robot = {
        "name": "test",
        "base_frame": "base_link",
        "cameras": {"static": {"topic": "camera/static", **compressed}, "wrist": {"topic": "camera/wrist", **raw}},
        "language": {"topic": "language_command", "type": "std_msgs/msg/String", "stamp": "receive"},
        "ee_pose": {"topic": "ee_pose", "type": "geometry_msgs/msg/PoseStamped", **header},
        "gripper_state": {
            "topic": "joint_states", "type": "sensor_msgs/msg/JointState", **header,
            "joints": ["finger"], "closed": 0.0, "open": 0.04,
        },
        "twist_command": {"topic": "twist_command", "type": "geometry_msgs/msg/TwistStamped", **header},
        "demonstrated_twist": {"topic": "twist_command", "type": "geometry_msgs/msg/TwistStamped", **header},
        "gripper_command": {
            "topic": "gripper_command", "type": "std_msgs/msg/Float64MultiArray", "closed": 0.0, "open": 0.08,
        },
        "limits": {
            "linear_mps": 0.2, "angular_radps": 1.0, "linear_mps2": 100.0, "angular_radps2": 100.0,
            "linear_mps3": 1e4, "angular_radps3": 1e4,
            "workspace_min_m": [0.0, -0.5, 0.0], "workspace_max_m": [1.0, 0.5, 1.0],
        },
        "observation": {"max_age_s": 0.2, "max_skew_s": 0.15, "frozen_s": None},
    }  # fmt: skip
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(robot))
    return path


def write_checkpoint(folder: Path) -> Path:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    contract().save(checkpoint / "contract.json")
    return checkpoint


@dataclasses.dataclass
class Twist:
    received_s: float
    linear_x: float
    frame: str
    stamp_ns: int


class FakeRobot:
    """Publishes the observations at 30 Hz and keeps what the policy node sends.

    With `clock_ns` its time is simulated, starts there, and is published on /clock; set it to make that clock jump.
    """

    def __init__(self, domain_id: int, clock_ns: int | None = None) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import PoseStamped, TwistStamped
        from rclpy.executors import SingleThreadedExecutor
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CompressedImage, Image, JointState
        from std_msgs.msg import Bool, Float64MultiArray, String
        from std_srvs.srv import SetBool, Trigger

        from vla_ros.nodes.message_types import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS

        self.clock_ns = clock_ns
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.twists: list[Twist] = []
        self.openings: list[float] = []
        self.states: list[dict] = []
        self.diagnostics: list = []
        self._changed = threading.Condition()
        self._pixels = np.zeros((16, 16, 3), np.uint8)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.node = node = rclpy.create_node("robot", context=self.context)
        self._messages = SimpleNamespace(
            clock=Clock, compressed=CompressedImage, raw=Image, pose=PoseStamped, joints=JointState, text=String,
            twist=TwistStamped, bool=Bool,
        )  # fmt: skip
        self.clock = node.create_publisher(Clock, "/clock", 10)
        self.static = node.create_publisher(CompressedImage, "camera/static", SENSOR_QOS)
        self.wrist = node.create_publisher(Image, "camera/wrist", SENSOR_QOS)
        self.enable = node.create_publisher(Bool, "enable", 10)
        self.pose = node.create_publisher(PoseStamped, "ee_pose", 10)
        self.joints = node.create_publisher(JointState, "joint_states", 10)
        self.language = node.create_publisher(String, "language_command", LATCHED_QOS)
        self.sentinel = node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)
        node.create_subscription(TwistStamped, "twist_command", self._on_twist, 100)
        node.create_subscription(
            Float64MultiArray, "gripper_command", self._keep(self.openings, lambda message: message.data[0]), 10
        )
        node.create_subscription(
            String, "policy/state", self._keep(self.states, lambda message: json.loads(message.data)), LATCHED_QOS
        )
        keep = self._keep(self.diagnostics, lambda message: message)
        node.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
        self.arm_client = node.create_client(SetBool, "policy/arm")
        self.reset_client = node.create_client(Trigger, "policy/reset")
        node.create_timer(1 / 30, self._publish)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()

    def say(self, text: str) -> None:
        self.language.publish(self._messages.text(data=text))

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"{what}: not within {timeout_s} s; {self.states[-3:]}"

    def wait_state(self, state: str, reason: str | None = None) -> None:
        def reached() -> bool:
            last = self.states[-1] if self.states else {}
            return last.get("state") == state and (reason is None or last.get("reason") == reason)

        self.wait(reached, f"state {state} {reason or ''}")

    def wait_moving(self, linear_x: float) -> None:
        self.wait(lambda: bool(self.twists) and abs(self.twists[-1].linear_x - linear_x) < 1e-9, f"twist {linear_x}")
        self.wait_state("running")

    def assert_silent(self) -> None:
        """The node goes on reporting, and sends no twist meanwhile: the next one here is this test's own."""
        start, reports = len(self.twists), len(self.diagnostics)
        self.wait(lambda: len(self.diagnostics) >= reports + 2, "two more reports")
        message = self._messages.twist()
        message.twist.linear.x = 77.0
        self.sentinel.publish(message)
        self.wait(lambda: any(twist.linear_x == 77.0 for twist in self.twists[start:]), "the sentinel")
        assert [twist.linear_x for twist in self.twists[start:]] == [77.0]

    def call(self, client, request) -> object:
        assert client.wait_for_service(TIMEOUT_S)
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(TIMEOUT_S)
        return future.result()

    def arm(self, armed: bool):
        from std_srvs.srv import SetBool

        return self.call(self.arm_client, SetBool.Request(data=armed))

    def reset(self):
        from std_srvs.srv import Trigger

        return self.call(self.reset_client, Trigger.Request())

    def idle(self) -> None:
        """Back to rest for the next test."""
        self.silent.clear()
        self.broken.clear()
        self.say("")
        self.reset()
        self.arm(True)
        self.wait_state("waiting", "no_command")
        self.twists.clear()
        self.openings.clear()

    def _publish(self) -> None:
        kinds, stamp = self._messages, self._stamp()
        self._pixels = self._pixels + np.uint8(1)
        if "static" not in self.silent:
            message = kinds.compressed(format="jpeg", data=array.array("B", images.encode_jpeg(self._pixels)))
            message.header.stamp = stamp
            self.static.publish(message)
        if "wrist" not in self.silent:
            message = kinds.raw(height=16, width=16, encoding="bgr8", step=48)
            message.header.stamp, message.data = stamp, array.array("B", self._pixels.tobytes())
            self.wrist.publish(message)
        if "ee_pose" not in self.silent:
            message = kinds.pose()
            message.header.stamp, message.header.frame_id = stamp, "base_link"
            message.pose.position.x, message.pose.position.z = 0.5, 0.5
            if "ee_pose" in self.broken:
                message.pose.position.x = float("nan")
            self.pose.publish(message)
        if "joint_states" not in self.silent:
            message = kinds.joints(name=["elbow", "finger"], position=[1.0, 0.02])
            if "joint_states" in self.broken:
                message.position = []
            message.header.stamp = stamp
            self.joints.publish(message)
        if "enable" not in self.silent:
            self.enable.publish(kinds.bool(data=True))

    def _stamp(self):
        from rclpy.time import Time

        if self.clock_ns is None:
            return self.node.get_clock().now().to_msg()
        if "clock" not in self.silent:
            self.clock_ns += 33_000_000
            self.clock.publish(self._messages.clock(clock=Time(nanoseconds=self.clock_ns).to_msg()))
        return Time(nanoseconds=self.clock_ns).to_msg()

    def _on_twist(self, message) -> None:
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        with self._changed:
            self.twists.append(Twist(time.monotonic(), message.twist.linear.x, message.header.frame_id, stamp_ns))
            self._changed.notify_all()

    def _keep(self, values: list, convert: Callable) -> Callable:
        def receive(message) -> None:
            with self._changed:
                values.append(convert(message))
                self._changed.notify_all()

        return receive


@contextlib.contextmanager
def policy_node(
    checkpoint: Path, robot_file: Path, environment: dict, *, script: Path = FAKE_NODE, autostart=True, **parameters
) -> Iterator[subprocess.Popen]:
    parameters = {
        "checkpoint": checkpoint, "robot": robot_file, "autostart": autostart, "arm_on_start": True,
        "stop_ticks": STOP_TICKS, "gripper_debounce_ticks": 1,
        "allow_other_publishers": True,  # the sentinel's
        **parameters,
    }  # fmt: skip
    assignments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={yaml_value(value)}")]
    command = [sys.executable, str(script), "--ros-args", *assignments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.output = process.communicate(timeout=TIMEOUT_S)[0]
            print(process.output)  # pytest shows it when a test fails
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def yaml_value(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


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


def test_inference_slower_than_the_chunk_stops_the_arm_and_is_counted(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    missed = robot.states[-1]["ticks"]["missed"]
    robot.say("slow 0.7")
    robot.wait_state("waiting", "starved")
    assert values(robot)[-STOP_TICKS:] == [0.0] * STOP_TICKS
    robot.wait(lambda: robot.states[-1]["ticks"]["missed"] > missed, "a missed tick")


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
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    client = robot.node.create_client(SetParameters, "policy/set_parameters")

    def set_parameter(name: str, value) -> object:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return robot.call(client, request).results[0]

    robot.say("move 0.08")
    robot.wait_moving(0.08)
    assert set_parameter("speed_scale", 0.5).successful
    robot.wait_moving(0.04)
    assert not set_parameter("speed_scale", 1.5).successful
    assert set_parameter("speed_scale", 1.0).successful
    refused = set_parameter("checkpoint", "another")
    assert not refused.successful and "clean the node up first" in refused.reason


def test_diagnostics_name_every_stream_with_its_rate_and_the_policy_s_latency(robot):
    robot.say("move 0.05")
    robot.wait_moving(0.05)
    reports = len(robot.diagnostics)
    robot.wait(lambda: len(robot.diagnostics) >= reports + 3, "three reports")
    statuses = {status.name: status for status in robot.diagnostics[-1].status}
    assert set(statuses) == {
        f"/policy: {name}"
        for name in ("transport", "policy", "stream static", "stream wrist", "stream ee_pose", "stream gripper_state")
    }
    camera = {pair.key: pair.value for pair in statuses["/policy: stream wrist"].values}
    assert float(camera["rate Hz"]) == pytest.approx(30, rel=0.2) and float(camera["age s"]) < 0.2
    policy = {pair.key: pair.value for pair in statuses["/policy: policy"].values}
    assert policy["state"] == "running" and float(policy["inference p95 ms"]) < 50
    assert statuses["/policy: transport"].level == b"\0"


def test_simulated_time_that_stops_stops_the_arm_and_one_that_is_set_back_starts_anew(ros_environment, tmp_path):
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


def test_with_a_deadman_the_arm_moves_only_while_enable_says_so(other_robot, ros_environment, tmp_path):
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
    assert "policy has no parameter require_enabel; it has: " in process.output
    assert "require_enable," in process.output and "Traceback" not in process.output


def test_a_checkpoint_without_weights_ends_the_node_with_a_line_that_names_the_file(ros_environment, tmp_path):
    node = Path(policy_node_module.__file__)
    with policy_node(write_checkpoint(tmp_path), write_robot(tmp_path), ros_environment, script=node) as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "model.safetensors" in process.output and "Traceback" not in process.output
