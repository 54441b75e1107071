# SPDX-License-Identifier: Apache-2.0
"""One policy on one robot, from configure to cleanup: messages feed the engine, its chunks become plans for the guard.

A language command travels one path: its topic -> `CommandQueue` -> `Engine.set_command` -> observations.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, cast

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import ROSClock
from rclpy.node import Node
from std_msgs.msg import Bool

from vla_ros import topics
from vla_ros.errors import UserError
from vla_ros.nodes.common.clock import GridThread, RosClock, steady_clock
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, second_publisher, unheard
from vla_ros.nodes.policy import loading
from vla_ros.nodes.policy.loading import FindPolicy
from vla_ros.nodes.policy.observation_streams import ObservationStreams
from vla_ros.nodes.policy.plan_display import PlanDisplay
from vla_ros.nodes.policy.plan_publisher import PlanPublisher
from vla_ros.observations.observation import ObservationBuffer, ObservationQueue
from vla_ros.robot import Robot, load_robot
from vla_ros.runtime.planning.command_queue import AFTER_SUCCESS, CommandQueue, CommandTooLong
from vla_ros.runtime.planning.engine import Engine, EngineStatus
from vla_ros.runtime.safety.governor import FAULTS

LOOK_PERIOD_S = 0.1  # at the ROS graph


def make_commands(value: Callable[[str], Any]) -> CommandQueue:
    """Return a command queue; `value` returns a parameter by name.

    Raises:
        UserError: a parameter is invalid.
    """
    try:
        return CommandQueue(value("on_new_command"), value("stop_words"))
    except ValueError as error:
        raise UserError(f"parameter {error}") from None


OVERRIDE = "any_robot:=true"
OLD_COMMAND = "it was published before this node started; say it again, or arm the guard to follow it"


class PolicySession:
    """Four threads: the executor's receives, the engine's owns the policy, one ticks on the grid, one sends the status.

    Commands belong to the holder of `turn`. Nobody waits while holding it.

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
        self._grid_thread: GridThread | None = None
        self.turn = threading.RLock()
        self.robot: Robot = load_robot(self._value("robot"))
        contract, make_policy = find_policy(self._value, self.robot)
        log, checkpoint, any_robot = node.get_logger(), self._value("checkpoint"), self._value("any_robot")
        if note := contract.check_robot(self.robot.name, checkpoint, any_robot=any_robot, override=OVERRIDE):
            log.warning(note)
        self.commands = make_commands(self._value)
        self._grid = contract.timing.grid
        self._succeeded = False
        self._old_command = ""
        self._armed: bool | None = None  # until the guard tells
        self._misheard: tuple[str, str] | None = None  # reason and detail, from the ROS graph
        self._stale: str | None = None
        spec = contract.observation_spec
        self._camera_topics = tuple(self.robot.cameras[camera.name].topic for camera in spec.cameras)
        observations = ObservationQueue(ObservationBuffer(spec, self.robot.observation))
        self._ros_clock = cast(ROSClock, node.get_clock())
        clock = RosClock(self._ros_clock, on_set_back=self._on_clock_set_back)
        with ExitStack() as undo:
            plans = PlanPublisher(node, self.robot, self._grid, self.status, self._camera_ns)
            self.plans = undo.enter_context(closing(plans))
            self.engine = Engine(make_policy, observations, plans, clock, plans.publish_status)
            undo.callback(self._end_engine)
            self.engine.start()
            streams = ObservationStreams(node, self.robot, spec, observations, self.hear, self._grid.period_ns)
            self.streams = undo.enter_context(closing(streams))
            display = PlanDisplay(node, self.robot.base_frame, self._grid.period_s)
            self._display = undo.enter_context(closing(display))
            if self._value("on_new_command") == AFTER_SUCCESS:
                success = node.create_subscription(Bool, topics.TASK_SUCCESS, self._on_success, COMMAND_QOS)
                undo.callback(node.destroy_subscription, success)
            guard = node.create_subscription(DiagnosticStatus, topics.GUARD_STATE, self._on_guard, LATCHED_QOS)
            undo.callback(node.destroy_subscription, guard)
            timer = node.create_timer(LOOK_PERIOD_S, self._look, clock=steady_clock())
            undo.callback(node.destroy_timer, timer)
            self._freeze_garbage_collection(undo)
            self._undo = undo.pop_all()
        log.info(f"ready: {checkpoint} at {contract.timing.control_hz:g} Hz on robot {self.robot.name!r}")

    def status(self) -> EngineStatus:
        """Return what the engine says of itself, and what it cannot know."""
        engine = self.engine.status()
        if self._misheard is not None and engine.reason not in FAULTS:  # stop words are among the commands
            return dataclasses.replace(engine, reason=self._misheard[0], detail=self._misheard[1])
        if self._old_command and engine.reason == "no_command":
            detail = f"{self._old_command[:80]!r}: {OLD_COMMAND}"
            return dataclasses.replace(engine, reason="latched_command", detail=detail)
        if self._stale is not None and engine.reason is None:  # it looks closer, but not while the model computes
            return dataclasses.replace(engine, reason="stale", detail=f"stream {self._stale!r} is silent")
        return engine

    @property
    def active(self) -> bool:
        """Whether it observes and plans."""
        return self._grid_thread is not None

    def start(self) -> None:
        """Start to observe and to plan."""
        self._started_s = time.monotonic()
        self.engine.forget_observations()
        self.engine.set_command(self.commands.following)
        self.streams.start()
        self.plans.start()
        self._grid_thread = GridThread(RosClock(self._ros_clock), self._grid, self._on_tick)
        self._grid_thread.start()

    def stop(self) -> None:
        """Stop planning; the guard stops the arm."""
        if self._grid_thread is None:
            return
        self._grid_thread.stop()
        self._grid_thread = None
        self.streams.stop()
        self.engine.set_command("")
        self.plans.stop()
        engine, active_s = self.engine.status(), time.monotonic() - self._started_s
        measured = engine.inference_ms
        inference = f"inference p50 {measured.p50:.1f} ms, p99 {measured.p99:.1f} ms" if measured else "no inference"
        self._node.get_logger().info(
            f"planned for {active_s:.1f} s: {self.plans.count} plans, {inference}, {engine.overruns} ticks overrun"
        )

    def close(self) -> None:
        """Stop, end the engine's thread and release everything."""
        self.stop()
        self._undo.close()

    def _freeze_garbage_collection(self, undo: ExitStack) -> None:
        """Exclude what exists now (torch, weights, entities) from garbage collection until this is closed.

        A full collection of it would hold all threads for about 100 ms at an unpredictable moment.
        """
        gc.collect()
        gc.freeze()
        undo.callback(gc.unfreeze)

    def _end_engine(self) -> None:
        if not self.engine.stop():
            self._node.get_logger().warning("the policy is still computing; its thread ends when that is done")

    def hear(self, text: str, is_old: bool = False) -> None:
        """Handle a text as if it had arrived on the language topic.

        One that `is_old`, latched before this node was started, waits until it is said again or the guard is armed.
        """
        self._old_command = text if is_old and not self.commands.is_stop(text) else ""
        if self._old_command:
            self._node.get_logger().warning(f"not following {text[:80]!r}: {OLD_COMMAND}")
            return
        try:
            with self.turn:
                self._follow(self.commands.offer(text, self.plans.ticks))
        except CommandTooLong as error:
            self._follow("")
            self._node.get_logger().error(str(error), throttle_duration_sec=1.0)
        except OverflowError as error:
            self._node.get_logger().error(f"command {text[:80]!r} dropped: {error}", throttle_duration_sec=1.0)

    def _look(self) -> None:
        language = self.robot.language
        problem = unheard(self._node, language.topic, language.type)[1]
        before = self._misheard
        if problem is not None:
            self._misheard = "command_unheard", f"{language.topic}: {problem}"
        else:
            self._misheard = second_publisher(self._node, self.robot, "second_camera_publisher", *self._camera_topics)
        if self._misheard != before and self.active:
            self.plans.publish_status()

    def _on_guard(self, message: DiagnosticStatus) -> None:
        armed = any(pair.key == "armed" and pair.value == "True" for pair in message.values)
        if armed and self._armed is False and self._old_command:
            self.hear(self._old_command)  # whoever armed the arm saw it in the state
        self._armed = armed

    def _on_success(self, message: Bool) -> None:
        if message.data and not self._succeeded:
            with self.turn:
                self._follow(self.commands.succeeded())
        self._succeeded = message.data

    def _follow(self, command: str | None) -> None:
        if command is not None and self.active:
            self.engine.set_command(command)
            self.plans.publish_status()

    def _on_tick(self) -> None:
        now_ns = int(self._ros_clock.now().nanoseconds)
        tick = self._grid.tick_at(now_ns)
        with self.turn:
            self._follow(self.commands.tick(tick, self.plans.ticks))
        before, self._stale = self._stale, self.streams.stale(now_ns)
        if self._stale is not None and before is None:
            self.plans.publish_status()  # a stop must not wait for the next heartbeat
        self._display.show(self.streams.ee_pose(now_ns), self.plans.remaining(tick))
        self._on_change()

    def _camera_ns(self, time_ns: int) -> int | None:
        return self.streams.camera_ns(time_ns)

    def _on_clock_set_back(self) -> None:
        if self.active:
            self._node.get_logger().warning("the ROS clock was set back: dropping plan and observations")
            with self.turn:
                self.engine.forget_observations()
                self.streams.start()

    def reset(self) -> None:
        """Forget plan, history and fault; the command stays."""
        with self.turn:
            self.engine.reset()
        self.plans.publish_status()

    def check(self) -> None:
        """Raise what ended the grid's thread, if anything did."""
        if self._grid_thread is not None:
            self._grid_thread.check()

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value
