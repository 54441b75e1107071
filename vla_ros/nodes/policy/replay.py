# SPDX-License-Identifier: Apache-2.0
"""Replay a recording on a robot: the policy node's session, governor and outputs, with a `Playback` as its policy.

Apart from its name, `replay`, the node is the policy node: the same topics, `~/arm`, `~/reset` and `~/state`, deadman,
emergency stop and takeover. Whatever stops the arm ends the replay: half a path proves nothing, and nobody expects an
arm to resume by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from vla_ros.contract import PolicyContract
from vla_ros.errors import UserError
from vla_ros.nodes.policy import loading
from vla_ros.nodes.policy.lifecycle import PolicyNode, in_this_process
from vla_ros.nodes.policy.session import PolicySession
from vla_ros.robot import Robot
from vla_ros.runtime.planning.planner import ChunkPolicy
from vla_ros.runtime.playback import Playback
from vla_ros.runtime.safety.governor import State

RobotState = NDArray[np.float64]

NAME = "replay"
# Discovery, and latched messages: before, other publishers of commands may be unknown.
DISCOVERY_S = 3.0
OBSERVATION_S = 10.0
RUNNING_S = 5.0


class ReplayRefused(UserError):
    """The arm was not moved; the message says why."""


@dataclass(frozen=True)
class ReplayResult:
    """How a replay ended.

    Attributes:
        reason: what ended it early, `detail` in words; None if it was complete.
        ticks_limited: ticks whose twist was changed by the robot's limits.
        ticks: all ticks.
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
    arm: bool,
    timeout_s: float,
    check_start: Callable[[RobotState], None],
    report: Callable[[str], None],
) -> ReplayResult:
    """Wait until the robot is ready and armed, play, and stop the arm; `playback.seen` then holds the measured path.

    Args:
        playback: what to play.
        parameters: of the policy node.
        namespace: of the node.
        arm: arm it here; otherwise an operator must call `~/arm` within `timeout_s`.
        timeout_s: see `arm`.
        check_start: takes the robot's state (P,) before it is armed, and again before it moves; raises to refuse.
        report: takes progress messages.

    Raises:
        UserError: nothing was moved; the message says why.
    """
    assignments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")]
    remap = ["-r", f"__ns:=/{namespace.strip('/')}"] if namespace.strip("/") else []
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True

    arguments = ["--ros-args", *remap, *assignments]
    with in_this_process(arguments, lambda: PolicyNode(NAME, _playing(playback)), interrupt) as (node, executor):
        return _Replay(node, executor, playback, lambda: interrupted).run(arm, timeout_s, check_start, report)


def _playing(playback: Playback) -> loading.FindPolicy:
    def find(value: Callable[[str], Any], robot: Robot) -> tuple[PolicyContract, Callable[[], ChunkPolicy]]:
        loading.check(playback.contract, robot)
        return playback.contract, lambda: playback

    return find


class _Replay:
    """One replay, from configure to the stop; `interrupted` returns whether a signal has arrived."""

    def __init__(
        self, node: PolicyNode, executor: SingleThreadedExecutor, playback: Playback, interrupted: Callable[[], bool]
    ) -> None:
        self._node, self._executor, self._playback = node, executor, playback
        self._interrupted = interrupted

    def run(
        self, arm: bool, timeout_s: float, check_start: Callable[[RobotState], None], report: Callable[[str], None]
    ) -> ReplayResult:
        session = self._activate()
        self._spin(DISCOVERY_S, lambda: False)
        if (reason := session.interlocks.reason(time.monotonic())) == "second_publisher":
            raise ReplayRefused(
                f"another node publishes on {session.robot.twist_command.topic}; stop the other publisher first"
            )
        session.hear(self._playback.command)
        if not self._spin(OBSERVATION_S, lambda: bool(self._playback.seen)):
            engine = session.engine.status()
            raise ReplayRefused(f"no observation within {OBSERVATION_S:g} s: {engine.reason} {engine.detail}".rstrip())
        check_start(self._playback.seen[-1].proprioception)
        self._wait_until_armed(session, arm, timeout_s, report)
        governor = session.control.governor
        if not self._spin(RUNNING_S, lambda: governor.state is State.RUNNING):
            reason = governor.reason or session.engine.reason
            detail = session.detail(session.engine.status())
            raise ReplayRefused(f"armed, but not allowed to move: {reason} {detail}".rstrip())
        check_start(self._playback.seen[-1].proprioception)
        limited, ticks = governor.ticks_limited, session.control.ticks_total
        self._playback.begin()
        self._spin(None, lambda: self._playback.over or self._stopped(session) is not None)
        ended = self._stopped(session) if not self._playback.over else None
        session.stop("replay_over")
        reason, detail = ended or (None, "")
        return ReplayResult(reason, detail, governor.ticks_limited - limited, session.control.ticks_total - ticks)

    def _activate(self) -> PolicySession:
        node, success = self._node, TransitionCallbackReturn.SUCCESS
        if node.trigger_configure() != success or node.trigger_activate() != success:
            raise ReplayRefused(node.last_error)
        assert node.session is not None
        return node.session

    def _wait_until_armed(
        self, session: PolicySession, arm: bool, timeout_s: float, report: Callable[[str], None]
    ) -> None:
        governor = session.control.governor
        if arm:
            session.arm(True)
            return
        service = f"{self._node.get_fully_qualified_name()}/arm"
        call = f'ros2 service call {service} std_srvs/srv/SetBool "{{data: true}}"'
        report(f"ready and disarmed; arm it to start: {call}")
        if not self._spin(timeout_s, lambda: governor.armed):
            raise ReplayRefused(
                f"not armed within {timeout_s:g} s, so nothing was moved; call {service}, or pass --arm"
            )

    def _stopped(self, session: PolicySession) -> tuple[str, str] | None:
        """Return why the replay cannot continue, if so: reason and detail."""
        governor = session.control.governor
        if self._playback.interrupted is not None:
            return "another_command", f"a new command arrived: {self._playback.interrupted!r}"
        if session.control.taken_over:
            return "taken_over", "a person took over"
        if governor.state is not State.RUNNING:
            return str(governor.reason), session.detail(session.engine.status())
        return None

    def _spin(self, timeout_s: float | None, reached: Callable[[], bool]) -> bool:
        """Spin until `reached`, at most `timeout_s`; return whether it was reached.

        Raises:
            KeyboardInterrupt: a signal has arrived.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not reached():
            if self._interrupted():
                raise KeyboardInterrupt
            if deadline_s is not None and time.monotonic() > deadline_s:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True
