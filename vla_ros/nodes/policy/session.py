# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot, from configure to cleanup: what arrives feeds the engine, a thread sends what is due."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.node import Node
from std_msgs.msg import Bool

from vla_ros import topics
from vla_ros.nodes.common.clock import GridThread, RosClock
from vla_ros.nodes.common.qos import COMMAND_QOS
from vla_ros.nodes.guard.command_outputs import GripperSink, TwistSink
from vla_ros.nodes.guard.operator_inputs import OperatorInputs
from vla_ros.nodes.guard.runtime_factory import make_commands, make_control
from vla_ros.nodes.guard.servo_link import ServoLink
from vla_ros.nodes.policy import loading
from vla_ros.nodes.policy.loading import FindPolicy
from vla_ros.nodes.policy.observation_streams import ObservationStreams
from vla_ros.nodes.policy.plan_display import PlanDisplay
from vla_ros.observations.observation import ObservationBuffer
from vla_ros.robot import TWIST_STAMPED, Robot, load_robot
from vla_ros.runtime.execution.control import Command
from vla_ros.runtime.planning.command_queue import AFTER_SUCCESS
from vla_ros.runtime.planning.engine import Engine, EngineStatus
from vla_ros.runtime.planning.priority import take_real_time_priority
from vla_ros.runtime.planning.sample_queue import ObservationIntake
from vla_ros.runtime.run_summary import run_summary
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.safety.interlocks import Interlocks
from vla_ros.runtime.safety.watchdog import CLOCK_SET_BACK, Watchdog
from vla_ros.runtime.stats import RecentValues

SINKS_PERIOD_S = 0.1


class PolicySession:
    """Three threads: the executor's receives, the engine's owns the policy, and the control thread ticks on the grid.

    Control loop, interlocks, commands and sinks belong to whoever holds `turn`: the control thread for a tick, the
    executor's for what people, the watchdog and the clock have to say in between. Nobody waits while holding it.

    Args:
        node: whose parameters are read, and under whose name all of it runs.
        on_change: called after each tick that may have changed the state.
        find_policy: (value of a parameter by name, robot) -> its contract, and what makes it.

    Raises:
        UserError: a parameter, the checkpoint or the robot's file is wrong, or they do not fit together.
    """

    def __init__(
        self, node: Node, on_change: Callable[[], None], find_policy: FindPolicy = loading.from_parameters
    ) -> None:
        self._node = node
        self._on_change = on_change
        self._control_thread: GridThread | None = None
        self.turn = threading.RLock()
        self.camera_to_twist_ms = RecentValues()
        self.dry_run: bool = self._value("dry_run")
        self.interlocks = Interlocks(require_enable=self._value("require_enable"))
        self.robot: Robot = load_robot(self._value("robot"))
        contract, make_policy = find_policy(self._value, self.robot)
        self.control = make_control(self._value, self.robot, contract)
        self.commands = make_commands(self._value)
        self._watchdog = Watchdog(self.control.period_ns / 1e9)
        self._chunk_ticks, self._succeeded = contract.timing.chunk, False
        intake = ObservationIntake(ObservationBuffer(contract.observation_spec, self.robot.observation))
        self._ros_clock = cast(ROSClock, node.get_clock())
        clock = RosClock(self._ros_clock, on_set_back=self._on_clock_set_back)
        self.engine = Engine(make_policy, intake.snapshot, self.control.timeline, clock)
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_engine)
            self.engine.start()
            spec, on_command = contract.observation_spec, self.engine.set_command
            self.streams = ObservationStreams(
                node, self.robot, spec, intake, on_command, self.hear, self.control.period_ns
            )
            undo.callback(self.streams.destroy)
            self._make_entities(undo)
            self._set_aside_what_lasts(undo)
            self._undo = undo.pop_all()
        what = self._value("checkpoint")
        node.get_logger().info(f"ready: {what} at {contract.timing.control_hz:g} Hz on robot {self.robot.name!r}")

    @property
    def active(self) -> bool:
        """Whether ticks happen; the governor decides whether they move the arm."""
        return self._control_thread is not None

    @property
    def moving(self) -> bool:
        """Whether the arm's last command came from here and may still be one to move."""
        return self.control.governor.state in (State.RUNNING, State.STOPPING)

    def start(self, *, armed: bool) -> None:
        """Begin to observe, to plan and, if armed, to move."""
        self.control.governor.arm(armed)
        if self.servo is not None:
            self.servo.start()
        self._check_sinks()
        self._started_s = time.monotonic()
        self._watchdog.start(self._now_ns(), self._started_s)
        self.streams.start()
        clock = RosClock(self._ros_clock)
        self._control_thread = GridThread(clock, self.control.period_ns, self._on_tick, self._take_priority)
        self._control_thread.start()

    def stop(self, reason: str) -> None:
        """Zero twists last, if the arm was being moved, and then nothing."""
        if self._control_thread is None:
            return
        self._control_thread.stop()
        self._control_thread = None  # from here on, this thread is the only one
        self.streams.stop()
        self.engine.set_command("")
        moving = self.moving
        while self.moving:
            self.inputs.hear_emergency_stop()  # nobody else does until this returns
            command = self.control.halt("emergency_stop" if self.interlocks.emergency else reason)
            self._send(command)
            if command.twist is not None and command.twist.any():
                time.sleep(self.control.period_ns / 1e9)  # the arm has to follow while it slows down
        self.inputs.mark(False)
        self.control.governor.arm(False)
        self.control.halt("disarmed")
        engine = self.engine.status()
        active_s = time.monotonic() - self._started_s
        traced = self.camera_to_twist_ms.summary()
        summary = run_summary(self.control, engine.inference_ms, engine.overruns, active_s, traced)
        self._node.get_logger().info(f"run summary:\n{summary}")
        if moving:
            self._twists.flush(patience_s=0.5)
            self._node.get_logger().info(f"the arm was stopped: {reason}")

    def close(self) -> None:
        """Stop, end the engine's thread and give everything back."""
        self.stop("shutdown")
        self._undo.close()

    def _set_aside_what_lasts(self, undo: contextlib.ExitStack) -> None:
        """Keep what there is now (torch, the weights, the entities) out of garbage collection until this is closed.

        A full collection of it holds all threads for about 100 ms, several ticks, at a moment that nobody chooses.
        """
        gc.collect()
        gc.freeze()
        undo.callback(gc.unfreeze)

    def _end_engine(self) -> None:
        if not self.engine.stop():
            self._node.get_logger().warning("the policy is still computing; its thread ends when that is done")

    def _make_entities(self, undo: contextlib.ExitStack) -> None:
        node = self._node
        self._make_sinks(undo)
        self.inputs = OperatorInputs(node, self.interlocks, self.robot, self._on_emergency_stop, self.turn)
        undo.callback(self.inputs.destroy)
        self._check_sinks()
        if self._value("on_new_command") == AFTER_SUCCESS:
            success = node.create_subscription(Bool, topics.TASK_SUCCESS, self._on_success, COMMAND_QOS)
            undo.callback(node.destroy_subscription, success)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for period_s, callback in (
            (self.control.period_ns / 1e9, self._on_watchdog),
            (SINKS_PERIOD_S, self._check_sinks),
        ):
            undo.callback(node.destroy_timer, node.create_timer(period_s, callback, clock=steady))

    def _make_sinks(self, undo: contextlib.ExitStack) -> None:
        """Where commands go. A dry run does not even have publishers on the robot's topics."""
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
                self.servo = ServoLink(node, robot.servo, self.control.period_ns / 1e9)
                undo.callback(self.servo.destroy)
        self._display = PlanDisplay(node, frame, self.control.period_ns / 1e9)
        undo.callback(self._display.destroy)
        undo.callback(self._twists.destroy)
        undo.callback(self._grippers.destroy)

    def _check_sinks(self) -> None:
        """Whether what carries the commands out is there, and nobody else commands it."""
        self.interlocks.publishers = 1 if self._value("allow_other_publishers") else self._twists.publishers()
        self.interlocks.unheard = self.inputs.unheard_stop()
        servo_reason = None if self.servo is None else self.servo.reason
        self.interlocks.sink = servo_reason or self._grippers.reason

    def hear(self, text: str) -> None:
        """Take a text as one that has come on the language topic."""
        try:
            with self.turn:
                self._follow(self.commands.offer(text, self._planned_ticks()))
        except OverflowError as error:
            self._node.get_logger().error(f"command {text[:80]!r} dropped: {error}", throttle_duration_sec=1.0)

    def _planned_ticks(self) -> range | None:
        observed_tick = self.control.timeline.newest_tick
        return None if observed_tick is None else range(observed_tick, observed_tick + self._chunk_ticks)

    def _on_success(self, message: Bool) -> None:
        if message.data and not self._succeeded:
            with self.turn:
                self._follow(self.commands.succeeded())
        self._succeeded = message.data

    def _follow(self, command: str | None) -> None:
        if command is not None:
            self.streams.follow(command)

    def _take_priority(self) -> None:
        refused = take_real_time_priority(self._value("control_priority"))
        if refused is not None:
            self._node.get_logger().info(f"control ticks have no real-time priority: {refused}")

    def _on_tick(self) -> None:
        with self.turn:
            self._tick()

    def _tick(self) -> None:
        now_ns = self._now_ns()
        self._watchdog.ticked(time.monotonic())
        self._follow(self.commands.tick(now_ns // self.control.period_ns, self._planned_ticks()))
        by_hand = self.inputs.by_hand()
        reason = self.interlocks.reason(time.monotonic())
        if by_hand is None:
            reason = reason or self.engine.reason or ("stale" if self.streams.stale(now_ns) else None)
        pose = self.streams.ee_pose(now_ns)
        command = self.control.tick(now_ns, reason, None if pose is None else pose[:3], by_hand)
        self._send(command)
        self._trace()
        self._display.show(pose, self.control.timeline.newest_plan(now_ns // self.control.period_ns))
        self.inputs.mark(self.control.taken_over)
        if self.control.taken_over and self._corrections is not None and command.twist is not None:
            self._corrections.send(command.twist)  # what training takes for what was meant
        self._on_change()

    def _trace(self) -> None:
        """How long it took from the cameras to the twist that has just been published."""
        tick = self.control.timeline.answered_tick
        if self.control.governor.state is not State.RUNNING or self.control.taken_over or tick is None:
            return
        camera_ns = self.streams.camera_ns(tick * self.control.period_ns)
        if camera_ns is not None:
            self.camera_to_twist_ms.add((self._now_ns() - camera_ns) / 1e6)

    def _on_watchdog(self) -> None:
        """Bring the arm to a stop on the steady clock when the ROS clock's ticks do not come as they should."""
        if self._control_thread is None:
            return
        self._control_thread.check()
        simulated = self._ros_clock.ros_time_is_active
        with self.turn:
            reason = self._watchdog.look(self._now_ns(), time.monotonic(), simulated=simulated)
            if reason is not None and self.moving:
                self._halt(reason)
        if reason == CLOCK_SET_BACK and not simulated:  # of which nobody else tells, as RosClock does of simulated time
            self._on_clock_set_back()

    def _on_clock_set_back(self) -> None:
        if self.active:
            self._node.get_logger().warning("the ROS clock was set back: plan and observations are dropped")
            with self.turn:
                self.streams.restart()

    def _on_emergency_stop(self) -> None:
        """At once, and not with the next tick."""
        if self.active and self.moving:
            self._halt("emergency_stop")

    def _halt(self, reason: str) -> None:
        self._send(self.control.halt(reason))
        self._on_change()

    def arm(self, armed: bool) -> None:
        """Arm or disarm, with the next tick."""
        with self.turn:
            self.control.governor.arm(armed)

    def reset(self) -> bool:
        """Forget plan, history and fault; False: the emergency stop is still pressed."""
        with self.turn:
            self.engine.reset()
            released = self.interlocks.reset()
            if released:
                self.control.governor.reset()
            return released

    def detail(self, engine: EngineStatus) -> str:
        """A sentence about the reason why nothing moves, where there is one."""
        reason = self.control.governor.reason
        if self.servo is not None and reason == self.servo.reason:
            return self.servo.detail
        return engine.detail if reason == engine.reason else ""

    def sinks_warning(self) -> str | None:
        """What is wrong with what carries the commands out, where it carries them out all the same."""
        return (None if self.servo is None else self.servo.warning) or self._grippers.warning

    def sinks(self) -> dict[str, str]:
        """What is to be reported of what carries the commands out."""
        servo = {} if self.servo is None else {"servo status": self.servo.status, "servo detail": self.servo.detail}
        others = {
            "publishers of the command": str(self._twists.publishers()),
            "receivers with incompatible QoS": str(self._twists.deaf_receivers),
        }
        return {**servo, **others, "gripper goals failed": str(self._grippers.goals_failed)}

    def _send(self, command: Command) -> None:
        if command.twist is not None:
            self._twists.send(command.twist)
        if command.opening is not None:
            self._grippers.send(command.opening)

    def _now_ns(self) -> int:
        return int(self._ros_clock.now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
