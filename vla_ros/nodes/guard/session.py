# SPDX-License-Identifier: Apache-2.0
"""The guard between configure and cleanup: subscriptions feed its core, a thread ticks it at the robot's command rate."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.node import Node
from std_msgs.msg import Bool
from trajectory_msgs.msg import MultiDOFJointTrajectory

from vla_ros import topics
from vla_ros.errors import UserError
from vla_ros.nodes.common.clock import GridThread, RosClock
from vla_ros.nodes.common.planner_messages import read_plan, read_status
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, STATE_QOS
from vla_ros.nodes.guard.command_outputs import GripperSink, TwistSink
from vla_ros.nodes.guard.pose_input import PoseInput
from vla_ros.nodes.guard.servo_link import ServoLink
from vla_ros.observations import messages
from vla_ros.robot import TWIST_STAMPED, Robot
from vla_ros.runtime.execution.control import Command
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.execution.gripper import GripperSwitch
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.planning.priority import take_real_time_priority
from vla_ros.runtime.safety.governor import SafetyGovernor, State
from vla_ros.runtime.safety.guard import Guard, GuardSettings
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover
from vla_ros.runtime.safety.plausibility import MotionCheck
from vla_ros.runtime.safety.watchdog import CLOCK_SET_BACK, Watchdog

OUTPUTS_PERIOD_S = 0.1
ENABLE, TAKEOVER = "enable", "takeover_twist"
Value = Callable[[str], Any]


def make_guard(value: Value, robot: Robot, stops: EmergencyStops) -> Guard:
    """Make the guard's core, disarmed.

    Args:
        value: Returns a parameter by its name.

    Raises:
        UserError: A parameter is out of its range.
    """
    period_s = 1.0 / value("command_hz")
    try:
        gripper = GripperSwitch(
            value("gripper_close_below"), value("gripper_open_above"), value("gripper_debounce_ticks")
        )
        executor = make_executor(value("executor"), horizon=value("executor_horizon"), decay=value("ensemble_decay"))
    except ValueError as error:
        raise UserError(f"parameter {error}") from None
    if executor.tells_policy:
        raise UserError(f"executor {value('executor')!r} needs a policy in the same process; use path_following")
    governor = SafetyGovernor(
        robot.limits,
        period_s=period_s,
        stop_ticks=max(1, round(value("stop_time_s") / period_s)),
        speed_scale=value("speed_scale"),
        first_run_scale=value("first_run_scale"),
    )
    return Guard(
        GuardSettings(round(period_s * 1e9), value("resume_within_s"), value("heartbeat_max_age_s")),
        ActionTimeline(executor),
        governor,
        gripper,
        stops=stops,
        deadman=Deadman(required=value("require_enable")),
        takeover=Takeover(),
        motion=MotionCheck(robot.limits.linear_mps, frozenset(robot.unchecked)),
    )


class GuardSession:
    """Two threads: the executor's hears, the control thread ticks. Both hold `turn` while they touch the core.

    Args:
        node: Its parameters are read; all entities are its.
        stops: Outlive the session.
        on_change: Called after each tick and each stop.

    Raises:
        UserError: A parameter or the robot's file is wrong.
    """

    def __init__(
        self, node: Node, robot: Robot, stops: EmergencyStops, turn: threading.RLock, on_change: Callable[[], None]
    ) -> None:
        self._node = node
        self._on_change = on_change
        self._turn = turn
        self._thread: GridThread | None = None
        self.robot = robot
        self.dry_run: bool = self._value("dry_run")
        self.core = make_guard(self._value, robot, stops)
        self.ticks_missed = 0
        self._period_ns = self.core.settings.period_ns
        self._ros_clock = cast(ROSClock, node.get_clock())
        self._watchdog = Watchdog(self._period_ns / 1e9)
        self._last_tick_ns = 0
        with contextlib.ExitStack() as undo:
            self._make_outputs(undo)
            self._make_inputs(undo)
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            for period_s, callback in ((self._period_ns / 1e9, self._on_watchdog), (OUTPUTS_PERIOD_S, self._look)):
                undo.callback(node.destroy_timer, node.create_timer(period_s, callback, clock=steady))
            gc.collect()
            gc.freeze()  # a full collection of what lasts would hold up ticks
            undo.callback(gc.unfreeze)
            self._undo = undo.pop_all()

    @property
    def active(self) -> bool:
        """Whether it ticks."""
        return self._thread is not None

    @property
    def moving(self) -> bool:
        """Whether the last twist came from here and the arm may still move."""
        return self.core.governor.state in (State.RUNNING, State.STOPPING)

    def start(self, *, armed: bool) -> None:
        """Begin to tick; the arm moves once it is armed and a plan arrives."""
        if self.servo is not None:
            self.servo.start()
        self._look()
        if armed:
            self.core.arm(True, self._now_ns())
        self._watchdog.start(self._now_ns(), time.monotonic())
        clock = RosClock(self._ros_clock, on_set_back=self._on_clock_set_back)
        self._thread = GridThread(clock, self._period_ns, self._on_tick, self._take_priority)
        self._thread.start()

    def stop(self, reason: str) -> None:
        """Stop the arm within its limits, send zero twists, then go quiet."""
        if self._thread is None:
            return
        self._thread.stop()
        self._thread = None
        moving = self.moving
        while self.moving:
            with self._turn:
                command = self.core.halt("emergency_stop" if self.core.stops.latched else reason)
                self._send(command)
            if command.twist is not None and command.twist.any():
                time.sleep(self._period_ns / 1e9)
        self._mark(False)
        with self._turn:
            self.core.arm(False, self._now_ns())
        if moving:
            self._twists.flush(patience_s=0.5)
            self._node.get_logger().info(f"stopped the arm: {reason}")

    def close(self) -> None:
        """Stop, and give everything back."""
        self.stop("shutdown")
        self._undo.close()

    def arm(self, armed: bool) -> None:
        """Arm or disarm."""
        with self._turn:
            self.core.arm(armed, self._now_ns())

    def halt(self, reason: str) -> None:
        """Take one period of a stop now."""
        if self.active and self.moving:
            self._send(self.core.halt(reason))
            self._on_change()

    # Inputs

    def _make_inputs(self, undo: contextlib.ExitStack) -> None:
        node = self._node
        wanted = (
            (MultiDOFJointTrajectory, topics.PLAN, self._on_plan, COMMAND_QOS),
            (DiagnosticStatus, topics.PLANNER_STATUS, self._on_status, STATE_QOS),
            (Bool, ENABLE, self._on_enable, STATE_QOS),
            (TwistStamped, TAKEOVER, self._on_takeover, COMMAND_QOS),
        )
        for kind, topic, callback, qos in wanted:
            undo.callback(node.destroy_subscription, node.create_subscription(kind, topic, callback, qos))
        self.pose = PoseInput(node, self.robot, self._on_pose)
        undo.callback(self.pose.destroy)
        self._intervention = node.create_publisher(Bool, topics.INTERVENTION, LATCHED_QOS)
        undo.callback(node.destroy_publisher, self._intervention)
        self._marked = True
        self._mark(False)

    def _on_plan(self, message: MultiDOFJointTrajectory) -> None:
        try:
            plan = read_plan(message, self.robot.base_frame)
        except ValueError as error:
            refusal: str | None = str(error)
        else:
            with self._turn:
                refusal = self.core.hear_plan(plan, self._now_ns())
        if refusal is not None:
            self._node.get_logger().warning(f"plan refused: {refusal}", throttle_duration_sec=1.0)

    def _on_status(self, message: DiagnosticStatus) -> None:
        with self._turn:
            self.core.hear_status(read_status(message), time.monotonic())

    def _on_enable(self, message: Bool) -> None:
        with self._turn:
            self.core.deadman.hear(message.data, time.monotonic())

    def _on_takeover(self, message: TwistStamped) -> None:
        frame, stamp_ns = message.header.frame_id.lstrip("/"), messages.stamp_ns(message)
        if frame not in ("", self.robot.base_frame.lstrip("/")):
            problem: str | None = f"its frame is {frame!r}, expected {self.robot.base_frame!r}"
        else:
            age_s = (self._now_ns() - stamp_ns) / 1e9 if stamp_ns else None
            with self._turn:
                problem = self.core.takeover.hear(messages.twist(message), age_s, time.monotonic())
        if problem is not None:
            self._node.get_logger().error(f"dropped a twist on {TAKEOVER}: {problem}", throttle_duration_sec=1.0)

    def _on_pose(self, pose: NDArray[np.float64]) -> None:
        with self._turn:
            self.core.measured(pose, time.monotonic())

    # Outputs

    def _make_outputs(self, undo: contextlib.ExitStack) -> None:
        """Make the publishers; a dry run has none on the robot's topics."""
        node, robot, frame = self._node, self.robot, self.robot.base_frame
        twist, meant, gripper = robot.twist_command, robot.demonstrated_twist, robot.gripper_command
        self.servo: ServoLink | None = None
        self._corrections: TwistSink | None = None
        if self.dry_run:
            self._twists = TwistSink(node, "~/preview", TWIST_STAMPED, frame)
            self._grippers = GripperSink(node, gripper, "~/preview_gripper", None)
        else:
            self._twists = TwistSink(node, twist.topic, twist.type, frame)
            self._grippers = GripperSink(node, gripper, gripper.topic, gripper.action)
            if meant.topic != twist.topic:
                self._corrections = TwistSink(node, meant.topic, meant.type, frame)
                undo.callback(self._corrections.destroy)
            if robot.servo is not None:
                self.servo = ServoLink(node, robot.servo, self._period_ns / 1e9)
                undo.callback(self.servo.destroy)
        undo.callback(self._twists.destroy)
        undo.callback(self._grippers.destroy)

    def _look(self) -> None:
        """See whether what carries commands out is ready, and that nobody else commands it or plans."""
        reason: tuple[str, str] | None = None
        planners = self._node.count_publishers(topics.PLAN)
        if planners > 1:
            reason = "second_planner", f"{planners} nodes publish {topics.PLAN}: stop the others first"
        elif not self._value("allow_other_publishers") and (count := self._twists.publishers()) > 1:
            reason = "second_publisher", f"{count} nodes publish the twist command: stop the others first"
        elif self.servo is not None and self.servo.reason is not None:
            reason = self.servo.reason, self.servo.detail
        elif self._grippers.reason is not None:
            reason = self._grippers.reason, "the gripper's action server is not there"
        with self._turn:
            self.core.output = reason

    def _send(self, command: Command) -> None:
        if command.twist is not None:
            self._twists.send(command.twist)
        if command.opening is not None:
            self._grippers.send(command.opening)

    def _mark(self, taken_over: bool) -> None:
        """Mark in the bag where a person's corrections begin and end."""
        if taken_over != self._marked:
            self._marked = taken_over
            self._intervention.publish(Bool(data=taken_over))

    # Ticks

    def _on_tick(self) -> None:
        with self._turn:
            now_ns, now_s = self._now_ns(), time.monotonic()
            self._watchdog.ticked(now_s)
            if self._last_tick_ns and self.moving:
                self.ticks_missed += max(0, round((now_ns - self._last_tick_ns) / self._period_ns) - 1)
            self._last_tick_ns = now_ns
            pose = self.pose.newest(now_ns)
            command = self.core.tick(now_ns, now_s, None if pose is None else pose[:3])
            self._send(command)
            self._mark(self.core.taken_over)
            if self.core.taken_over and self._corrections is not None and command.twist is not None:
                self._corrections.send(command.twist)
        self._on_change()

    def _on_watchdog(self) -> None:
        """Stop the arm on the steady clock if the ROS clock's ticks do not come as they should."""
        if self._thread is None:
            return
        self._thread.check()
        simulated = self._ros_clock.ros_time_is_active
        with self._turn:
            reason = self._watchdog.look(self._now_ns(), time.monotonic(), simulated=simulated)
            if reason is not None:
                self.halt(reason)
            if reason == CLOCK_SET_BACK and not simulated:  # of simulated time RosClock tells
                self._on_clock_set_back()

    def _on_clock_set_back(self) -> None:
        with self._turn:
            self._node.get_logger().warning("the ROS clock was set back: dropped the plan")
            self.core.restart()

    def _take_priority(self) -> None:
        refused = take_real_time_priority(self._value("control_priority"))
        if refused is not None:
            self._node.get_logger().info(f"no real-time priority for control ticks: {refused}")

    def _now_ns(self) -> int:
        return int(self._ros_clock.now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
