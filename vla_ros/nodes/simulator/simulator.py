# SPDX-License-Identifier: Apache-2.0
"""The simulator node."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.errors import UserError
from vla_ros.grid import Grid
from vla_ros.nodes.common import startup
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS, STATE_QOS
from vla_ros.nodes.simulator import messages as outgoing
from vla_ros.nodes.simulator.robot import STEP_NS, RealTimePace, SimulatedPace, SimulatedRobot
from vla_ros.observations import messages
from vla_ros.sim.cameras import CAMERAS
from vla_ros.sim.physics import JOINT_NAMES
from vla_ros.sim.tasks import TASKS

GRIPPER_WIDTH_M = 0.08
RESET_TIMEOUT_S = 10.0
LOCKSTEP_TIMEOUT_S = 2.0


class SimulatorNode(Node):
    """ROS callbacks put commands into a mailbox; one thread owns physics and renderer, and publishes."""

    def __init__(self) -> None:
        super().__init__("simulator")
        self.exit_status = 0
        self._declare_parameters()
        self._make_publishers()
        self._mailbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.create_subscription(TwistStamped, "twist_command", self._on_twist, COMMAND_QOS)
        self.create_subscription(Float64MultiArray, "gripper_command", self._on_gripper, COMMAND_QOS)
        if self._lockstep is not None:
            self.create_subscription(Time, topics.RECORDED_UNTIL, self._on_recorded, STATE_QOS)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._twist_stamp_ns = 0
        self._recorded_ns: int | None = None  # None: not recording in lockstep
        self._success: bool | None = None
        self._lost_ns = 0
        self._steps = 0
        self._stop = threading.Event()
        self._was_reset = True
        self._thread = threading.Thread(target=self._simulate, name="simulation", daemon=True)
        self._thread.start()

    def _declare_parameters(self) -> None:
        tasks = ", ".join(TASKS)
        declare = startup.declare
        declare(self, "task", "pick_up_red", f"Task of the next reset: one of {tasks}", fixed=False)
        declare(self, "seed", 0, "Seed of the next reset's scene", low=0, high=2**31 - 1, fixed=False)
        self._height = declare(self, "image_height", 128, "Image height [pixels]", low=16, high=480)
        self._width = declare(self, "image_width", 128, "Image width [pixels]", low=16, high=640)
        camera_hz = declare(self, "camera_rate_hz", 20.0, "Rate of the images [Hz]", low=1.0, high=50.0)
        state_hz = declare(self, "state_rate_hz", 50.0, "Rate of pose, joints and state [Hz]", low=1.0, high=50.0)
        self._raw = declare(self, "publish_raw", True, "Publish image_raw while there are subscribers")
        self._compressed = declare(self, "publish_compressed", True, "Publish JPEG images while there are subscribers")
        self._publish_clock = declare(self, "publish_clock", False, "Run on a simulated clock and publish it on /clock")
        description = "Speed of the simulated clock; must be 1.0 without publish_clock"
        self._factor = declare(self, "real_time_factor", 1.0, description, low=0.1, high=100.0)
        if self._factor != 1.0 and not self._publish_clock:
            raise UserError(
                f"real_time_factor must be 1.0 without publish_clock; got {self._factor}. To change the speed, set "
                "publish_clock:=true here and use_sim_time:=true on the other nodes"
            )
        description = "With publish_clock: rate of the ticks that wait for the recorder [Hz]; 0: none"
        lockstep_hz = declare(self, "lockstep_hz", 0.0, description, low=0.0, high=50.0)
        self._lockstep = Grid(lockstep_hz) if lockstep_hz and self._publish_clock else None
        self._camera, self._state = Grid(camera_hz), Grid(state_hz)
        self.add_on_set_parameters_callback(self._check_parameters)

    def _check_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "task" and parameter.value not in TASKS:
                reason = f"task must be one of {', '.join(TASKS)}; got {parameter.value!r}"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _make_publishers(self) -> None:
        publisher = self.create_publisher
        self._pose = publisher(PoseStamped, "ee_pose", STATE_QOS)
        self._joints = publisher(JointState, "joint_states", STATE_QOS)
        self._scene = publisher(Float64MultiArray, "~/state", STATE_QOS)
        self._task_success = publisher(Bool, topics.TASK_SUCCESS, LATCHED_QOS)
        self._diagnostics = publisher(DiagnosticArray, "/diagnostics", 10)
        self._clock_publisher = publisher(Clock, "/clock", SENSOR_QOS) if self._publish_clock else None
        self._image_publishers = {}
        for camera in CAMERAS:
            topic = f"camera/{camera}/image_raw"
            raw = publisher(Image, topic, SENSOR_QOS) if self._raw else None
            jpeg = publisher(CompressedImage, f"{topic}/compressed", SENSOR_QOS) if self._compressed else None
            self._image_publishers[camera] = (raw, jpeg)

    def _on_twist(self, message: TwistStamped) -> None:
        if message.header.frame_id != outgoing.BASE_FRAME:
            self._warn(f"ignoring twist_command in frame {message.header.frame_id!r}; it must be in 'base_link'")
            return
        twist = messages.twist(message)
        if not np.isfinite(twist).all():
            self._warn(f"ignoring twist_command {twist.tolist()}, which is not finite")
            return
        self._mailbox.put(("twist", (twist, messages.stamp_ns(message))))

    def _on_gripper(self, message: Float64MultiArray) -> None:
        if len(message.data) != 1 or not np.isfinite(message.data[0]):
            self._warn(f"ignoring gripper_command {list(message.data)}; it must be one finite width, 0 ... 0.08 m")
            return
        self._mailbox.put(("gripper", message.data[0] / GRIPPER_WIDTH_M))

    def _on_recorded(self, message: Time) -> None:
        self._mailbox.put(("recorded", message.sec * 1_000_000_000 + message.nanosec))

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=2.0)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        answer: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._mailbox.put(("reset", (self.get_parameter("task").value, self.get_parameter("seed").value, answer)))
        try:
            response.message = json.dumps(answer.get(timeout=RESET_TIMEOUT_S))
            response.success = True
        except queue.Empty:
            response.message = f"the simulation did not reset within {RESET_TIMEOUT_S:.0f} s"
        return response

    # The simulation thread.

    def _simulate(self) -> None:
        robot = None
        try:
            robot = SimulatedRobot(self._height, self._width)
            self._reset(robot, self.get_parameter("task").value, self.get_parameter("seed").value, 0)
            pace = SimulatedPace(self._now_ns(), self._factor) if self._publish_clock else RealTimePace(self._now_ns)
            self.get_logger().info(f"ready: {robot.env.command!r} on task {self.get_parameter('task').value}")
            while not self._stop.is_set():
                self._step(robot, pace)
        except Exception as error:  # or the thread would end silently
            if not self._stop.is_set() and self.context.ok():
                self.get_logger().fatal(f"the simulation failed: {type(error).__name__}: {error}")
                self.exit_status = 1
                self.context.try_shutdown()
        finally:
            if robot is not None:
                robot.env.close()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _step(self, robot: SimulatedRobot, pace: SimulatedPace | RealTimePace) -> None:
        """Wait for the next step, then apply the commands received so far, and publish."""
        before_ns = pace.time_ns
        step = pace.wait()
        was_reset = self._read_mailbox(robot, before_ns)
        robot.advance(step.steps * STEP_NS / 1e9, step.time_ns)
        self._publish(robot, before_ns, step.time_ns)
        self._steps += 1
        self._lost_ns += 0 if self._was_reset else step.lost_ns  # time spent in a reset does not count
        self._was_reset = was_reset

    def _read_mailbox(self, robot: SimulatedRobot, time_ns: int) -> bool:
        """Apply the commands in the mailbox at `time_ns`; returns whether there was a reset."""
        was_reset = False
        while True:
            waits = self._must_wait(time_ns)
            try:
                kind, value = self._mailbox.get(block=waits, timeout=LOCKSTEP_TIMEOUT_S)
            except queue.Empty:
                if waits:
                    self._recorded_ns = None
                    self.get_logger().warning("giving up lockstep: the recorder or the demonstrator is too slow")
                return was_reset
            if kind == "twist":
                twist, self._twist_stamp_ns = value
                robot.set_twist(twist, time_ns)
            elif kind == "gripper":
                robot.opening = value
            elif kind == "recorded":
                self._recorded_ns = value or None
            else:
                task, seed, answer = value
                answer.put(self._reset(robot, task, seed, time_ns))
                was_reset = True

    def _must_wait(self, time_ns: int) -> bool:
        """Return whether the clock must wait at `time_ns` because a demonstration does not include this tick yet."""
        if self._lockstep is None or self._recorded_ns is None:
            return False
        begins = _begins_tick(self._lockstep, time_ns - STEP_NS, time_ns)
        return begins and _begins_tick(self._lockstep, min(self._recorded_ns, self._twist_stamp_ns), time_ns)

    def _reset(self, robot: SimulatedRobot, task: str, seed: int, time_ns: int) -> dict[str, object]:
        robot.reset(task, seed)
        self._success = self._recorded_ns = None
        self._publish_success(robot)
        return {"task": task, "seed": seed, "command": robot.env.command, "time_ns": time_ns}

    def _publish(self, robot: SimulatedRobot, before_ns: int, time_ns: int) -> None:
        """Publish what is due at `time_ns`, the clock first: no message may come from the future."""
        stamp = outgoing.time_message(time_ns)
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=stamp))
        if _begins_tick(self._state, before_ns, time_ns):
            self._scene.publish(outgoing.state_message(robot.state, time_ns))
            self._pose.publish(outgoing.pose_message(robot.state, stamp))
            self._joints.publish(outgoing.joint_message(JOINT_NAMES, robot.env.sim.joint_positions(), stamp))
        self._publish_success(robot)
        if _begins_tick(self._camera, before_ns, time_ns):
            self._publish_images(robot, stamp)
        if time_ns // 1_000_000_000 != before_ns // 1_000_000_000:
            self._publish_diagnostics(stamp)

    def _publish_success(self, robot: SimulatedRobot) -> None:
        if (success := robot.env.succeeded(robot.state)) != self._success:
            self._success = success
            self._task_success.publish(Bool(data=success))

    def _publish_images(self, robot: SimulatedRobot, stamp: Time) -> None:
        """Render only if there are subscribers, and encode only the formats they want."""
        wanted = {
            camera: tuple(bool(publisher and publisher.get_subscription_count()) for publisher in publishers)
            for camera, publishers in self._image_publishers.items()
        }
        if not any(map(any, wanted.values())):
            return
        for camera, rgb in robot.env.images().items():
            raw, compressed = self._image_publishers[camera]
            if raw and wanted[camera][0]:
                raw.publish(outgoing.image_message(rgb, camera, stamp))
            if compressed and wanted[camera][1]:
                compressed.publish(outgoing.compressed_message(rgb, camera, stamp))

    def _publish_diagnostics(self, stamp: Time) -> None:
        lost_s, steps = self._lost_ns / 1e9, self._steps
        self._lost_ns = self._steps = 0
        # Only real time is a promise: a simulated clock may be asked to run faster than the machine can.
        late = lost_s > 0.02 and not self._publish_clock
        status = DiagnosticStatus(
            name="simulator",
            level=DiagnosticStatus.WARN if late else DiagnosticStatus.OK,
            message=f"overrun: the arm stood still for {lost_s:.2f} s in the last second" if late else "running",
            values=[KeyValue(key="steps", value=str(steps)), KeyValue(key="lost_s", value=f"{lost_s:.3f}")],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = stamp
        self._diagnostics.publish(message)
        if late:
            self.get_logger().warning(status.message, throttle_duration_sec=5.0)

    def close(self) -> None:
        """Stop the simulation; its thread frees the renderer."""
        self._stop.set()
        self._thread.join(timeout=5.0)


def _begins_tick(grid: Grid, before_ns: int, time_ns: int) -> bool:
    """Return whether a tick begins after `before_ns` and not after `time_ns`."""
    return grid.tick_at(before_ns) < grid.tick_at(time_ns)
