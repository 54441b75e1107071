# SPDX-License-Identifier: Apache-2.0
"""Handshake with MoveIt Servo (Jazzy and newer), and its status, without ever waiting.

Servo accepts twists only after `~/switch_command_type`, by default as fractions of a scale instead of m/s; it drops
commands older than `incoming_command_timeout`, and reports on `~/status`. Sources: moveit_ros/moveit_servo,
src/servo_node.cpp and config/servo_parameters.yaml; moveit2 issues 772 and 3040.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from std_srvs.srv import SetBool

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
        self._command_type = message_class("moveit_msgs/srv/ServoCommandType")
        status = message_class("moveit_msgs/msg/ServoStatus")
        self._clients: dict[str, Any] = {
            "get_parameters": node.create_client(GetParameters, f"{servo.node}/get_parameters"),
            "switch_command_type": node.create_client(self._command_type, f"{servo.node}/switch_command_type"),
            "pause_servo": node.create_client(SetBool, f"{servo.node}/pause_servo"),
        }
        self._subscription = node.create_subscription(status, f"{servo.node}/status", self._on_status, 1)
        self._timer = node.create_timer(STEP_S, self._on_timer, clock=steady_clock())
        self._heard_s = 0.0
        self._switched: frozenset[bytes] = frozenset()
        self._asked_until_s = 0.0
        self._call: Any = None
        self._steps: list[str] = []
        self._begin(unpause=False)

    def start(self) -> None:
        """Repeat the handshake and end a pause: whoever activates the policy intends to move the arm."""
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
        self._steps = ["get_parameters", "switch_command_type", *(["pause_servo"] if unpause else [])]
        self._call = None

    def _on_timer(self) -> None:
        now_s = time.monotonic()
        if not self._steps:
            if self._publishers() != self._switched:
                self._begin(unpause=False)
                self._refuse("servo_not_ready", f"{self._servo.node} was restarted")
            elif now_s - self._heard_s > SILENT_S:
                self._refuse("servo_silent", f"no status from {self._servo.node} for {SILENT_S} s; is it paused?")
            return
        if self._call is not None and now_s < self._asked_until_s:
            return
        step = self._steps[0]
        client = self._clients[step]
        if not client.service_is_ready():
            self._refuse("servo_not_ready", f"service {client.srv_name} is not available")
            return
        call = self._call = client.call_async(self._request(step))
        self._asked_until_s = now_s + ANSWER_S
        call.add_done_callback(lambda future: self._on_answer(step, future))

    def _publishers(self) -> frozenset[bytes]:
        """Return who publishes the status: a restarted Servo has another identity, however quick the restart."""
        publishers = self._node.get_publishers_info_by_topic(self._subscription.topic_name)
        return frozenset(bytes(publisher.endpoint_gid) for publisher in publishers)

    def _request(self, step: str) -> Any:
        if step == "get_parameters":
            return GetParameters.Request(names=[UNITS, TIMEOUT])
        if step == "switch_command_type":
            return self._command_type.Request(command_type=self._command_type.Request.TWIST)
        return SetBool.Request(data=False)

    def _on_answer(self, step: str, future: Any) -> None:
        if future is not self._call:
            return  # an answer to an earlier handshake
        self._call = None
        check: Callable[[Any], str] = self._wrong_parameters if step == "get_parameters" else self._refused
        wrong = check(future.result())
        if wrong:
            self._begin(unpause="pause_servo" in self._steps)
            self._refuse("servo_refused", f"{self._servo.node}/{step}: {wrong}")
            self._asked_until_s, self._call = time.monotonic() + ANSWER_S, future  # retry later
            return
        self._steps.pop(0)
        if not self._steps:  # the next status shows that Servo is working
            self._switched, self._heard_s = self._publishers(), time.monotonic()

    def _refused(self, answer: Any) -> str:
        return "" if answer.success else f"rejected {getattr(answer, 'message', '')}".strip()

    def _wrong_parameters(self, answer: Any) -> str:
        if len(answer.values) != 2 or answer.values[0].type != ParameterType.PARAMETER_STRING:
            return f"it has no parameter {UNITS}; is it MoveIt Servo, Jazzy or newer?"
        units, timeout_s = answer.values[0].string_value, answer.values[1].double_value
        if units != "speed_units":
            return f"{UNITS} must be speed_units, since twists are in m/s and rad/s; got {units!r}"
        if timeout_s < 2 * self._period_s:
            return (
                f"{TIMEOUT} must be at least {2 * self._period_s:g} s, two control periods, or Servo halts between "
                f"commands; got {timeout_s}"
            )
        return ""

    def _on_status(self, message: Any) -> None:
        self._heard_s = time.monotonic()
        if not self._steps and self.reason is not None:
            self.reason, self.detail = None, ""
            self._node.get_logger().info(f"{self._servo.node} accepts twists")
        self.status = f"{message.code}: {message.message}" if message.message else str(message.code)
        if message.code not in (self._code, NO_WARNING):
            self._node.get_logger().warning(f"{self._servo.node} reports {self.status}")
        self._code = message.code

    @property
    def warning(self) -> str | None:
        """What Servo reports if it slows down, halts, or refuses our twists."""
        return None if self._code == NO_WARNING else f"servo reports {self.status}"

    def _refuse(self, reason: str, detail: str) -> None:
        if detail != self.detail:
            self._node.get_logger().warning(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
