# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The simulated robot as a process, commanded over DDS."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import PoseStamped, TwistStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64MultiArray

from vla_ros import bringup
from vla_ros.imaging.compressed import decode_compressed
from vla_ros.imaging.raw import decode_raw
from vla_ros.nodes.clients.services import RemoteSimulator, ServiceError
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS
from vla_ros.nodes.simulator.messages import parse_state, state_time_ns
from vla_ros.observations import messages
from vla_ros.sim.env import TabletopEnv

STEP_S = 0.02


class Arm:
    """The simulator on a simulated clock slower than real time, so that a busy machine does not matter."""

    def __init__(self, graph) -> None:
        self.graph = graph
        graph.start(bringup.simulator(publish_clock=True, real_time_factor=0.5))
        self.poses = graph.listen(PoseStamped, "ee_pose")
        self.joints = graph.listen(JointState, "joint_states")
        self.success = graph.listen(Bool, "task/success", LATCHED_QOS)
        self.clocks = graph.listen(Clock, "/clock", SENSOR_QOS)
        self.states = graph.listen(Float64MultiArray, "simulator/state")
        self.twist = graph.node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)
        self.gripper = graph.node.create_publisher(Float64MultiArray, "gripper_command", COMMAND_QOS)
        self.simulator = RemoteSimulator(graph.node)
        graph.wait(lambda: self.poses and self.twist.get_subscription_count(), "a running simulator")

    def time_s(self) -> float:
        return messages.stamp_ns(self.poses[-1]) / 1e9

    def wait_s(self, duration_s: float) -> None:
        until_s = self.time_s() + duration_s
        self.graph.wait(lambda: self.time_s() >= until_s, f"{duration_s} s of simulated time")

    def position(self) -> np.ndarray:
        return messages.pose(self.poses[-1])[:3]

    def height_at(self, time_s: float) -> float:
        return messages.pose(min(self.poses, key=lambda pose: abs(messages.stamp_ns(pose) / 1e9 - time_s)))[2]

    def send(self, z_mps: float, frame: str = "base_link") -> None:
        message = TwistStamped()
        message.header.frame_id = frame
        message.twist.linear.z = z_mps
        self.twist.publish(message)


@pytest.fixture(scope="module")
def arm(make_module_graph) -> Arm:
    return Arm(make_module_graph())


def test_the_arm_follows_twists_and_stops_without_them(arm):
    arm.simulator.reset("pick_up_red", 1)
    arm.wait_s(0.2)
    for _ in range(4):
        arm.send(0.1)
        arm.wait_s(0.1)
    last_s = arm.time_s() - 0.1  # when the last twist was sent
    arm.wait_s(0.6)
    assert arm.height_at(last_s + 0.18) - arm.height_at(last_s + 0.08) == pytest.approx(0.01, abs=0.005)
    stopped_s = last_s + 0.2 + 4 * STEP_S
    assert abs(arm.height_at(last_s + 0.55) - arm.height_at(stopped_s)) < 3e-3  # otherwise 27 mm further
    travelled_m = arm.height_at(last_s + 0.55) - arm.height_at(last_s - 0.35)
    assert travelled_m == pytest.approx(0.1 * (0.3 + 0.2), abs=0.015)


def test_a_twist_in_another_frame_is_ignored(arm):
    arm.simulator.reset("pick_up_red", 1)
    arm.wait_s(0.2)
    before = arm.position()
    arm.send(0.2, frame="tool0")
    arm.gripper.publish(Float64MultiArray(data=[0.0]))  # after the twist: closed fingers prove that it was read
    arm.graph.wait(lambda: sum(arm.joints[-1].position[7:9]) < 0.01, "closed fingers")
    np.testing.assert_allclose(arm.position(), before, atol=1e-3)
    assert "tool0" in arm.graph.group.log("simulator").read_text()


def test_reset_creates_the_scene_of_the_seed_and_returns_a_command(arm):
    first = arm.simulator.reset("push_left_green", 7)
    arm.wait_s(0.1)
    state = parse_state(arm.states[-1])
    assert first["task"] == "push_left_green" and "green" in first["command"]
    env = TabletopEnv(render=False)
    env.reset(seed=7, options={"task": "push_left_green"})
    for color, position in env.state().block_positions.items():
        np.testing.assert_allclose(state.block_positions[color][:2], position[:2], atol=1e-3)
    assert arm.success[-1].data is False


def test_success_is_published_and_cleared_by_a_reset(arm):
    reset = arm.simulator.reset("close_drawer", 2)
    arm.graph.wait(lambda: state_time_ns(arm.states[-1]) > reset["time_ns"], "a state of the new scene")
    drawer_m = parse_state(arm.states[-1]).drawer_m
    assert drawer_m > 0.01 and arm.success[-1].data is False
    count = len(arm.success)
    demonstrate(arm, "close_drawer")
    arm.graph.wait(lambda: len(arm.success) > count and arm.success[-1].data, "success")
    arm.simulator.reset("close_drawer", 3)
    arm.graph.wait(lambda: not arm.success[-1].data, "no success after a reset")


def demonstrate(arm: Arm, task: str) -> None:
    """Drive the arm by the expert, from the state topic to the command topics."""
    from vla_ros.sim.expert import Expert
    from vla_ros.sim.tasks import TASKS

    expert, seen, deadline = Expert(TASKS[task]), 0, time.monotonic() + 30
    while not arm.success[-1].data and time.monotonic() < deadline:
        if len(arm.states) == seen:
            time.sleep(0.002)
            continue
        seen = len(arm.states)
        action = expert.act(parse_state(arm.states[-1]))
        message = TwistStamped()
        message.header.frame_id = "base_link"
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, action[:6])
        arm.twist.publish(message)
        arm.gripper.publish(Float64MultiArray(data=[0.08 * float(action[6])]))


def test_raw_and_compressed_images_agree(arm):
    raw, compressed = [], []
    subscriptions = [
        arm.graph.node.create_subscription(Image, "camera/wrist/image_raw", raw.append, SENSOR_QOS),
        arm.graph.node.create_subscription(
            CompressedImage, "camera/wrist/image_raw/compressed", compressed.append, SENSOR_QOS
        ),
    ]

    def pair():
        by_stamp = {messages.stamp_ns(image): image for image in list(raw)}
        return next(((by_stamp[s], c) for c in list(compressed) if (s := messages.stamp_ns(c)) in by_stamp), None)

    image, jpeg = arm.graph.wait(pair, "a picture of both kinds")
    for subscription in subscriptions:
        arm.graph.node.destroy_subscription(subscription)
    rgb = decode_raw(image)
    assert rgb.shape == (128, 128, 3) and rgb.std() > 5
    assert np.abs(decode_compressed(jpeg).astype(int) - rgb).mean() < 4


def test_the_clock_and_stamps_are_multiples_of_the_step(arm):
    arm.wait_s(0.2)
    times_ns = [clock.clock.sec * 10**9 + clock.clock.nanosec for clock in arm.clocks]
    assert all(time_ns % 20_000_000 == 0 for time_ns in times_ns)
    assert all(earlier < later for earlier, later in itertools.pairwise(times_ns))
    assert messages.stamp_ns(arm.poses[-1]) % 20_000_000 == 0


def test_an_unknown_task_is_refused_with_the_valid_names(arm):
    with pytest.raises(ServiceError, match=r"must be one of .*open_drawer.*; got 'juggle'"):
        arm.simulator.reset("juggle", 0)


def test_faster_than_real_time_needs_a_published_clock():
    command = [sys.executable, "-m", "vla_ros.nodes.simulator.node", "--ros-args", "-p", "real_time_factor:=4.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "publish_clock:=true" in done.stderr
