# SPDX-License-Identifier: Apache-2.0
"""Processes of benchmarks/latency.py: cameras, bare nodes for comparison, and a policy node that keeps a trace."""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla_ros.contract import PolicyContract
from vla_ros.observations.observation import Observation

CAMERAS = ("static", "wrist")
CAMERA_HZ, CONTROL_HZ = 30.0, 50.0
# A twist says by its speed which tick its plan is from: in mm/s, modulo this.
CODES = 1000
ROLES = ("cameras", "relay", "policy", "timer", "load")


def cameras() -> None:
    """Publish both cameras, the pose and the joint states until this process is stopped."""
    import rclpy
    from geometry_msgs.msg import PoseStamped
    from sensor_msgs.msg import Image, JointState

    from vla_ros.nodes.common.qos import SENSOR_QOS

    node = rclpy.create_node("cameras")
    images = [node.create_publisher(Image, f"camera/{name}/image_raw", SENSOR_QOS) for name in CAMERAS]
    pose = node.create_publisher(PoseStamped, "ee_pose", 1)
    joints = node.create_publisher(JointState, "joint_states", 1)
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)

    def publish() -> None:
        stamp = node.get_clock().now().to_msg()
        state = JointState(name=["panda_finger_joint1", "panda_finger_joint2"], position=[0.04, 0.04])
        where = PoseStamped()
        where.pose.orientation.w = 1.0
        state.header.stamp = where.header.stamp = stamp
        joints.publish(state)
        pose.publish(where)
        pixels[0, 0] += 1  # no two alike
        for publisher in images:
            message = Image(height=480, width=640, encoding="rgb8", step=1920, data=array.array("B", pixels.tobytes()))
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)

    node.create_timer(1 / CAMERA_HZ, publish)
    rclpy.spin(node)


def relay() -> None:
    """Sends a twist for each image, with the image's stamp."""
    import rclpy
    from geometry_msgs.msg import TwistStamped
    from sensor_msgs.msg import Image

    from vla_ros.nodes.common.qos import COMMAND_QOS, SENSOR_QOS
    from vla_ros.observations import messages

    node = rclpy.create_node("relay")
    twists = node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)

    def publish(image: Image) -> None:
        message = TwistStamped()
        message.header.stamp = node.get_clock().now().to_msg()
        message.header.frame_id = str(messages.stamp_ns(image))
        twists.publish(message)

    for name in CAMERAS:
        node.create_subscription(Image, f"camera/{name}/image_raw", publish, SENSOR_QOS)
    rclpy.spin(node)


def timer() -> None:
    """Sends a twist every control period."""
    import rclpy
    from geometry_msgs.msg import TwistStamped

    from vla_ros.nodes.common.qos import COMMAND_QOS

    node = rclpy.create_node("bare_timer")
    twists = node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)

    def publish() -> None:
        message = TwistStamped()
        message.header.stamp = node.get_clock().now().to_msg()
        twists.publish(message)

    node.create_timer(1 / CONTROL_HZ, publish)
    rclpy.spin(node)


class EchoRunner:
    """Plans twists that encode the tick they are planned at, and records its inputs and their times.

    `inner`: a real policy, whose computation is done and whose answer is dropped; None: no cost.
    """

    def __init__(self, contract: PolicyContract, inner) -> None:
        self.contract = contract
        self.trace: list[tuple[int, int, int, int]] = []
        self._inner = inner

    def warm_up(self) -> float:
        return 0.0 if self._inner is None else self._inner.warm_up()

    def reset(self, command: str) -> None:
        if self._inner is not None:
            self._inner.reset(command)

    def clear_history(self) -> None:
        if self._inner is not None:
            self._inner.clear_history()

    def step(self, observation) -> np.ndarray:
        begun_ns = time.time_ns()
        if self._inner is not None:
            self._inner.step(observation)
        tick = observation.time_ns // self.contract.timing.period_ns
        stamp_ns = max(observation.stamps_ns[name] for name in CAMERAS)
        self.trace.append((tick, stamp_ns, begun_ns, time.time_ns()))
        chunk = np.zeros((self.contract.timing.chunk, 7))
        chunk[:, 0], chunk[:, 6] = tick % CODES / 1e3, 1.0
        return chunk


def policy(checkpoint: str, trace: str, arguments: Sequence[str]) -> int:
    """Run the real policy node with an `EchoRunner`, and write its records to `trace` at the end."""
    from vla_ros.nodes.policy import loading
    from vla_ros.nodes.policy import node as policy_node

    load, made = loading.load_runner, []

    def load_echo(folder: str, *how, contract: PolicyContract) -> EchoRunner:
        made.append(EchoRunner(contract, load(checkpoint, *how) if checkpoint else None))
        return made[-1]

    loading.load_runner = load_echo
    status = policy_node.main(list(arguments))
    Path(trace).write_text(json.dumps(made[0].trace))
    return status


def load(checkpoint: str, ready: str) -> None:
    """Run bare inference of the checkpoint at the control rate; create the file `ready` at the start."""
    from vla_ros.nodes.policy.loading import load_runner

    runner = load_runner(checkpoint, "auto")
    runner.warm_up()
    cameras, proprioception = runner.contract.cameras, runner.contract.proprioception
    pictures = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in cameras}
    state = None if proprioception is None else np.asarray(proprioception.mean, np.float32)
    runner.reset("go")
    Path(ready).touch()
    while True:
        due_s = time.monotonic() + 1 / CONTROL_HZ
        runner.step(Observation(0, pictures, {}, state, "go"))
        time.sleep(max(0.0, due_s - time.monotonic()))


def take_role(arguments: argparse.Namespace, ros: Sequence[str]) -> int:
    """Run one of the processes."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    if arguments.role == "policy":
        return policy(arguments.checkpoint, arguments.trace, ros)
    if arguments.role == "load":
        load(arguments.checkpoint, arguments.trace)
    rclpy.init()
    with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
        {"cameras": cameras, "relay": relay, "timer": timer}[arguments.role]()
    return 0
