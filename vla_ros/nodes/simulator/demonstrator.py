# SPDX-License-Identifier: Apache-2.0
"""A scripted teleoperator: drives the simulated arm by twists and lets the recorder record its demonstrations.

Subscribes  simulator/state
Publishes   demonstrated_twist (intended), twist_command (executed: with noise), gripper_command, language_command
Calls       ~/reset of the simulator, ~/start, ~/success, ~/failure of the recorder, and sets parameters of both

Records `episodes` demonstrations of each task, prints one JSON line per episode and a summary, and exits.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, String

from vla_ros import actions, topics
from vla_ros.errors import UserError
from vla_ros.grid import Grid
from vla_ros.nodes.clients.services import RemoteNode, RemoteSimulator, ServiceError
from vla_ros.nodes.common import command_line, startup
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS, STATE_QOS
from vla_ros.nodes.simulator.demonstration import TIME_LIMIT_S, Demonstration
from vla_ros.nodes.simulator.messages import BASE_FRAME, parse_state, state_time_ns, time_message
from vla_ros.robot import load_robot
from vla_ros.sim.tasks import TASKS, task_names

# From the start of recording to the first twist; the bag has images of both cameras by then (at 10 Hz or more).
LEAD_NS = 100_000_000
START_TIMEOUT_S = 20.0
COMMAND_ARRIVES_S = 0.01
STALLED_S = 60.0
# The first action starts right at a control period, so that its frame has a label for the whole period.
ON_GRID_NS = 1_000_000


class DemonstratorNode(Node):
    """The state callback drives the arm; `demonstrate`, in another thread, runs the episodes."""

    def __init__(self) -> None:
        super().__init__("demonstrator")
        declare = startup.declare
        self._tasks = task_names(
            declare(self, "tasks", ["all"], "Tasks to demonstrate: names, or all (the trained ones)")
        )
        self._episodes = declare(self, "episodes", 60, "Demonstrations per task", low=1, high=100_000)
        self._first_seed = declare(self, "first_seed", 0, "Seed of each task's first scene", low=0, high=2**31 - 1)
        description = "Noise on the executed twist (DART); 0: none, 0.5: strong"
        self._perturbation = declare(self, "perturbation", 0.5, description, low=0.0, high=2.0)
        description = "Rate of the twists, on the absolute grid of the ROS clock [Hz]"
        self._control_hz = declare(self, "control_hz", 10.0, description, low=1.0, high=50.0)
        self._robot = load_robot(declare(self, "robot", "tabletop", "Robot file: a path, or a name in config/robots"))
        self._grid = Grid(self._control_hz)
        self._intended = self.create_publisher(TwistStamped, self._robot.demonstrated_twist.topic, COMMAND_QOS)
        self._executed = self.create_publisher(TwistStamped, self._robot.twist_command.topic, COMMAND_QOS)
        self._gripper = self.create_publisher(Float64MultiArray, self._robot.gripper_command.topic, COMMAND_QOS)
        self._language = self.create_publisher(String, self._robot.language.topic, LATCHED_QOS)
        self._simulator, self._recorder = RemoteSimulator(self), RemoteNode(self, "recorder")
        self._lock = threading.Lock()
        self._demonstration: Demonstration | None = None
        self._state_ns = self._not_before_ns = self._last_tick = 0
        self._opening: float | None = None
        self._outcome: str | None = None
        self._done = threading.Event()
        self.create_subscription(Float64MultiArray, topics.SIMULATOR_STATE, self._on_state, STATE_QOS)

    def demonstrate(self) -> Counter[str]:
        """Record all episodes of all tasks; returns the count of each outcome."""
        outcomes: Counter[str] = Counter()
        for task in self._tasks:
            self._recorder.set_parameters(task=task)
            for seed in range(self._first_seed, self._first_seed + self._episodes):
                outcome, duration_s = self._episode(task, seed)
                outcomes[outcome] += 1
                line = {"task": task, "seed": seed, "outcome": outcome, "duration_s": round(duration_s, 2)}
                print(json.dumps(line), flush=True)
        return outcomes

    def _episode(self, task: str, seed: int) -> tuple[str, float]:
        reset = self._simulator.reset(task, seed)
        self._move_gripper(1.0)  # as after the reset, so that the first gripper command in the bag is true
        self._language.publish(String(data=reset["command"]))
        time.sleep(COMMAND_ARRIVES_S)
        self._start_recording(reset["command"])
        demonstration = Demonstration(TASKS[task], seed, self._perturbation, self._control_hz)
        self._done.clear()
        with self._lock:
            self._not_before_ns = max(self._state_ns, reset["time_ns"]) + LEAD_NS
            self._demonstration = demonstration
            # A simulator in lockstep waits at this state for its twist.
            self._executed.publish(_twist_message(np.zeros(6), self._state_ns))
        if not self._done.wait(STALLED_S + TIME_LIMIT_S):
            raise ServiceError(f"{task} (seed {seed}) timed out: no messages on {topics.SIMULATOR_STATE}")
        assert self._outcome is not None
        self._recorder.trigger(self._outcome)
        return self._outcome, demonstration.ticks / self._control_hz

    def _start_recording(self, command: str) -> None:
        """Start an episode with this command, waiting for cameras that are still starting up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                marker = json.loads(self._recorder.trigger("start"))
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
                continue
            if marker["command"] == command:
                return
            self._recorder.trigger("discard")  # the command has not arrived yet
            time.sleep(0.1)

    def _on_state(self, message: Float64MultiArray) -> None:
        """Act on the first state of each control period; stand still until the recorder has its first images."""
        self._state_ns = time_ns = state_time_ns(message)
        tick = self._grid.tick_at(time_ns)
        with self._lock:
            demonstration = self._demonstration
            if demonstration is None or tick == self._last_tick:
                return
            on_grid = time_ns - self._grid.start_ns(tick) < ON_GRID_NS
            if demonstration.ticks == 0 and (time_ns < self._not_before_ns or not on_grid):
                self._executed.publish(_twist_message(np.zeros(6), time_ns))
                return
            self._last_tick = tick
            step = demonstration.step(parse_state(message))
            self._publish(step.intended, step.executed, time_ns)
            if step.outcome is not None:
                self._demonstration, self._outcome = None, step.outcome
                self._done.set()

    def _publish(self, intended: NDArray[np.float64], executed: NDArray[np.float64], time_ns: int) -> None:
        """Publish a step, the executed twist last: a simulator in lockstep continues as soon as it arrives."""
        # With simulated time, our clock may lag behind the state we respond to.
        stamp_ns = max(self.get_clock().now().nanoseconds, time_ns)
        if intended[6] != self._opening:
            self._move_gripper(float(intended[6]))
        self._intended.publish(_twist_message(intended, stamp_ns))
        self._executed.publish(_twist_message(executed, stamp_ns))

    def _move_gripper(self, opening: float) -> None:
        gripper = self._robot.gripper_command
        self._opening = opening
        value = actions.value_from_opening(opening, gripper.closed, gripper.open)
        self._gripper.publish(Float64MultiArray(data=[value]))


def _twist_message(action: NDArray[np.float64], stamp_ns: int) -> TwistStamped:
    message = TwistStamped()
    message.header.stamp, message.header.frame_id = time_message(stamp_ns), BASE_FRAME
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, action[:6])
    return message


def main(args: Sequence[str] | None = None) -> int:
    """Record the demonstrations, then exit."""
    command_line.answer_help("demonstrator_node", __doc__, args)
    rclpy.init(args=list(args) if args is not None else None)
    executor = SingleThreadedExecutor()
    spinning = None
    try:
        node = DemonstratorNode()
        startup.refuse_unknown_parameters(node, args)
        executor.add_node(node)
        spinning = threading.Thread(target=_spin, args=(executor,), name="executor", daemon=True)
        spinning.start()
        outcomes = node.demonstrate()
        print(f"done: {outcomes['success']} successes, {outcomes['failure']} failures", flush=True)
        return 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
        if spinning is not None:
            spinning.join(timeout=5.0)


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


if __name__ == "__main__":
    sys.exit(main())
