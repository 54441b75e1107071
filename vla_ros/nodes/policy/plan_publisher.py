# SPDX-License-Identifier: Apache-2.0
"""The policy's chunks as plans for the guard, and its status as a heartbeat."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import ArrayLike, NDArray
from rclpy.node import Node
from trajectory_msgs.msg import MultiDOFJointTrajectory

from vla_ros import topics
from vla_ros.nodes.common.planner_messages import plan_message, status_message
from vla_ros.nodes.common.qos import COMMAND_QOS
from vla_ros.robot import Robot
from vla_ros.runtime.planning.engine import EngineStatus
from vla_ros.runtime.safety.guard import Plan, PlannerStatus

HEARTBEAT_S = 0.05


class PlanPublisher:
    """Publishes what the engine plans; the guard decides what becomes of it.

    The heartbeat has a thread of its own: callbacks that take long do not look like a dead planner, a hanging
    interpreter does.

    Args:
        period_ns: Of the policy's control grid.
        status: Returns what the engine says of itself.
    """

    tells_policy = False
    stands_for = 0

    def __init__(self, node: Node, robot: Robot, period_ns: int, status: Callable[[], EngineStatus]) -> None:
        self._node = node
        self._robot = robot
        self._period_ns = period_ns
        self._status = status
        self._session = uuid.uuid4().hex
        self._newest: tuple[int, NDArray[np.float64]] | None = None
        self._plans = node.create_publisher(MultiDOFJointTrajectory, topics.PLAN, COMMAND_QOS)
        self._statuses = node.create_publisher(DiagnosticStatus, topics.PLANNER_STATUS, COMMAND_QOS)
        self._publishing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="vla_heartbeat", daemon=True)

    def start(self) -> None:
        """Begin the heartbeat."""
        self._thread.start()

    def destroy(self) -> None:
        """End the heartbeat and take the topics back."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._node.destroy_publisher(self._plans)
        self._node.destroy_publisher(self._statuses)

    def post(self, first_tick: int, actions: ArrayLike, *, anew: bool = False) -> bool:
        """Publish `actions` (N, 7), made from the observation of `first_tick`."""
        chunk = np.asarray(actions, dtype=np.float64)
        self._newest = first_tick, chunk
        plan = Plan(first_tick * self._period_ns, self._period_ns, chunk)
        self._plans.publish(plan_message(plan, self._robot.base_frame, self._robot.tool_frame or "tool"))
        return True

    def clear(self, observed_from: int | None = None) -> None:
        """Forget the plan; the reason, which the engine has set by then, stops the guard."""
        self._newest = None

    def committed(self, first_tick: int, count: int) -> NDArray[np.float64]:
        """Return no committed actions: only a policy in the guard's own process can know them."""
        return np.empty((0, 7))

    def ticks_over(self, first_tick: int) -> int:
        """Return how many ticks since `first_tick` have passed."""
        return max(0, int(self._node.get_clock().now().nanoseconds) // self._period_ns + 1 - first_tick)

    @property
    def ticks(self) -> range | None:
        """The ticks that the newest plan has actions for, or None without a plan."""
        newest = self._newest
        return None if newest is None else range(newest[0], newest[0] + len(newest[1]))

    def remaining(self, tick: int) -> NDArray[np.float64] | None:
        """Return the newest plan's actions (n, 7) from `tick` on, or None without a plan."""
        newest = self._newest
        return None if newest is None else newest[1][max(0, tick - newest[0]) :]

    def publish_status(self) -> None:
        """Publish the status now, because it has changed."""
        with self._publishing:
            engine = self._status()
            detail = engine.detail[-1000:] if engine.reason else ""
            status = PlannerStatus(self._session, engine.command[:200], engine.reason, detail)
            self._statuses.publish(status_message(status, self._node.get_fully_qualified_name()))

    def _beat(self) -> None:
        while not self._stopping.wait(HEARTBEAT_S):
            self.publish_status()
