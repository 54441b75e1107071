# SPDX-License-Identifier: Apache-2.0
"""The guard node and a planner as processes, an arm in this one, and DDS between them."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from policy_bench import write_robot

ROOT = Path(__file__).resolve().parents[2]
PLANNER = ROOT / "docs" / "examples" / "planner.py"
TIMEOUT_S = 20.0


@dataclasses.dataclass
class Sent:
    """A twist that arrived here."""

    received_s: float
    linear_x: float


class FakeArm:
    """Follows twists, publishes its pose at 50 Hz, and keeps what the guard says. Faults are fields."""

    def __init__(self, domain_id: int) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticStatus
        from geometry_msgs.msg import PoseStamped, TwistStamped
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import Bool, Float64MultiArray
        from std_srvs.srv import SetBool, Trigger

        from vla_ros.nodes.common.qos import LATCHED_QOS

        self.twists: list[Sent] = []
        self.openings: list[float] = []
        self.states: list[dict[str, str]] = []
        self.follows = True
        self.silent = False
        self.position = np.array([0.3, 0.0, 0.3])
        self._pose_kind, self._changed = PoseStamped, threading.Condition()
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.node = node = rclpy.create_node("arm", context=self.context)
        self.bool, self.twist = Bool, TwistStamped
        self.emergency_stop = node.create_publisher(Bool, "emergency_stop", LATCHED_QOS)
        self._pose = node.create_publisher(PoseStamped, "ee_pose", 10)
        node.create_subscription(TwistStamped, "twist_command", self._on_twist, 100)
        node.create_subscription(Float64MultiArray, "gripper_command", self._on_opening, 10)
        node.create_subscription(DiagnosticStatus, "guard/state", self._on_state, LATCHED_QOS)
        self._arm_client = node.create_client(SetBool, "guard/arm")
        self._reset_client = node.create_client(Trigger, "guard/reset")
        node.create_timer(0.02, self._publish)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_twist(self, message: Any) -> None:
        with self._changed:
            now_s = time.monotonic()
            if self.twists and self.follows and now_s - self.twists[-1].received_s < 0.1:
                self.position[0] += self.twists[-1].linear_x * (now_s - self.twists[-1].received_s)
            self.twists.append(Sent(now_s, message.twist.linear.x))
            self._changed.notify_all()

    def _on_opening(self, message: Any) -> None:
        self.openings.append(message.data[0])

    def _on_state(self, message: Any) -> None:
        with self._changed:
            self.states.append({pair.key: pair.value for pair in message.values} | {"message": message.message})
            self._changed.notify_all()

    def _publish(self) -> None:
        if self.silent:
            return
        message = self._pose_kind()
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.pose.position.x, message.pose.position.y, message.pose.position.z = map(float, self.position)
        message.pose.orientation.w = 1.0
        self._pose.publish(message)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"{what}: not within {timeout_s} s; {self.states[-3:]}"

    def wait_state(self, state: str, reason: str = "") -> dict[str, str]:
        """Wait for a state (and reason); return it."""

        def reached() -> bool:
            last = self.states[-1] if self.states else {}
            return last.get("state") == state and reason in (last.get("reason", ""), "")

        self.wait(reached, f"{state} {reason}")
        return self.states[-1]

    def moves(self, linear_x: float) -> bool:
        return bool(self.twists) and abs(self.twists[-1].linear_x - linear_x) < 1e-6

    def wait_moving(self, linear_x: float = 0.05) -> None:
        self.wait(lambda: self.moves(linear_x), f"twist {linear_x}")

    def wait_standing(self) -> None:
        """Wait for a zero twist."""
        self.wait(lambda: bool(self.twists) and self.twists[-1].linear_x == 0.0, "a zero twist")

    def last_motion_s(self) -> float:
        """When the last twist that moves the arm arrived."""
        return max((twist.received_s for twist in self.twists if twist.linear_x), default=0.0)

    def stays(self, seconds: float) -> None:
        """Assert that nothing moves for a while in which the guard goes on reporting."""
        begun_s = time.monotonic()
        time.sleep(seconds)
        assert self.last_motion_s() < begun_s, f"moved; {self.states[-3:]}"

    def _call(self, client: Any, request: Any) -> Any:
        assert client.wait_for_service(TIMEOUT_S)
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(TIMEOUT_S)
        return future.result()

    def arm(self, armed: bool = True) -> Any:
        from std_srvs.srv import SetBool

        return self._call(self._arm_client, SetBool.Request(data=armed))

    def arm_when_allowed(self) -> None:
        """Arm once nothing speaks against it any more: a killed planner stays in the ROS graph for a while."""
        deadline_s = time.monotonic() + 2 * TIMEOUT_S
        while not (answer := self.arm()).success:
            assert "cannot arm: second_planner" in answer.message and time.monotonic() < deadline_s
            time.sleep(0.1)

    def wait_for_planner(self) -> None:
        """Wait until the guard knows what the planner follows."""
        self.wait(lambda: bool(self.states and self.states[-1].get("command")), "a planner")

    def reset(self) -> Any:
        from std_srvs.srv import Trigger

        return self._call(self._reset_client, Trigger.Request())

    def change_state(self, *transitions: str) -> list[bool]:
        """Do these lifecycle transitions of the guard (`CONFIGURE`, ...); return which succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = self.node.create_client(ChangeState, "guard/change_state")
        ids = [getattr(Transition, f"TRANSITION_{name}") for name in transitions]
        return [self._call(client, ChangeState.Request(transition=Transition(id=each))).success for each in ids]

    def press(self, pressed: bool) -> None:
        self.emergency_stop.publish(self.bool(data=pressed))


def planner(environment: dict[str, str], speed: float = 0.05, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start the example planner; `prefix` runs it on another host."""
    return subprocess.Popen([*prefix, sys.executable, str(PLANNER), str(speed)], env=environment)


@contextlib.contextmanager
def other_node(environment: dict[str, str], name: str = "other") -> Iterator[Any]:
    """A node of another participant: within one, DDS refuses a second type on a topic."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(environment["ROS_DOMAIN_ID"]))
    node = rclpy.create_node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()


@contextlib.contextmanager
def guard_bench(
    folder: Path,
    environment: dict[str, str],
    *,
    plans: bool = True,
    robot: dict[str, Any] | None = None,
    **parameters: Any,
) -> Iterator[tuple[FakeArm, subprocess.Popen[bytes], subprocess.Popen[bytes] | None]]:
    """Yield (arm, guard process, planner process)."""
    robot_file = write_robot(folder, **{"command_hz": 100.0, **(robot or {})})
    given = {"robot": str(robot_file), "autostart": True, "control_priority": 0, **parameters}
    assignments = [
        part
        for name, value in given.items()
        for part in ("-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}")
    ]
    arm = FakeArm(int(environment["ROS_DOMAIN_ID"]))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        command = [sys.executable, "-m", "vla_ros.nodes.guard.node", "--ros-args", *assignments]
        with (folder / "guard.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        if plans:
            processes.append(planner(environment))
        yield arm, processes[0], processes[1] if plans else None
    finally:
        for process in reversed(processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in processes:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
        arm.close()
