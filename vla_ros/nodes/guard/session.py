# SPDX-License-Identifier: Apache-2.0
"""The guard between configure and cleanup: messages feed its core, a thread ticks it at the command rate."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, cast

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.clock import ROSClock
from rclpy.node import Node
from trajectory_msgs.msg import MultiDOFJointTrajectory

from vla_ros import topics
from vla_ros.errors import UserError
from vla_ros.grid import Grid
from vla_ros.nodes.common.clock import GridThread, RosClock, steady_clock, take_real_time_priority
from vla_ros.nodes.common.planner_messages import read_plan, read_status
from vla_ros.nodes.common.qos import COMMAND_QOS, STATE_QOS, second_publisher
from vla_ros.nodes.guard.command_outputs import CommandOutputs
from vla_ros.nodes.guard.emergency_inputs import EmergencyInputs
from vla_ros.nodes.guard.operator_inputs import OperatorInputs
from vla_ros.nodes.guard.pose_input import PoseInput
from vla_ros.robot import Robot
from vla_ros.runtime.execution.commands import GripperSwitch
from vla_ros.runtime.execution.executors import make_executor
from vla_ros.runtime.execution.timeline import ActionTimeline
from vla_ros.runtime.run_summary import run_summary
from vla_ros.runtime.safety.governor import SafetyGovernor, State
from vla_ros.runtime.safety.guard import Guard, GuardSettings
from vla_ros.runtime.safety.operator_signals import Deadman, EmergencyStops, Takeover
from vla_ros.runtime.safety.plausibility import MotionCheck
from vla_ros.runtime.safety.watchdog import CLOCK_SET_BACK, CLOCK_STOPPED, Watchdog

OUTPUTS_PERIOD_S = 0.1
NO_CLOCK = "clock_stopped: use_sim_time is set, and nothing advances on /clock"
Value = Callable[[str], Any]


def make_guard(value: Value, robot: Robot, stops: EmergencyStops) -> Guard:
    """Make the guard's core, disarmed.

    Args:
        value: Returns a parameter by its name.

    Raises:
        UserError: A parameter is out of its range.
    """
    grid = Grid(robot.command_hz)
    try:
        names = ("close_below", "open_above", "debounce_ticks", "min_interval_s")
        gripper = GripperSwitch(*(value(f"gripper_{name}") for name in names))
        executor = make_executor(value("executor"), horizon=value("executor_horizon"), decay=value("ensemble_decay"))
    except ValueError as error:
        raise UserError(f"parameter {error}") from None
    governor = SafetyGovernor(
        robot.limits,
        period_s=grid.period_s,
        stop_ticks=max(1, round(value("stop_time_s") / grid.period_s)),
        speed_scale=value("speed_scale"),
        first_run_scale=value("first_run_scale"),
    )
    return Guard(
        GuardSettings(grid.period_ns, value("resume_within_s"), value("heartbeat_max_age_s")),
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
        node: reads parameters from it, and runs under its name.
        robot: to guard.
        emergency: its stops outlive the session.
        turn: see above.
        on_change: called after each tick and each stop.

    Raises:
        UserError: a parameter or the robot's file is invalid.
    """

    def __init__(
        self, node: Node, robot: Robot, emergency: EmergencyInputs, turn: threading.RLock, on_change: Callable[[], None]
    ) -> None:
        self._node = node
        self._emergency = emergency
        self._on_change = on_change
        self._turn = turn
        self._thread: GridThread | None = None
        self._started_s = self._active_s = 0.0
        self.robot = robot
        self.dry_run: bool = self._value("dry_run")
        self.core = make_guard(self._value, robot, emergency.stops)
        self._grid = Grid(robot.command_hz)
        self._period_s = self._grid.period_s
        self.stuck = ""
        self._ros_clock = cast(ROSClock, node.get_clock())
        self._watchdog = Watchdog(self._period_s)
        with ExitStack() as undo:
            keep = undo.enter_context
            self.outputs = keep(closing(CommandOutputs(node, robot, self._period_s, dry_run=self.dry_run)))
            self.pose = keep(closing(PoseInput(node, robot, self._on_pose)))
            deadman, takeover = self.core.deadman, self.core.takeover
            self.inputs = keep(closing(OperatorInputs(node, robot, deadman, takeover, turn, self._pose_now)))
            for kind, topic, callback, qos in (
                (MultiDOFJointTrajectory, topics.PLAN, self._on_plan, COMMAND_QOS),
                (DiagnosticStatus, topics.PLANNER_STATUS, self._on_status, STATE_QOS),
            ):
                undo.callback(node.destroy_subscription, node.create_subscription(kind, topic, callback, qos))
            clock = steady_clock()
            for period_s, on_timer in ((self._period_s, self._on_watchdog), (OUTPUTS_PERIOD_S, self._check_outputs)):
                undo.callback(node.destroy_timer, node.create_timer(period_s, on_timer, clock=clock))
            gc.collect()
            gc.freeze()  # a full collection of what exists now would hold up ticks
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
        self.outputs.start()
        self._check_outputs()
        if armed:
            self.core.arm(True, self._now_ns())
        self._started_s = time.monotonic()
        self._watchdog.start(self._now_ns(), self._started_s)
        clock = RosClock(self._ros_clock, on_set_back=self._on_clock_set_back)
        self._thread = GridThread(clock, self._grid, self._on_tick, self._take_priority)
        self._thread.start()

    def stop(self, reason: str) -> None:
        """Stop the arm within its limits, send zero twists, then go silent."""
        if self._thread is None:
            return
        self._thread.stop()
        self._thread = None
        moving = self.moving
        while self.moving:
            self._emergency.take()  # the executor is busy here until this returns
            with self._turn:
                command = self.core.halt("emergency_stop" if self.core.stops.latched else reason)
                self.outputs.send(command)
            if command.twist is not None and command.twist.any():
                time.sleep(self._period_s)  # the arm has to follow while it slows down
        self.inputs.mark_intervention(False)
        with self._turn:
            self.core.disarm(reason)
            self.core.halt("disarmed")
        self._active_s += time.monotonic() - self._started_s
        self._node.get_logger().info(f"run summary:\n{run_summary(self.core, self._active_s)}")
        if moving:
            self.outputs.twists.flush(timeout_s=0.5)
            self._node.get_logger().info(f"arm stopped: {reason}")

    def close(self) -> None:
        """Stop and release everything."""
        self.stop("shutdown")
        self._undo.close()

    def arm(self, armed: bool) -> None:
        """Arm or disarm."""
        with self._turn:
            self.core.arm(armed, self._now_ns())

    def halt(self, reason: str) -> None:
        """Take one step of a stop now instead of with the next tick."""
        if self.active and self.moving:
            self.outputs.send(self.core.halt(reason))
            self._on_change()

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

    def _pose_now(self) -> NDArray[np.float64] | None:
        return self.pose.newest(int(self._node.get_clock().now().nanoseconds))

    def _on_pose(self, pose: NDArray[np.float64]) -> None:
        if not self.dry_run:  # nothing carries the twists out
            with self._turn:
                self.core.measured(pose, time.monotonic())

    def _check_outputs(self) -> None:
        """Tell the core whether commands are executed, and whether another node plans, commands or measures the arm."""
        problem = second_publisher(self._node, self.robot, "second_planner", topics.PLAN)
        others = self.outputs.twists.publishers() - 1
        if problem is None and others > 0 and not self._value("allow_other_publishers"):
            topic = self.robot.twist_command.topic
            problem = "second_publisher", f"{others} other nodes publish {topic}: stop them first"
        problem = problem or self.pose.problem() or self.inputs.problem()
        if problem is None and (reason := self.outputs.reason) is not None:
            problem = reason, self.outputs.detail(reason)
        with self._turn:
            self.core.output = problem

    def _on_tick(self) -> None:
        with self._turn:
            now_ns, now_s = self._now_ns(), time.monotonic()
            self._watchdog.ticked(now_s)
            pose = self.pose.newest(now_ns)
            command = self.core.tick(now_ns, now_s, None if pose is None else pose[:3])
            self.outputs.send(command)
            self.inputs.mark_intervention(self.core.taken_over)
            if self.core.taken_over and command.twist is not None:
                self.outputs.send_correction(command.twist)
            self._on_change()

    def _on_watchdog(self) -> None:
        """Stop the arm on the steady clock if the ROS clock's ticks do not come as they should."""
        if self._thread is None:
            return
        self._thread.check()
        simulated = self._ros_clock.ros_time_is_active
        with self._turn:
            reason = self._watchdog.check(self._now_ns(), time.monotonic(), simulated=simulated)
            stuck = NO_CLOCK if reason == CLOCK_STOPPED and simulated else reason or ""
            changed, self.stuck = stuck != self.stuck, stuck
            if reason is not None:
                self.halt(reason)
            if changed:
                self._on_change()
        if reason == CLOCK_SET_BACK and not simulated:  # simulated time is reported by RosClock
            self._on_clock_set_back()

    def _on_clock_set_back(self) -> None:
        self._node.get_logger().warning("the ROS clock was set back: dropping the plan")
        with self._turn:
            self.core.restart()
            self.pose.forget()

    def _take_priority(self) -> None:
        refused = take_real_time_priority(self._value("control_priority"))
        if refused is not None:
            self._node.get_logger().info(f"control ticks run without real-time priority: {refused}")

    def _now_ns(self) -> int:
        return int(self._ros_clock.now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
