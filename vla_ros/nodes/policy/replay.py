# SPDX-License-Identifier: Apache-2.0
"""Play a recording back onto a robot: the policy node's session, governor and sinks, with a playback for the policy.

The node is called `replay`, and is otherwise the policy node (policy_node.py): the same topics, `~/arm`, `~/reset` and
`~/state`, deadman, emergency stop and takeover. Whatever stops the arm ends the replay: half a way proves nothing, and
nobody waits for an arm that goes on by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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

NAME = "replay"
# Others are found, and what is latched arrives: until then, nobody knows who else commands the arm.
SETTLED_S = 3.0
OBSERVED_S = 10.0
RUNNING_S = 5.0


class ReplayRefused(UserError):
    """The arm was not moved, for the reason that the message gives."""


@dataclass(frozen=True)
class Ended:
    """How a replay ended: at its end (`reason` is None) or before, by name and in words; the ticks that the robot's
    limits made another twist of, of all ticks."""

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
    patience_s: float,
    check_start: Callable[[NDArray], None],
    tell: Callable[[str], None],
) -> Ended:
    """Wait until the robot is there and armed, play, and stop the arm; `playback.seen` is the way then.

    Args:
        parameters: of the policy node.
        arm: arm it here; otherwise somebody has to call `~/arm` within `patience_s`.
        check_start: gets the robot's state (P,) before it is armed, and again before it moves; raises to refuse.
        tell: gets what a person should know.

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
        return _Replay(node, executor, playback, lambda: interrupted).run(arm, patience_s, check_start, tell)


def _playing(playback: Playback) -> loading.FindPolicy:
    def find(
        value: Callable[[str], Any], robot: Robot
    ) -> tuple[PolicyContract, Callable[[], ChunkPolicy]]:  # fmt: skip
        loading.check(playback.contract, robot)
        return playback.contract, lambda: playback

    return find


class _Replay:
    """One replay, from configure to the stop. `interrupted`: whether somebody wants to end this program."""

    def __init__(
        self, node: PolicyNode, executor: SingleThreadedExecutor, playback: Playback, interrupted: Callable[[], bool]
    ) -> None:
        self._node, self._executor, self._playback = node, executor, playback
        self._interrupted = interrupted

    def run(
        self, arm: bool, patience_s: float, check_start: Callable[[NDArray], None], tell: Callable[[str], None]
    ) -> Ended:
        session = self._activate()
        self._spin(SETTLED_S, lambda: False)
        if (reason := session.interlocks.reason(time.monotonic())) == "second_publisher":
            raise ReplayRefused(
                f"somebody else publishes {session.robot.twist_command.topic}: end the policy node, or whatever it is"
            )
        session.hear(self._playback.command)
        if not self._spin(OBSERVED_S, lambda: bool(self._playback.seen)):
            engine = session.engine.status()
            raise ReplayRefused(f"there is no observation: {engine.reason} {engine.detail}".rstrip())
        check_start(self._playback.seen[-1].proprioception)
        self._wait_until_armed(session, arm, patience_s, tell)
        governor = session.control.governor
        if not self._spin(RUNNING_S, lambda: governor.state is State.RUNNING):
            reason = governor.reason or session.engine.reason
            detail = session.detail(session.engine.status())
            raise ReplayRefused(f"it is armed and may not move: {reason} {detail}".rstrip())
        check_start(self._playback.seen[-1].proprioception)
        limited, ticks = governor.ticks_limited, session.control.ticks_total
        self._playback.begin()
        self._spin(None, lambda: self._playback.over or self._stopped(session) is not None)
        ended = self._stopped(session) if not self._playback.over else None
        session.stop("replay_over")
        reason, detail = ended or (None, "")
        return Ended(reason, detail, governor.ticks_limited - limited, session.control.ticks_total - ticks)

    def _activate(self) -> PolicySession:
        node, success = self._node, TransitionCallbackReturn.SUCCESS
        if node.trigger_configure() != success or node.trigger_activate() != success:
            raise ReplayRefused(node.last_error)
        assert node.session is not None
        return node.session

    def _wait_until_armed(
        self, session: PolicySession, arm: bool, patience_s: float, tell: Callable[[str], None]
    ) -> None:
        governor = session.control.governor
        if arm:
            session.arm(True)
            return
        service = f"{self._node.get_fully_qualified_name()}/arm"
        call = f'ros2 service call {service} std_srvs/srv/SetBool "{{data: true}}"'
        tell(f"ready, and disarmed; it moves once somebody has armed it: {call}")
        if not self._spin(patience_s, lambda: governor.armed):
            raise ReplayRefused(
                f"nobody has armed it within {patience_s:g} s, so nothing was moved; call {service}, or say --arm"
            )

    def _stopped(self, session: PolicySession) -> tuple[str, str] | None:
        """Why it does not go on, or None."""
        governor = session.control.governor
        if self._playback.interrupted is not None:
            return "another_command", f"somebody said {self._playback.interrupted!r}"
        if session.control.taken_over:
            return "taken_over", "somebody moved the arm by hand"
        if governor.state is not State.RUNNING:
            return str(governor.reason), session.detail(session.engine.status())
        return None

    def _spin(self, patience_s: float | None, reached: Callable[[], bool]) -> bool:
        """Spin until `reached`, or as long as is left; returns whether it was reached.

        Raises:
            KeyboardInterrupt: somebody ended this program.
        """
        deadline_s = None if patience_s is None else time.monotonic() + patience_s
        while not reached():
            if self._interrupted():
                raise KeyboardInterrupt
            if deadline_s is not None and time.monotonic() > deadline_s:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True
