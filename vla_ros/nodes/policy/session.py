# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot, from configure to cleanup: what arrives feeds the engine, the control thread acts.

A language command travels one path: its topic -> `CommandQueue` -> `Engine.set_command` -> observations.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, cast

from rclpy.clock import ROSClock
from rclpy.node import Node
from std_msgs.msg import Bool

from vla_ros import topics
from vla_ros.nodes.common.clock import GridThread, RosClock, steady_clock, take_real_time_priority
from vla_ros.nodes.common.qos import COMMAND_QOS
from vla_ros.nodes.guard.command_outputs import CommandOutputs
from vla_ros.nodes.guard.operator_inputs import OperatorInputs
from vla_ros.nodes.guard.runtime_factory import make_commands, make_control
from vla_ros.nodes.policy import loading
from vla_ros.nodes.policy.loading import FindPolicy
from vla_ros.nodes.policy.observation_streams import ObservationStreams
from vla_ros.nodes.policy.plan_display import PlanDisplay
from vla_ros.observations.observation import ObservationBuffer, ObservationQueue
from vla_ros.robot import Robot, load_robot
from vla_ros.runtime.execution.control import Command
from vla_ros.runtime.planning.command_queue import AFTER_SUCCESS
from vla_ros.runtime.planning.engine import Engine, EngineStatus
from vla_ros.runtime.run_summary import run_summary
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.safety.interlocks import CLOCK_SET_BACK, Interlocks, Watchdog
from vla_ros.runtime.stats import RecentValues

OUTPUTS_PERIOD_S = 0.1


class PolicySession:
    """Three threads: the executor's receives, the engine's owns the policy, and the control thread ticks on the grid.

    Control loop, interlocks, commands and outputs belong to the holder of `turn`: the control thread during a tick, the
    executor's for operators, watchdog and clock in between. Nobody waits while holding it.

    Args:
        node: reads parameters from it, and runs under its name.
        on_change: called after each tick that may have changed the state.
        find_policy: see `loading.from_parameters`.

    Raises:
        UserError: a parameter, the checkpoint or the robot's file is invalid, or they do not fit together.
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
        self._period_s = self.control.period_ns / 1e9
        self._watchdog = Watchdog(self._period_s)
        self._chunk_ticks, self._succeeded = contract.timing.chunk, False
        spec = contract.observation_spec
        observations = ObservationQueue(ObservationBuffer(spec, self.robot.observation))
        self._ros_clock = cast(ROSClock, node.get_clock())
        clock = RosClock(self._ros_clock, on_set_back=self._on_clock_set_back)
        self.engine = Engine(make_policy, observations, self.control.timeline, clock)
        with ExitStack() as undo:
            undo.callback(self._end_engine)
            self.engine.start()
            streams = ObservationStreams(node, self.robot, spec, observations, self.hear, self.control.period_ns)
            self.streams = undo.enter_context(closing(streams))
            self._make_entities(undo)
            self._freeze_garbage_collection(undo)
            self._undo = undo.pop_all()
        checkpoint = self._value("checkpoint")
        log = node.get_logger()
        log.info(f"ready: {checkpoint} at {contract.timing.control_hz:g} Hz on robot {self.robot.name!r}")

    @property
    def active(self) -> bool:
        """Whether ticks happen; the governor decides whether they move the arm."""
        return self._control_thread is not None

    @property
    def moving(self) -> bool:
        """Whether the arm's last command came from here and may still move it."""
        return self.control.governor.state in (State.RUNNING, State.STOPPING)

    def start(self, *, armed: bool) -> None:
        """Start to observe, to plan and, if armed, to move."""
        self.control.governor.arm(armed)
        self.outputs.start()
        self._check_outputs()
        self._started_s = time.monotonic()
        self._watchdog.start(self._now_ns(), self._started_s)
        self.engine.forget_observations()
        self.engine.set_command(self.commands.following)
        self.streams.start()
        clock = RosClock(self._ros_clock)
        self._control_thread = GridThread(clock, self.control.period_ns, self._on_tick, self._take_priority)
        self._control_thread.start()

    def stop(self, reason: str) -> None:
        """Stop the arm if it was moving, zero twists last, then go silent."""
        if self._control_thread is None:
            return
        self._control_thread.stop()
        self._control_thread = None  # from here on, this thread is the only one
        self.streams.stop()
        self.engine.set_command("")
        moving = self.moving
        while self.moving:
            self.inputs.take_emergency_stops()  # the executor is busy here until this returns
            command = self.control.halt("emergency_stop" if self.interlocks.emergency else reason)
            self.outputs.send(command)
            if command.twist is not None and command.twist.any():
                time.sleep(self._period_s)  # the arm has to follow while it slows down
        self.inputs.mark_intervention(False)
        self.control.governor.arm(False)
        self.control.halt("disarmed")
        engine, active_s = self.engine.status(), time.monotonic() - self._started_s
        latency = self.camera_to_twist_ms.summary()
        summary = run_summary(self.control, engine.inference_ms, engine.overruns, active_s, latency)
        self._node.get_logger().info(f"run summary:\n{summary}")
        if moving:
            self.outputs.twists.flush(timeout_s=0.5)
            self._node.get_logger().info(f"arm stopped: {reason}")

    def close(self) -> None:
        """Stop, end the engine's thread and release everything."""
        self.stop("shutdown")
        self._undo.close()

    def _freeze_garbage_collection(self, undo: ExitStack) -> None:
        """Exclude what exists now (torch, weights, entities) from garbage collection until this is closed.

        A full collection of it would hold all threads for about 100 ms, several ticks, at an unpredictable moment.
        """
        gc.collect()
        gc.freeze()
        undo.callback(gc.unfreeze)

    def _end_engine(self) -> None:
        if not self.engine.stop():
            self._node.get_logger().warning("the policy is still computing; its thread ends when that is done")

    def _make_entities(self, undo: ExitStack) -> None:
        node = self._node
        outputs = CommandOutputs(node, self.robot, self._period_s, dry_run=self.dry_run)
        self.outputs = undo.enter_context(closing(outputs))
        self._display = undo.enter_context(closing(PlanDisplay(node, self.robot.base_frame, self._period_s)))
        inputs = OperatorInputs(node, self.interlocks, self.robot, self._on_emergency_stop, self.turn)
        self.inputs = undo.enter_context(closing(inputs))
        self._check_outputs()
        if self._value("on_new_command") == AFTER_SUCCESS:
            success = node.create_subscription(Bool, topics.TASK_SUCCESS, self._on_success, COMMAND_QOS)
            undo.callback(node.destroy_subscription, success)
        clock = steady_clock()
        for period_s, callback in ((self._period_s, self._on_watchdog), (OUTPUTS_PERIOD_S, self._check_outputs)):
            undo.callback(node.destroy_timer, node.create_timer(period_s, callback, clock=clock))

    def _check_outputs(self) -> None:
        """Tell the interlocks whether commands are executed, and whether somebody else commands the arm."""
        self.interlocks.publishers = 1 if self._value("allow_other_publishers") else self.outputs.twists.publishers()
        self.interlocks.input_reason = self.inputs.unheard_stop()
        self.interlocks.output_reason = self.outputs.reason

    def hear(self, text: str) -> None:
        """Handle a text as if it had arrived on the language topic."""
        try:
            with self.turn:
                self._follow(self.commands.offer(text, self._planned_ticks()))
        except OverflowError as error:
            self._node.get_logger().error(f"command {text[:80]!r} dropped: {error}", throttle_duration_sec=1.0)

    def _planned_ticks(self) -> range | None:
        plan_tick = self.control.timeline.plan_tick
        return None if plan_tick is None else range(plan_tick, plan_tick + self._chunk_ticks)

    def _on_success(self, message: Bool) -> None:
        if message.data and not self._succeeded:
            with self.turn:
                self._follow(self.commands.succeeded())
        self._succeeded = message.data

    def _follow(self, command: str | None) -> None:
        if command is not None and self.active:
            self.engine.set_command(command)

    def _take_priority(self) -> None:
        refused = take_real_time_priority(self._value("control_priority"))
        if refused is not None:
            self._node.get_logger().info(f"control ticks run without real-time priority: {refused}")

    def _on_tick(self) -> None:
        with self.turn:
            now_ns = self._now_ns()
            command = self._act(now_ns)
            self._measure_latency()
            tick = now_ns // self.control.period_ns
            self._follow(self.commands.tick(tick, self._planned_ticks()))
            self._display.show(self.streams.ee_pose(now_ns), self.control.timeline.plan(tick))
            self.inputs.mark_intervention(self.control.taken_over)
            if self.control.taken_over and command.twist is not None:
                self.outputs.send_correction(command.twist)
            self._on_change()

    def _act(self, now_ns: int) -> Command:
        """Decide on this tick's command and publish it."""
        now_s = time.monotonic()
        self._watchdog.ticked(now_s)
        manual = self.interlocks.manual_command(now_s)
        reason = self.interlocks.reason(now_s)
        if manual is None:
            reason = reason or self.engine.reason or ("stale" if self.streams.stale(now_ns) else None)
        pose = self.streams.ee_pose(now_ns)
        command = self.control.tick(now_ns, reason, None if pose is None else pose[:3], manual)
        self.outputs.send(command)
        return command

    def _measure_latency(self) -> None:
        """Measure from the cameras' stamps to the twist that has just been published."""
        tick = self.control.timeline.answered_tick
        if self.control.governor.state is not State.RUNNING or self.control.taken_over or tick is None:
            return
        camera_ns = self.streams.camera_ns(tick * self.control.period_ns)
        if camera_ns is not None:
            self.camera_to_twist_ms.add((self._now_ns() - camera_ns) / 1e6)

    def _on_watchdog(self) -> None:
        """Stop the arm on the steady clock if the ROS clock's ticks do not come as they should."""
        if self._control_thread is None:
            return
        self._control_thread.check()
        simulated = self._ros_clock.ros_time_is_active
        with self.turn:
            reason = self._watchdog.check(self._now_ns(), time.monotonic(), simulated=simulated)
            if reason is not None and self.moving:
                self._halt(reason)
        if reason == CLOCK_SET_BACK and not simulated:  # simulated time is reported by RosClock
            self._on_clock_set_back()

    def _on_clock_set_back(self) -> None:
        if self.active:
            self._node.get_logger().warning("the ROS clock was set back: dropping plan and observations")
            with self.turn:
                self.engine.forget_observations()
                self.streams.start()

    def _on_emergency_stop(self) -> None:
        """Stop at once instead of with the next tick."""
        if self.active and self.moving:
            self._halt("emergency_stop")

    def _halt(self, reason: str) -> None:
        self.outputs.send(self.control.halt(reason))
        self._on_change()

    def arm(self, armed: bool) -> None:
        """Arm or disarm, from the next tick on."""
        with self.turn:
            self.control.governor.arm(armed)

    def reset(self) -> bool:
        """Forget plan, history and fault; return False if the emergency stop is still pressed."""
        with self.turn:
            self.engine.reset()
            released = self.interlocks.reset()
            if released:
                self.control.governor.reset()
            return released

    def detail(self, engine: EngineStatus) -> str:
        """Explain in a sentence why nothing moves, if there is more to say than the reason."""
        reason = self.control.governor.reason
        return self.outputs.detail(reason) or (engine.detail if reason == engine.reason else "")

    def _now_ns(self) -> int:
        return int(self._ros_clock.now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
