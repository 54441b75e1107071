# SPDX-License-Identifier: Apache-2.0
"""The policy's chunks as plans for the guard, and its status as a heartbeat."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.node import Node
from trajectory_msgs.msg import MultiDOFJointTrajectory

from vla_ros import topics
from vla_ros.grid import Grid
from vla_ros.nodes.common.planner_messages import plan_message, status_message
from vla_ros.nodes.common.qos import COMMAND_QOS
from vla_ros.robot import Robot
from vla_ros.runtime.execution.plans import Plan, PlannerStatus
from vla_ros.runtime.planning.engine import EngineStatus
from vla_ros.runtime.safety.guard import INACTIVE
from vla_ros.runtime.stats import RecentValues

HEARTBEAT_S = 0.05
# Neither a command nor an error may make a heartbeat large.
COMMAND_CHARACTERS, DETAIL_CHARACTERS = 200, 1000


class PlanPublisher:
    """Publishes what the engine plans; the guard decides what becomes of it.

    The heartbeat has its own thread: a callback that takes long does not look like a dead planner, an interpreter that
    hangs does.

    Args:
        node: publishes under its (relative) names.
        robot: defines the frames.
        grid: of the policy's control rate.
        status: returns what the engine says of itself.
        camera_ns: returns the oldest camera stamp in the observation of a time, None if unknown.

    Attributes:
        count: plans published so far.
        camera_to_plan_ms: from the oldest camera stamp of an observation to its plan.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        grid: Grid,
        status: Callable[[], EngineStatus],
        camera_ns: Callable[[int], int | None],
    ) -> None:
        self.count = 0
        self.camera_to_plan_ms = RecentValues()
        self._camera_ns = camera_ns
        self._node = node
        self._robot = robot
        self._grid = grid
        self._engine_status = status
        self._session = uuid.uuid4().hex
        self._newest: tuple[int, NDArray[np.float64]] | None = None
        self._plans = node.create_publisher(MultiDOFJointTrajectory, topics.PLAN, COMMAND_QOS)
        self._statuses = node.create_publisher(DiagnosticStatus, topics.PLANNER_STATUS, COMMAND_QOS)
        self._publishing = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin the heartbeat."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._beat, name="vla_heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say that the policy is inactive, and end the heartbeat."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        self.publish_status()

    def close(self) -> None:
        self.stop()
        self._node.destroy_publisher(self._plans)
        self._node.destroy_publisher(self._statuses)

    def post(self, first_tick: int, actions: NDArray[np.float64], *, replace_all: bool = False) -> bool:
        """Publish `actions` (N, 7), made from the observation of `first_tick`."""
        chunk = np.asarray(actions, dtype=np.float64)
        self._newest = first_tick, chunk
        self.count += 1
        plan = Plan(self._grid.start_ns(first_tick), self._grid.period_ns, chunk)
        self._plans.publish(plan_message(plan, self._robot.base_frame, self._robot.tool_frame or "tool"))
        camera_ns = self._camera_ns(plan.stamp_ns)
        if camera_ns is not None:
            self.camera_to_plan_ms.add((self._now_ns() - camera_ns) / 1e6)
        return True

    def clear(self, observed_from: int | None = None) -> None:
        """Forget the plan; the engine's reason, which is set by then, stops the guard."""
        self._newest = None

    def ticks_over(self, first_tick: int) -> int:
        """Return how many ticks from `first_tick` on are over."""
        return max(0, self._grid.tick_at(self._now_ns()) + 1 - first_tick)

    @property
    def ticks(self) -> range | None:
        """The ticks that the newest plan has actions for; None without a plan."""
        newest = self._newest
        return None if newest is None else range(newest[0], newest[0] + len(newest[1]))

    def remaining(self, tick: int) -> NDArray[np.float64] | None:
        """Return the newest plan's actions (n, 7) from `tick` on; None without a plan."""
        newest = self._newest
        return None if newest is None else newest[1][max(0, tick - newest[0]) :]

    def publish_status(self) -> None:
        """Publish the engine's status; without a heartbeat, say that the policy is inactive."""
        with self._publishing:
            engine = self._engine_status()
            reason = engine.reason if self._thread is not None else INACTIVE
            command, detail = engine.command[:COMMAND_CHARACTERS], engine.detail[-DETAIL_CHARACTERS:]
            status = PlannerStatus(self._session, command, reason, detail)
            self._statuses.publish(status_message(status, self._node.get_fully_qualified_name()))

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _beat(self) -> None:
        while not self._stopping.wait(HEARTBEAT_S):
            self.publish_status()
