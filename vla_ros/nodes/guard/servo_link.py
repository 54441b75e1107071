# SPDX-License-Identifier: Apache-2.0
"""MoveIt Servo's handshake and status (Jazzy and newer), without ever waiting.

Servo takes twists only after `~/switch_command_type`; by default it takes them for fractions of a scale, not for m/s;
it drops what is older than `incoming_command_timeout`; and it says on `~/status` what it makes of them. Sources:
moveit_ros/moveit_servo, src/servo_node.cpp and config/servo_parameters.yaml; moveit2 issues 772 and 3040.
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
# Servo reports in each of its cycles, 30 Hz by default, unless it is paused.
SILENT_S = 1.0
# moveit_msgs/ServoStatus: the others say that Servo slows down, halts or takes a command for invalid.
NO_WARNING = 0
UNITS, TIMEOUT = "moveit_servo.command_in_type", "moveit_servo.incoming_command_timeout"


class ServoLink:
    """Brings Servo to where it takes our twists, and says while it does not.

    Args:
        servo: which one.
        period_s: between two of our twists; Servo has to wait for at least two of them before it halts.

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
        """Do the handshake anew and end a pause: whoever activates the policy means to move the arm."""
        self._begin(unpause=True)

    def close(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
        for client in self._clients.values():
            self._node.destroy_client(client)

    def _begin(self, *, unpause: bool) -> None:
        """Do the handshake from its first step; until its last, Servo does not take our twists."""
        self.reason, self.detail = "servo_not_ready", f"no answer from {self._servo.node} yet"
        # A pause that began while we were running is somebody's wish and stays.
        self._steps = ["get_parameters", "switch_command_type", *(["pause_servo"] if unpause else [])]
        self._call = None

    def _on_timer(self) -> None:
        now_s = time.monotonic()
        if not self._steps:
            if self._who() != self._switched:
                self._begin(unpause=False)
                self._refuse("servo_not_ready", f"{self._servo.node} was started anew")
            elif now_s - self._heard_s > SILENT_S:
                self._refuse("servo_silent", f"no status from {self._servo.node} for {SILENT_S} s: is it paused?")
            return
        if self._call is not None and now_s < self._asked_until_s:
            return
        step = self._steps[0]
        client = self._clients[step]
        if not client.service_is_ready():
            self._refuse("servo_not_ready", f"service {client.srv_name} is not there")
            return
        call = self._call = client.call_async(self._request(step))
        self._asked_until_s = now_s + ANSWER_S
        call.add_done_callback(lambda future: self._on_answer(step, future))

    def _who(self) -> frozenset[bytes]:
        """Who publishes the status: a Servo that was started anew, however quickly, is somebody else."""
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
            return  # an answer that came after the handshake had begun anew
        self._call = None
        check: Callable[[Any], str] = self._wrong_parameters if step == "get_parameters" else self._refused
        wrong = check(future.result())
        if wrong:
            self._begin(unpause="pause_servo" in self._steps)
            self._refuse("servo_refused", f"{self._servo.node}/{step}: {wrong}")
            self._asked_until_s, self._call = time.monotonic() + ANSWER_S, future  # and not at once
            return
        self._steps.pop(0)
        if not self._steps:  # from now on the next status says that Servo is at work
            self._switched, self._heard_s = self._who(), time.monotonic()

    def _refused(self, answer: Any) -> str:
        return "" if answer.success else f"refused {getattr(answer, 'message', '')}".strip()

    def _wrong_parameters(self, answer: Any) -> str:
        if len(answer.values) != 2 or answer.values[0].type != ParameterType.PARAMETER_STRING:
            return f"it has no parameter {UNITS}; is it MoveIt Servo, of Jazzy or newer?"
        units, timeout_s = answer.values[0].string_value, answer.values[1].double_value
        if units != "speed_units":
            return f"{UNITS} is {units!r}; our twists are m/s and rad/s: set it to speed_units"
        if timeout_s < 2 * self._period_s:
            return (
                f"{TIMEOUT} is {timeout_s} s, and the policy commands every {self._period_s} s: "
                f"set it to at least {2 * self._period_s:g}, or Servo halts between two commands"
            )
        return ""

    def _on_status(self, message: Any) -> None:
        self._heard_s = time.monotonic()
        if not self._steps and self.reason is not None:
            self.reason, self.detail = None, ""
            self._node.get_logger().info(f"{self._servo.node} takes twists")
        self.status = f"{message.code}: {message.message}" if message.message else str(message.code)
        if message.code not in (self._code, NO_WARNING):
            self._node.get_logger().warning(f"{self._servo.node} says {self.status}")
        self._code = message.code

    @property
    def warning(self) -> str | None:
        """What Servo makes of our twists, where that is not what was meant: it slows down, halts, or refuses them."""
        return None if self._code == NO_WARNING else f"servo says {self.status}"

    def _refuse(self, reason: str, detail: str) -> None:
        if detail != self.detail:
            self._node.get_logger().warning(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
