# SPDX-License-Identifier: Apache-2.0
"""Processes of benchmarks/latency.py: cameras, bare nodes to compare with, and policy and guard that keep a trace."""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import topics, transport
from vla_ros.contract import PolicyContract
from vla_ros.observations.observation import Observation

CAMERAS = ("static", "wrist")
CAMERA_HZ, CONTROL_HZ, COMMAND_HZ = 30.0, 50.0, 100.0
ROLES = ("cameras", "first_relay", "second_relay", "policy", "guard", "load", "timer")
# Inside the workspace of the shipped robot.
POSITION = (0.5, 0.0, 0.3)
SPEED_MPS, SWING_S = 0.05, 2.0  # of the planned motion: to and fro


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
        where.header.frame_id = "base_link"
        where.pose.position.x, where.pose.position.y, where.pose.position.z = POSITION
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


def first_relay(chunk: int) -> None:
    """Send a plan of `chunk` points for each image, with the image's stamp; its frame is the time of sending."""
    import rclpy
    from sensor_msgs.msg import Image
    from trajectory_msgs.msg import MultiDOFJointTrajectory

    from vla_ros.nodes.common.planner_messages import plan_message
    from vla_ros.nodes.common.qos import COMMAND_QOS, SENSOR_QOS
    from vla_ros.runtime.execution.plans import Plan

    node = rclpy.create_node("first_relay")
    plans = node.create_publisher(MultiDOFJointTrajectory, topics.PLAN, COMMAND_QOS)
    message = plan_message(Plan(0, round(1e9 / CONTROL_HZ), np.zeros((chunk, 7))), "base_link", "tool")

    def publish(image: Image) -> None:
        message.header.stamp = image.header.stamp
        message.header.frame_id = str(time.time_ns())
        plans.publish(message)

    for name in CAMERAS:
        node.create_subscription(Image, f"camera/{name}/image_raw", publish, SENSOR_QOS)
    rclpy.spin(node)


def second_relay() -> None:
    """Send a twist for each plan; its frame is the plan's stamp and frame."""
    import rclpy
    from geometry_msgs.msg import TwistStamped
    from trajectory_msgs.msg import MultiDOFJointTrajectory

    from vla_ros.nodes.common.qos import COMMAND_QOS
    from vla_ros.observations import messages

    node = rclpy.create_node("second_relay")
    twists = node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)

    def publish(plan: MultiDOFJointTrajectory) -> None:
        message = TwistStamped(twist=plan.points[0].velocities[0])
        message.header.frame_id = f"{messages.stamp_ns(plan)} {plan.header.frame_id}"
        message.header.stamp = node.get_clock().now().to_msg()
        twists.publish(message)

    node.create_subscription(MultiDOFJointTrajectory, topics.PLAN, publish, COMMAND_QOS)
    rclpy.spin(node)


def timer() -> None:
    """Send a twist at the guard's rate."""
    import rclpy
    from geometry_msgs.msg import TwistStamped

    from vla_ros.nodes.common.qos import COMMAND_QOS

    node = rclpy.create_node("bare_timer")
    twists = node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)

    def publish() -> None:
        message = TwistStamped()
        message.header.stamp = node.get_clock().now().to_msg()
        twists.publish(message)

    node.create_timer(1 / COMMAND_HZ, publish)
    rclpy.spin(node)


class SwingRunner:
    """Plans a slow motion to and fro, and records the times of its observations.

    `inner`: a real policy, whose computation is done and whose answer is dropped; None: no cost.
    """

    def __init__(self, contract: PolicyContract, inner: Any) -> None:
        self.contract = contract
        self.steps: list[tuple[int, dict[str, int], int, int]] = []
        self._inner = inner

    def warm_up(self) -> float:
        return 0.0 if self._inner is None else self._inner.warm_up()

    def reset(self, command: str) -> None:
        if self._inner is not None:
            self._inner.reset(command)

    def clear_history(self) -> None:
        if self._inner is not None:
            self._inner.clear_history()

    def step(self, observation: Observation) -> np.ndarray:
        begun_ns = time.time_ns()
        if self._inner is not None:
            self._inner.step(observation)
        timing = self.contract.timing
        times_s = observation.time_ns / 1e9 % SWING_S + np.arange(timing.chunk) / timing.control_hz
        chunk = np.zeros((timing.chunk, 7))
        chunk[:, 0], chunk[:, 6] = SPEED_MPS * np.sin(2 * np.pi * times_s / SWING_S), 1.0
        stamps_ns = {name: observation.stamps_ns[name] for name in CAMERAS}
        self.steps.append((observation.time_ns, stamps_ns, begun_ns, time.time_ns()))
        return chunk


def load(checkpoint: str, ready: Path) -> None:
    """Run bare inference of the checkpoint at the policy's rate; create the file `ready` at the start."""
    from vla_ros.nodes.policy.loading import load_runner

    runner = load_runner(checkpoint)
    runner.warm_up()
    proprioception = runner.contract.proprioception
    images = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in runner.contract.cameras}
    state = None if proprioception is None else np.asarray(proprioception.mean, np.float32)
    runner.reset("go")
    ready.touch()
    while True:
        due_s = time.monotonic() + 1 / CONTROL_HZ
        runner.step(Observation(0, images, {}, state, "go"))
        time.sleep(max(0.0, due_s - time.monotonic()))


def policy(checkpoint: str, trace: Path, arguments: Sequence[str]) -> int:
    """Run the real policy node with a `SwingRunner`; write when images were received and steps done to `trace`."""
    from vla_ros.nodes.policy import loading
    from vla_ros.nodes.policy import node as policy_node
    from vla_ros.nodes.policy.observation_streams import ObservationStreams
    from vla_ros.observations import messages

    load, receive = loading.load_runner, ObservationStreams.receive
    made: list[SwingRunner] = []
    received: dict[str, dict[int, int]] = {name: {} for name in CAMERAS}

    def load_swing(folder: str, *how: Any, contract: PolicyContract) -> SwingRunner:
        made.append(SwingRunner(contract, load(checkpoint, *how) if checkpoint else None))
        return made[-1]

    def traced_receive(self: ObservationStreams, reader: Any, message: Any) -> None:
        receive(self, reader, message)
        if reader.name in received:
            received[reader.name][messages.stamp_ns(message)] = time.time_ns()

    loading.load_runner, ObservationStreams.receive = load_swing, traced_receive
    status = policy_node.main(list(arguments))
    steps = [(tick_ns, [(ns, received[name][ns]) for name, ns in stamps_ns.items() if ns in received[name]], *times_ns)
             for tick_ns, stamps_ns, *times_ns in made[0].steps]  # fmt: skip
    trace.write_text(json.dumps(steps))
    return status


def guard(trace: Path, arguments: Sequence[str]) -> int:
    """Run the real guard node; write when each plan was heard and first executed to `trace`."""
    from vla_ros.nodes.guard import node as guard_node
    from vla_ros.nodes.guard.command_outputs import CommandOutputs
    from vla_ros.runtime.safety.guard import Guard

    hear, tick, send = Guard.hear_plan, Guard.tick, CommandOutputs.send
    heard: dict[int, tuple[int, int]] = {}  # by the guard's number of the plan's tick: stamp, time
    executed: dict[int, tuple[int, int, int, int]] = {}  # the same, the time of the guard's tick, that of the twist
    due: list[tuple[int, int]] = []

    def traced_hear(self: Guard, plan: Any, now_ns: int) -> str | None:
        refusal = hear(self, plan, now_ns)
        if refusal is None and self.timeline.plan_tick is not None:
            heard[self.timeline.plan_tick] = plan.stamp_ns, time.time_ns()
        return refusal

    def traced_tick(self: Guard, now_ns: int, *given: Any) -> Any:
        command, answered = tick(self, now_ns, *given), self.timeline.answered_tick
        if answered in heard and answered not in executed and command.twist is not None:
            due.append((answered, now_ns))
        return command

    def traced_send(self: CommandOutputs, command: Any) -> None:
        sent_ns = time.time_ns()
        send(self, command)
        if due:
            answered, now_ns = due.pop()
            executed[answered] = *heard[answered], now_ns, sent_ns

    Guard.hear_plan, Guard.tick, CommandOutputs.send = traced_hear, traced_tick, traced_send
    status = guard_node.main(list(arguments))
    trace.write_text(json.dumps(list(executed.values())))
    return status


def take_role(arguments: argparse.Namespace, ros: Sequence[str]) -> int:
    """Run one of the processes."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    if arguments.role == "policy":
        return policy(arguments.checkpoint, arguments.trace, ros)
    if arguments.role == "guard":
        return guard(arguments.trace, ros)
    if arguments.role == "load":
        load(arguments.checkpoint, arguments.trace)
    nodes: dict[str, Callable[[], None]] = {
        "cameras": cameras,
        "first_relay": lambda: first_relay(arguments.chunk),
        "second_relay": second_relay,
        "timer": timer,
    }
    if arguments.role in ("second_relay", "timer"):  # in place of the guard
        os.environ.update(transport.guard_environment())
    rclpy.init()
    with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
        nodes[arguments.role]()
    return 0
