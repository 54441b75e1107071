# SPDX-License-Identifier: Apache-2.0
"""Replay a recording on a robot: the policy node with a `Playback` as its policy, and a guard that owns the arm.

Deadman, emergency stop, takeover and `~/arm` are the guard's. Whatever stops the arm ends the replay: half a path
proves nothing, and nobody expects an arm to resume by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from std_srvs.srv import SetBool

from vla_ros import topics
from vla_ros.contract import PolicyContract
from vla_ros.errors import UserError
from vla_ros.nodes.common.lifecycle_node import in_this_process
from vla_ros.nodes.common.qos import LATCHED_QOS
from vla_ros.nodes.policy import loading
from vla_ros.nodes.policy.lifecycle import PolicyNode
from vla_ros.nodes.policy.session import PolicySession
from vla_ros.robot import Robot
from vla_ros.runtime.planning.planner import ChunkPolicy
from vla_ros.runtime.playback import Playback

RobotState = NDArray[np.float64]

NAME = "replay"
# Discovery, and latched messages: before, other publishers of commands may be unknown.
DISCOVERY_S = 3.0
GUARD_S, OBSERVATION_S, RUNNING_S = 20.0, 10.0, 5.0


class ReplayRefused(UserError):
    """The arm was not moved; the message says why."""


@dataclass(frozen=True)
class ReplayResult:
    """How a replay ended.

    Attributes:
        reason: what ended it early, `detail` in words; None if it was complete.
        ticks_limited: guard periods whose twist was changed by the robot's limits.
        ticks: all guard periods.
    """

    reason: str | None
    detail: str
    ticks_limited: int
    ticks: int


def replay(
    playback: Playback,
    *,
    parameters: Mapping[str, Any],
    namespace: str,
    ros_arguments: Sequence[str] = (),
    arm: bool,
    timeout_s: float,
    check_start: Callable[[RobotState], None],
    check_guard: Callable[[], None],
    report: Callable[[str], None],
) -> ReplayResult:
    """Wait until the robot is ready and armed, play, and stop; `playback.seen` then holds the measured path.

    Args:
        playback: what to play.
        parameters: of the policy node.
        namespace: of the node.
        ros_arguments: for rclpy.
        arm: arm the guard here; otherwise somebody must call `guard/arm` within `timeout_s`.
        timeout_s: for arming.
        check_start: given the robot's state (P,) before it is armed, and again before it moves; raises to refuse.
        check_guard: called frequently; raises if the guard's process has ended.
        report: given progress, for people.

    Raises:
        UserError: nothing was moved; the message says why.
    """
    assignments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")]
    remap = ["-r", f"__ns:=/{namespace.strip('/')}"] if namespace.strip("/") else []
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True

    def check() -> None:
        if interrupted:
            raise KeyboardInterrupt
        check_guard()

    arguments = ["--ros-args", *remap, *assignments, *ros_arguments]
    with in_this_process(arguments, lambda: PolicyNode(NAME, _playing(playback)), interrupt) as (node, executor):
        return _Replay(node, executor, playback, check).run(arm, timeout_s, check_start, report)


def _playing(playback: Playback) -> loading.FindPolicy:
    def find(value: Callable[[str], Any], robot: Robot) -> tuple[PolicyContract, Callable[[], ChunkPolicy]]:
        loading.check(playback.contract, robot)
        return playback.contract, lambda: playback

    return find


class _Replay:
    """One replay, from configure to the stop; `check` raises to abort."""

    def __init__(
        self, node: PolicyNode, executor: SingleThreadedExecutor, playback: Playback, check: Callable[[], None]
    ) -> None:
        self._node, self._executor, self._playback, self._check = node, executor, playback, check
        self._guard: dict[str, str] = {}
        node.create_subscription(DiagnosticStatus, topics.GUARD_STATE, self._on_guard, LATCHED_QOS)
        self._arm: Any = node.create_client(SetBool, topics.GUARD_ARM)

    def run(
        self, arm: bool, timeout_s: float, check_start: Callable[[RobotState], None], report: Callable[[str], None]
    ) -> ReplayResult:
        session = self._activate()
        if not self._spin(GUARD_S, lambda: bool(self._guard)):
            raise ReplayRefused("the guard did not start; see its log")
        self._spin(DISCOVERY_S, lambda: False)
        if (problem := self._guard.get("outputs", "")).startswith("second_"):
            raise ReplayRefused(f"{problem}; stop the other nodes first")
        session.hear(self._playback.command)
        if not self._spin(OBSERVATION_S, lambda: bool(self._playback.seen)):
            engine = session.engine.status()
            raise ReplayRefused(f"no observation within {OBSERVATION_S:g} s: {engine.reason} {engine.detail}".rstrip())
        check_start(self._playback.seen[-1].proprioception)
        self._wait_until_armed(arm, timeout_s, report)
        if not self._spin(RUNNING_S, lambda: self._guard["state"] == "running"):
            raise ReplayRefused(
                f"armed, but not allowed to move: {self._guard['reason']} {self._guard['detail']}".rstrip()
            )
        check_start(self._playback.seen[-1].proprioception)
        before = self._figures()
        self._playback.begin()
        self._spin(None, lambda: self._playback.over or self._stopped() is not None)
        ended = self._stopped() if not self._playback.over else None
        self._spin(RUNNING_S, lambda: self._figures() != before and self._guard["state"] != "stopping")
        session.stop()
        self._spin(RUNNING_S, lambda: self._guard["state"] not in ("running", "stopping"))
        reason, detail = ended or (None, "")
        limited, ticks = (now - then for now, then in zip(self._figures(), before, strict=True))
        return ReplayResult(reason, detail, limited, ticks)

    def _activate(self) -> PolicySession:
        node, success = self._node, TransitionCallbackReturn.SUCCESS
        if node.trigger_configure() != success or node.trigger_activate() != success:
            raise ReplayRefused(node.last_error)
        assert node.session is not None
        return node.session

    def _on_guard(self, message: DiagnosticStatus) -> None:
        self._guard = {pair.key: pair.value for pair in message.values}

    def _figures(self) -> tuple[int, int]:
        return int(self._guard.get("ticks limited", 0)), int(self._guard.get("ticks total", 0))

    def _wait_until_armed(self, arm: bool, timeout_s: float, report: Callable[[str], None]) -> None:
        service = self._node.resolve_service_name(topics.GUARD_ARM)
        if arm:
            future = self._arm.call_async(SetBool.Request(data=True))
            if not self._spin(RUNNING_S, future.done):
                raise ReplayRefused(f"{service} did not answer within {RUNNING_S:g} s")
            if not future.result().success:
                raise ReplayRefused(f"not armed: {future.result().message}")
            return
        report(
            f'ready and disarmed; arm it to start: ros2 service call {service} std_srvs/srv/SetBool "{{data: true}}"'
        )
        if not self._spin(timeout_s, lambda: self._guard.get("armed") == "True"):
            raise ReplayRefused(
                f"not armed within {timeout_s:g} s, so nothing was moved; call {service}, or pass --arm"
            )

    def _stopped(self) -> tuple[str, str] | None:
        """Return why the replay cannot continue, if so: reason and detail."""
        if self._playback.interrupted is not None:
            return "another_command", f"a new command arrived: {self._playback.interrupted!r}"
        if self._guard["taken over"] == "True":
            return "taken_over", "a person took over"
        if self._guard["state"] != "running":
            return self._guard["reason"], self._guard["detail"]
        return None

    def _spin(self, timeout_s: float | None, reached: Callable[[], bool]) -> bool:
        """Spin until `reached`, at most `timeout_s`; return whether it was reached."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not reached():
            self._check()
            if deadline_s is not None and time.monotonic() > deadline_s:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True
