# SPDX-License-Identifier: Apache-2.0
"""Handshake with MoveIt Servo, and its status, without ever waiting.

Servo accepts twists only after `~/switch_command_type`, by default as fractions of a scale instead of m/s; it drops
commands older than `incoming_command_timeout`, and reports on `~/status`. Sources: moveit_ros/moveit_servo,
src/servo_node.cpp and config/servo_parameters.yaml; moveit2 issues 772 and 3040.

Humble's has no command types: `~/start_servo` makes it compute, and ends a pause, too; before, it sends no status.
While paused, it reports that all is well. Sources: moveit_servo of Humble, src/servo_node.cpp and src/servo_calcs.cpp.

It computes a command's age as its own clock minus our stamp, and reports nothing if that makes no sense: with a clock
ahead of ours it drops every command, with one behind it obeys a last one for too long. The status has no stamp, but the
middleware says when it was sent, by the system clock of Servo's machine.
"""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from std_msgs.msg import Int8
from std_srvs.srv import SetBool, Trigger

from vla_ros.errors import RobotError
from vla_ros.nodes.common.clock import steady_clock
from vla_ros.nodes.common.qos import message_class
from vla_ros.robot import Servo

STEP_S = 0.1
ANSWER_S = 2.0
# Servo publishes its status in each cycle (30 Hz by default) unless it is paused.
SILENT_S = 1.0
# moveit_msgs/ServoStatus; other codes mean that Servo slows down, halts, or considers a command invalid.
NO_WARNING = 0
UNITS, TIMEOUT = "moveit_servo.command_in_type", "moveit_servo.incoming_command_timeout"
USE_SIM_TIME = "use_sim_time"
# Of so many statuses, the one that was under way for the shortest time shows how far the clocks are apart.
COMPARED = 20
# A service that is still missing then is not about to be discovered.
DISCOVERY_S = 5.0

# moveit_servo/status_codes.h of Humble, whose status is the code alone.
HUMBLE_STATUS = {
    -1: "invalid command",
    1: "close to a singularity: slows down",
    2: "close to a singularity: halted",
    3: "close to a collision: slows down",
    4: "close to a collision: halted",
    5: "joint limit: halted",
    6: "leaving a singularity: slows down",
}


@dataclass(frozen=True)
class _Interface:
    """Servo's of one distribution. `steps`: the handshake after its parameters; `resume`: the step that ends a pause.

    `starts`: it does nothing until it is resumed for the first time.
    """

    status: Any
    services: Mapping[str, Any]
    requests: Mapping[str, Any]
    steps: tuple[str, ...]
    resume: str
    starts: bool


def _installed_interface() -> _Interface:
    """Return the interface that the installed moveit_msgs has.

    Raises:
        RobotError: moveit_msgs is not installed.
    """
    try:
        switch = message_class("moveit_msgs/srv/ServoCommandType")
    except RobotError:
        if importlib.util.find_spec("moveit_msgs") is None:
            raise
        requests = {"start_servo": Trigger.Request()}
        return _Interface(Int8, {"start_servo": Trigger}, requests, (), "start_servo", starts=True)
    return _Interface(
        message_class("moveit_msgs/msg/ServoStatus"),
        {"switch_command_type": switch, "pause_servo": SetBool},
        {
            "switch_command_type": switch.Request(command_type=switch.Request.TWIST),
            "pause_servo": SetBool.Request(data=False),
        },
        ("switch_command_type",),
        "pause_servo",
        starts=False,
    )


class ServoLink:
    """Makes Servo accept our twists, one every `period_s`.

    Attributes:
        reason: why Servo does not accept twists, `detail` in a sentence; None if it does.
        status: Servo's last status.

    Raises:
        RobotError: moveit_msgs is not installed.
    """

    def __init__(self, node: Node, servo: Servo, period_s: float) -> None:
        self.reason: str | None = None
        self.detail = ""
        self.status = ""
        self._code = NO_WARNING
        self._node = node
        self._servo = servo
        self._period_s = period_s
        self._use_sim_time = bool(node.get_parameter(USE_SIM_TIME).value)
        self._timeout_s = 0.0
        # Our clock when a status arrives, minus Servo's when it was sent.
        self._delays_ns: deque[int] = deque(maxlen=COMPARED)
        self._interface = kind = _installed_interface()
        self._requests = {
            "get_parameters": GetParameters.Request(names=[UNITS, TIMEOUT, USE_SIM_TIME]),
            **kind.requests,
        }
        self._clients: dict[str, Any] = {
            name: node.create_client(service, f"{servo.node}/{name}")
            for name, service in {"get_parameters": GetParameters, **kind.services}.items()
        }
        on_status = self._on_humble_status if kind.status is Int8 else self._on_status
        self._subscription = node.create_subscription(kind.status, f"{servo.node}/status", on_status, 1)
        self._timer = node.create_timer(STEP_S, self._on_timer, clock=steady_clock())
        self._heard_s = 0.0
        self._switched: frozenset[bytes] = frozenset()
        self._asked_until_s = 0.0
        self._call: Any = None
        self._steps: list[str] = []
        self._started = False
        self._begin(unpause=False)

    def start(self) -> None:
        """Repeat the handshake and end a pause: whoever activates the policy intends to move the arm."""
        self._started = True
        self._begin(unpause=True)

    def close(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
        for client in self._clients.values():
            self._node.destroy_client(client)

    def _begin(self, *, unpause: bool) -> None:
        """Start the handshake; until its last step, Servo does not accept our twists."""
        self.reason, self.detail = "servo_not_ready", f"no answer from {self._servo.node} yet"
        # A pause that began while we were running was requested by somebody, so it stays.
        self._steps = ["get_parameters", *self._interface.steps, *([self._interface.resume] if unpause else [])]
        self._call = None
        self._begun_s = time.monotonic()
        self._delays_ns.clear()

    def _on_timer(self) -> None:
        now_s = time.monotonic()
        if not self._steps:
            if self._interface.starts and not self._started:
                return
            if self._publishers() != self._switched:
                self._begin(unpause=self._interface.starts)
                self._refuse("servo_not_ready", f"{self._servo.node} was restarted")
            elif now_s - self._heard_s > SILENT_S:
                self._refuse("servo_silent", f"no status from {self._servo.node} for {SILENT_S} s; is it paused?")
            return
        if self._call is not None and now_s < self._asked_until_s:
            return
        step = self._steps[0]
        client = self._clients[step]
        if not client.service_is_ready():
            self._refuse("servo_not_ready", self._missing(client.srv_name, now_s))
            return
        call = self._call = client.call_async(self._requests[step])
        self._asked_until_s = now_s + ANSWER_S
        call.add_done_callback(lambda future: self._on_answer(step, future))

    def _missing(self, service: str, now_s: float) -> str:
        missing = f"service {service} is not available"
        if now_s - self._begun_s < DISCOVERY_S or now_s - self._heard_s > SILENT_S:
            return missing
        return f"{missing}, although {self._servo.node} sends its status; does it offer it, and does SROS 2 allow it?"

    def _publishers(self) -> frozenset[bytes]:
        """Return who publishes the status: a restarted Servo has another identity, however quick the restart."""
        publishers = self._node.get_publishers_info_by_topic(self._subscription.topic_name)
        return frozenset(bytes(publisher.endpoint_gid) for publisher in publishers)

    def _on_answer(self, step: str, future: Any) -> None:
        if future is not self._call:
            return  # an answer to an earlier handshake
        self._call = None
        reason, detail = self._objection(step, future.result())
        if detail:
            self._begin(unpause=self._interface.resume in self._steps)
            self._refuse(reason, detail)
            self._asked_until_s, self._call = time.monotonic() + ANSWER_S, future  # retry later
            return
        self._steps.pop(0)
        if not self._steps:  # the next status shows that Servo is working
            self._switched, self._heard_s = self._publishers(), time.monotonic()

    def _objection(self, step: str, answer: Any) -> tuple[str, str]:
        """Return the reason and detail for which this answer rules out motion; the detail is empty if it does not."""
        wrong = self._wrong_parameters(answer) if step == "get_parameters" else self._refused(answer)
        if wrong:
            return "servo_refused", f"{self._servo.node}/{step}: {wrong}"
        return "servo_clock", self._other_clock(answer) if step == "get_parameters" else ""

    def _refused(self, answer: Any) -> str:
        return "" if answer.success else f"rejected {getattr(answer, 'message', '')}".strip()

    def _wrong_parameters(self, answer: Any) -> str:
        if len(answer.values) != 3 or answer.values[0].type != ParameterType.PARAMETER_STRING:
            return f"it has no parameter {UNITS}; is it MoveIt Servo?"
        units, timeout_s = answer.values[0].string_value, answer.values[1].double_value
        if units != "speed_units":
            return f"{UNITS} must be speed_units, since twists are in m/s and rad/s; got {units!r}"
        if timeout_s < 2 * self._period_s:
            return (
                f"{TIMEOUT} must be at least {2 * self._period_s:g} s, two control periods, or Servo halts between "
                f"commands; got {timeout_s}"
            )
        return ""

    def _other_clock(self, answer: Any) -> str:
        self._timeout_s = answer.values[1].double_value
        theirs, ours = (str(value).lower() for value in (answer.values[2].bool_value, self._use_sim_time))
        return (
            "" if theirs == ours else f"{self._servo.node} has use_sim_time {theirs}, the guard {ours}: set both alike"
        )

    def _clock_difference(self) -> str:
        """Return by how much the system clock of Servo's machine is wrong; simulated time does not depend on it."""
        behind_s, allowed_s = min(self._delays_ns) / 1e9, self._timeout_s / 2
        if self._use_sim_time or abs(behind_s) <= allowed_s:
            return ""
        return (
            f"the clock of {self._servo.node} is {abs(behind_s):.2f} s {'behind' if behind_s > 0 else 'ahead of'} the "
            f"guard's; at most {allowed_s:g} s is allowed, half of {TIMEOUT}: synchronise the clocks of both machines"
        )

    def _on_status(self, message: Any, info: Any) -> None:
        self._report(message.code, message.message, info.get("source_timestamp"))

    def _on_humble_status(self, message: Int8) -> None:  # whose rclpy does not tell when a message was sent
        self._report(message.data, HUMBLE_STATUS.get(message.data, ""), None)

    def _report(self, code: int, text: str, sent_ns: int | None) -> None:
        self._heard_s, now_ns = time.monotonic(), time.time_ns()
        self._delays_ns.append(now_ns - (sent_ns or now_ns))
        if not self._steps:
            self._accept_unless(self._clock_difference())
        self.status = f"{code}: {text}" if text else str(code)
        if code not in (self._code, NO_WARNING):
            self._node.get_logger().warning(f"{self._servo.node} reports {self.status}")
        self._code = code

    def _accept_unless(self, wrong: str) -> None:
        if wrong and self.reason != "servo_clock":
            self._refuse("servo_clock", wrong)
        elif not wrong and self.reason is not None:
            self.reason, self.detail = None, ""
            self._node.get_logger().info(f"{self._servo.node} accepts twists")

    @property
    def warning(self) -> str | None:
        """What Servo reports if it slows down, halts, or refuses our twists."""
        return None if self._code == NO_WARNING else f"servo reports {self.status}"

    def _refuse(self, reason: str, detail: str) -> None:
        if detail != self.detail:
            self._node.get_logger().warning(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
