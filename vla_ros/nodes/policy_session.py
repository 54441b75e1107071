# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot, from configure to cleanup: what arrives feeds the engine, a grid timer sends what is due."""

from __future__ import annotations

import array
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, cast

from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Bool, Float64MultiArray

from vla_ros import actions
from vla_ros.contract import PolicyContract
from vla_ros.errors import UserError
from vla_ros.nodes import policy_loading
from vla_ros.nodes.message_types import COMMAND_QOS, LATCHED_QOS
from vla_ros.nodes.observation_streams import ObservationStreams
from vla_ros.nodes.ros_clock import GridTimer, RosClock
from vla_ros.observation import ObservationBuffer
from vla_ros.robot import Robot, load_robot
from vla_ros.runtime.control import Command, ControlLoop
from vla_ros.runtime.engine import Engine
from vla_ros.runtime.governor import SafetyGovernor, State
from vla_ros.runtime.gripper import GripperSwitch
from vla_ros.runtime.intake import ObservationIntake
from vla_ros.runtime.timeline import ActionTimeline

ENABLE_MAX_AGE_S = 0.5
# The watchdog acts when the ROS clock, on which the control timer runs, has stood still for this many periods.
WATCHDOG_PERIODS = 2.5


class PolicySession:
    """Everything runs in the executor's one thread, except the engine, which owns the policy in its own.

    Args:
        node: whose parameters are read, and under whose name all of it runs.
        on_change: called after each tick that may have changed the state.

    Raises:
        UserError: a parameter, the checkpoint or the robot's file is wrong, or they do not fit together.
    """

    def __init__(self, node: Node, on_change: Callable[[], None]) -> None:
        self._node = node
        self._on_change = on_change
        self._timer: GridTimer | None = None
        self._enabled_s: float | None = None
        # What the ROS clock showed when it last moved, and when that was on the steady clock.
        self._moved_to_ns, self._moved_s = 0, 0.0
        self.robot: Robot = load_robot(self._value("robot"))
        checkpoint = self._value("checkpoint")
        contract = policy_loading.load_contract(checkpoint, self.robot)
        self.control = self._make_control(contract)
        intake = ObservationIntake(ObservationBuffer(contract.observation_spec, self.robot.observation))
        clock = RosClock(cast(ROSClock, node.get_clock()), on_set_back=self._on_clock_set_back)
        where = self._value("device"), self._value("cpu_threads")
        make_policy = functools.partial(policy_loading.load_runner, checkpoint, *where)
        self.engine = Engine(make_policy, intake.snapshot, self.control.timeline, clock)
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_engine)
            self.engine.start()
            spec, on_command = contract.observation_spec, self.engine.set_command
            self.streams = ObservationStreams(node, self.robot, spec, intake, on_command)
            undo.callback(self.streams.destroy)
            self._make_entities(undo)
            self._undo = undo.pop_all()
        node.get_logger().info(f"ready: {checkpoint} at {contract.timing.control_hz:g} Hz on robot {self.robot.name!r}")

    @property
    def active(self) -> bool:
        """Whether ticks happen; the governor decides whether they move the arm."""
        return self._timer is not None

    @property
    def moving(self) -> bool:
        """Whether the arm's last command came from here and may still be one to move."""
        return self.control.governor.state in (State.RUNNING, State.STOPPING)

    def start(self, *, armed: bool) -> None:
        """Begin to observe, to plan and, if armed, to move."""
        self.control.governor.arm(armed)
        self._moved_to_ns, self._moved_s = self._now_ns(), time.monotonic()
        self._timer = GridTimer(self._node, self.control.period_ns, self._on_tick)
        self.streams.start()

    def stop(self, reason: str) -> None:
        """Zero twists last, if the arm was being moved, and then nothing."""
        if self._timer is None:
            return
        self._timer.destroy()
        self._timer = None
        self.streams.stop()
        self.engine.set_command("")
        moving = self.moving
        while self.moving:
            self._send(self.control.halt(reason))
        self.control.governor.arm(False)
        self.control.halt("disarmed")
        if moving:
            self._twists.wait_for_all_acked(Duration(seconds=0.5))
            self._node.get_logger().info(f"the arm was stopped: {reason}")

    def close(self) -> None:
        """Stop, end the engine's thread and give everything back."""
        self.stop("shutdown")
        self._undo.close()

    def _end_engine(self) -> None:
        if not self.engine.stop():
            self._node.get_logger().warning("the policy is still computing; its thread ends when that is done")

    def _make_control(self, contract: PolicyContract) -> ControlLoop:
        try:
            gripper = GripperSwitch(
                self._value("gripper_close_below"),
                self._value("gripper_open_above"),
                self._value("gripper_debounce_ticks"),
            )
        except ValueError as error:
            raise UserError(f"parameters gripper_*: {error}") from None
        period_ns = contract.timing.period_ns
        governor = SafetyGovernor(
            self.robot.limits,
            period_s=period_ns / 1e9,
            stop_ticks=self._value("stop_ticks"),
            speed_scale=self._value("speed_scale"),
        )
        return ControlLoop(ActionTimeline(), governor, gripper, period_ns=period_ns)

    def _make_entities(self, undo: contextlib.ExitStack) -> None:
        node, robot = self._node, self.robot
        self._twists = node.create_publisher(TwistStamped, robot.twist_command.topic, COMMAND_QOS)
        undo.callback(node.destroy_publisher, self._twists)
        # Latched: a gripper driver that starts late may ask for what was wanted last; who subscribes volatile does not.
        self._grippers = node.create_publisher(Float64MultiArray, robot.gripper_command.topic, LATCHED_QOS)
        undo.callback(node.destroy_publisher, self._grippers)
        undo.callback(node.destroy_subscription, node.create_subscription(Bool, "enable", self._on_enable, COMMAND_QOS))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        watchdog = node.create_timer(self.control.period_ns / 1e9, self._on_watchdog, clock=steady)
        undo.callback(node.destroy_timer, watchdog)

    def _on_tick(self) -> None:
        now_ns = self._now_ns()
        reason = self.engine.reason if self._enabled() else "disabled"
        self._send(self.control.tick(now_ns, reason, self.streams.ee_position(now_ns)))
        self._on_change()

    def _on_watchdog(self) -> None:
        """Bring the arm to a stop on the steady clock when the ROS clock, and the control timer with it, stands still.

        Simulated time that is only slow is none of its business: the control timer comes as often as it should.
        """
        now_ns, now_s = self._now_ns(), time.monotonic()
        if now_ns != self._moved_to_ns:
            self._moved_to_ns, self._moved_s = now_ns, now_s
        stopped = now_s - self._moved_s > WATCHDOG_PERIODS * self.control.period_ns / 1e9
        if stopped and self.active and self.moving:
            self._send(self.control.halt("clock_stopped"))
            self._on_change()

    def _on_clock_set_back(self) -> None:
        if self.active:
            self._node.get_logger().warning("the ROS clock was set back: plan and observations are dropped")
            self.streams.restart()

    def _on_enable(self, message: Bool) -> None:
        self._enabled_s = time.monotonic() if message.data else None

    def _enabled(self) -> bool:
        if not self._value("require_enable"):
            return True
        return self._enabled_s is not None and time.monotonic() - self._enabled_s <= ENABLE_MAX_AGE_S

    def _send(self, command: Command) -> None:
        if command.twist is not None:
            message = TwistStamped()
            # The receiver judges a command's age by this stamp, so it is the time of publishing.
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.header.frame_id = self.robot.base_frame
            linear, angular = message.twist.linear, message.twist.angular
            linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, command.twist)
            self._twists.publish(message)
        if command.opening is not None:
            gripper = self.robot.gripper_command
            value = actions.value_from_opening(command.opening, gripper.closed, gripper.open)
            self._grippers.publish(Float64MultiArray(data=array.array("d", [value])))

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
