# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process, a robot in this one, and DDS between them: for the tests of what the node does."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from vla_ros.contract import ActionSpace, Camera, Language, PolicyContract, Proprioception, Provenance, Timing
from vla_ros.imaging import images
from vla_ros.nodes.guard import parameters as guard_parameters

CONTROL_HZ = 20.0
STOP_TICKS = 4
SENTINEL_MPS = 77.0
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


def write_robot(folder: Path, **changes) -> Path:
    """A robot's file that fits `FakeRobot`; `changes` replace its top-level keys."""
    header = {"stamp": "header"}
    raw, compressed = ({"type": f"sensor_msgs/msg/{kind}", **header} for kind in ("Image", "CompressedImage"))
    robot = {
        "name": "test",
        "base_frame": "base_link",
        "command_hz": CONTROL_HZ,
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
        **changes,
    }  # fmt: skip
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(robot))
    return path


def write_checkpoint(folder: Path) -> Path:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    contract().save(checkpoint / "contract.json")
    return checkpoint


def _state(message: Any) -> dict:
    return {pair.key: pair.value for pair in message.values} | {"message": message.message}


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

    def __init__(self, domain_id: int, clock_ns: int | None = None, namespace: str = "") -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
        from geometry_msgs.msg import PoseStamped, TwistStamped
        from rcl_interfaces.srv import SetParameters
        from rclpy.executors import SingleThreadedExecutor
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CompressedImage, Image, JointState
        from std_msgs.msg import Bool, Float64MultiArray, String
        from std_srvs.srv import SetBool, Trigger

        from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS

        self.clock_ns = clock_ns
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        # stream -> what becomes of its messages: another message, several, or none
        self.spoil: dict[str, Callable[[Any], Any]] = {}
        self.twists: list[Twist] = []
        self.openings: list[float] = []
        self.states: list[dict] = []  # of the guard
        self.policy_states: list[dict] = []
        self.diagnostics: list = []
        self.extra: list = []  # further publishers of a test
        self._x = 0.5
        self._changed = threading.Condition()
        self._pixels = np.zeros((16, 16, 3), np.uint8)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.node = node = rclpy.create_node("robot", namespace=namespace, context=self.context)
        self._messages = SimpleNamespace(
            clock=Clock, compressed=CompressedImage, raw=Image, pose=PoseStamped, joints=JointState, text=String,
            twist=TwistStamped, bool=Bool,
        )  # fmt: skip
        self.clock = node.create_publisher(Clock, "/clock", 10)
        self.static = node.create_publisher(CompressedImage, "camera/static", SENSOR_QOS)
        self.wrist = node.create_publisher(Image, "camera/wrist", SENSOR_QOS)
        self.enable = node.create_publisher(Bool, "enable", 10)
        self.emergency_stop = node.create_publisher(Bool, "emergency_stop", LATCHED_QOS)
        self.pose = node.create_publisher(PoseStamped, "ee_pose", 10)
        self.joints = node.create_publisher(JointState, "joint_states", 10)
        self.language = node.create_publisher(String, "language_command", LATCHED_QOS)
        self.sentinel = node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)
        node.create_subscription(TwistStamped, "twist_command", self._on_twist, 100)
        node.create_subscription(
            Float64MultiArray, "gripper_command", self._keep(self.openings, lambda message: message.data[0]), 10
        )
        node.create_subscription(DiagnosticStatus, "guard/state", self._keep(self.states, _state), LATCHED_QOS)
        node.create_subscription(DiagnosticStatus, "policy/state", self._keep(self.policy_states, _state), LATCHED_QOS)
        keep = self._keep(self.diagnostics, lambda message: message)
        node.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
        self.arm_client = node.create_client(SetBool, "guard/arm")
        self.parameters_clients = {
            name: node.create_client(SetParameters, f"{name}/set_parameters") for name in ("policy", "guard")
        }
        self.reset_clients = [node.create_client(Trigger, f"{name}/reset") for name in ("policy", "guard")]
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

    def ready(self) -> None:
        """Wait until the policy is active: of what was said before, a person has to remind it."""
        self.wait(lambda: bool(self.policy_states) and self.policy_states[-1]["state"] == "active", "an active policy")

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), self._missed(what, timeout_s)

    def _missed(self, what: str, timeout_s: float) -> str:
        return f"{what}: not within {timeout_s} s; guard: {self.states[-3:]}, policy: {self.policy_states[-3:]}"

    def wait_value(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for what no message of the node announces."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self._missed(what, timeout_s)
            time.sleep(0.005)

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
        message.twist.linear.x = SENTINEL_MPS
        self.sentinel.publish(message)
        self.wait(lambda: any(twist.linear_x == SENTINEL_MPS for twist in self.twists[start:]), "the sentinel")
        assert [twist.linear_x for twist in self.twists[start:]] == [SENTINEL_MPS]

    def kind(self, name: str) -> Any:
        """A message class by its name here: twist, text, bool, ..."""
        return getattr(self._messages, name)

    def diagnosed(self, status: str, key: str) -> str | None:
        """The newest value under `key` in the diagnostics of either node, or None."""
        statuses = [each for message in self.diagnostics[-6:] for each in message.status]
        pairs = [pair for each in reversed(statuses) if each.name.endswith(f": {status}") for pair in each.values]
        return next((pair.value for pair in pairs if pair.key == key), None)

    def destroy_publisher(self, publisher) -> None:
        """Destroy it between two waits of the executor, whose thread would end in InvalidHandle otherwise."""
        done = threading.Event()
        self._executor.create_task(self.node.destroy_publisher, publisher).add_done_callback(lambda _: done.set())
        assert done.wait(TIMEOUT_S)

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

    def press(self, pressed: bool) -> None:
        """The emergency stop."""
        self.emergency_stop.publish(self._messages.bool(data=pressed))

    def set_parameter(self, name: str, value, node: str = "guard"):
        """Set one of a node's parameters; returns the result."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(self.parameters_clients[node], request).results[0]

    def change_state(self, transition: str, node: str = "guard") -> bool:
        """Do a lifecycle transition (`CONFIGURE`, ...); returns whether it succeeded."""
        return self.call(*self.transition(transition, node)).success

    def transition(self, name: str, node: str = "guard") -> tuple[Any, Any]:
        """Return a client of a node's lifecycle that is connected, and its request."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = self.node.create_client(ChangeState, f"{node}/change_state")
        assert client.wait_for_service(TIMEOUT_S)
        return client, ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{name}")))

    def reset(self):
        """Reset policy and guard; returns what the guard says."""
        from std_srvs.srv import Trigger

        return [self.call(client, Trigger.Request()) for client in self.reset_clients][-1]

    def idle(self) -> None:
        """Back to rest for the next test."""
        self.silent.clear()
        self.broken.clear()
        self.spoil.clear()
        self.press(False)
        self.say("")
        self.wait_value(lambda: self.reset().success, "a reset")  # the release may arrive after the call
        self.arm(True)
        self.wait_state("waiting", "no_command")
        self._x = 0.5
        self.twists.clear()
        self.openings.clear()

    def _publish(self) -> None:
        kinds, stamp = self._messages, self._stamp()
        self._pixels = self._pixels + np.uint8(1)
        if "static" not in self.silent:
            message = kinds.compressed(format="jpeg", data=array.array("B", images.encode_jpeg(self._pixels)))
            message.header.stamp = stamp
            self._send(self.static, message)
        if "wrist" not in self.silent:
            message = kinds.raw(height=16, width=16, encoding="bgr8", step=48)
            message.header.stamp, message.data = stamp, array.array("B", self._pixels.tobytes())
            self._send(self.wrist, message)
        if "ee_pose" not in self.silent:
            message = kinds.pose()
            message.header.stamp, message.header.frame_id = stamp, "base_link"
            message.pose.position.x, message.pose.position.z = self._x, 0.5
            if "ee_pose" in self.broken:
                message.pose.position.x = float("nan")
            self._send(self.pose, message)
        if "joint_states" not in self.silent:
            message = kinds.joints(name=["elbow", "finger"], position=[1.0, 0.02])
            if "joint_states" in self.broken:
                message.position = []
            message.header.stamp = stamp
            self._send(self.joints, message)
        if "enable" not in self.silent:
            self.enable.publish(kinds.bool(data=True))

    def _send(self, publisher, message) -> None:
        streams = {self.static: "static", self.wrist: "wrist", self.pose: "ee_pose", self.joints: "joint_states"}
        spoil = self.spoil.get(streams[publisher])
        spoiled = message if spoil is None else spoil(message)
        for each in spoiled if isinstance(spoiled, list) else [spoiled]:
            if each is not None:
                publisher.publish(each)

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
            if message.twist.linear.x != SENTINEL_MPS:
                self._x = min(max(self._x + message.twist.linear.x / CONTROL_HZ, 0.01), 0.99)  # the arm follows
            self.twists.append(Twist(time.monotonic(), message.twist.linear.x, message.header.frame_id, stamp_ns))
            self._changed.notify_all()

    def _keep(self, values: list, convert: Callable) -> Callable:
        def receive(message) -> None:
            with self._changed:
                values.append(convert(message))
                self._changed.notify_all()

        return receive


GUARD_PARAMETERS = {spec.name for spec in guard_parameters.PARAMETERS}


@contextlib.contextmanager
def policy_node(
    checkpoint: Path,
    robot_file: Path,
    environment: dict,
    *,
    script: Path = FAKE_NODE,
    autostart=True,
    namespace: str = "",
    guard: bool = True,
    **parameters,
) -> Iterator[subprocess.Popen]:
    """The policy node and its guard, at the policy's rate; yields the policy's process, with its `guard`.

    Without `guard` there is one already.
    """
    shared = ("robot", "autostart", "use_sim_time")
    parameters = {"robot": robot_file, "autostart": autostart, **parameters}
    guards = {name: value for name, value in parameters.items() if name in GUARD_PARAMETERS or name in shared}
    policies = {name: value for name, value in parameters.items() if name in shared or name not in GUARD_PARAMETERS}
    with contextlib.ExitStack() as stack:
        other = None
        if guard:
            del guards["robot"]
            other = stack.enter_context(guard_node(robot_file, environment, namespace, **guards))
        policies |= {"checkpoint": checkpoint}
        process = stack.enter_context(_process([sys.executable, str(script)], policies, namespace, environment))
        process.guard = other
        yield process


@contextlib.contextmanager
def guard_node(
    robot_file: Path, environment: dict, namespace: str = "", autostart=True, **parameters
) -> Iterator[subprocess.Popen]:
    """The guard alone, at the policy's rate."""
    given = {
        "robot": robot_file, "autostart": autostart, "arm_on_start": True,
        "stop_time_s": STOP_TICKS / CONTROL_HZ, "allow_other_publishers": True,  # the sentinel's
        "resume_within_s": 10.0, **parameters,
    }  # fmt: skip
    with _process([sys.executable, "-m", "vla_ros.nodes.guard.node"], given, namespace, environment) as process:
        yield process


@contextlib.contextmanager
def _process(command: list[str], parameters: dict, namespace: str, environment: dict) -> Iterator[subprocess.Popen]:
    assignments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={yaml_value(value)}")]
    remap = ["-r", f"__ns:=/{namespace}"] if namespace else []
    # Into a file: a pipe that nobody reads is full after 64 KiB, and the node stands still then.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--ros-args", *remap, *assignments],
            stdout=log, stderr=subprocess.STDOUT, env=environment | {"PYTHONFAULTHANDLER": "1"},
        )  # fmt: skip
        try:
            yield process
        except BaseException:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGABRT)  # its threads' stacks go into the log
            raise
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                log.seek(0)
                process.output = log.read()
                print(process.output)  # pytest shows it when a test fails


def waited_s(*pids: int) -> float:
    """How long the threads of these processes have waited for a core so far (Linux); what they do is late by that."""
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total_ns += int(task.read_text().split()[1])
    return total_ns / 1e9


def yaml_value(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
