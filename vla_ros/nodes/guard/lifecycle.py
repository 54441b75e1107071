# SPDX-License-Identifier: Apache-2.0
"""The guard node's lifecycle, services and reports; `session.py` has what it does while configured."""

from __future__ import annotations

import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from vla_ros.errors import UserError
from vla_ros.nodes.common.clock import steady_clock
from vla_ros.nodes.common.lifecycle_node import transition
from vla_ros.nodes.common.parameters import declare, refusal
from vla_ros.nodes.common.qos import LATCHED_QOS
from vla_ros.nodes.guard import diagnostics
from vla_ros.nodes.guard.emergency_inputs import EmergencyInputs
from vla_ros.nodes.guard.parameters import PARAMETERS
from vla_ros.nodes.guard.session import GuardSession
from vla_ros.robot import EmergencyStop, Robot, load_robot
from vla_ros.runtime.safety.governor import FAULTS, State
from vla_ros.runtime.safety.guard import DISARMING, IDLE

DIAGNOSTICS_PERIOD_S = 1.0
DEFAULT_STOPS = (EmergencyStop("emergency_stop"),)


class GuardNode(LifecycleNode):
    """See node.py for its topics and services."""

    def __init__(self, name: str = "guard") -> None:
        super().__init__(name)
        self.session: GuardSession | None = None
        self.add_on_set_parameters_callback(self._on_set_parameters)
        declare(self, PARAMETERS)
        self.last_error = ""
        self._turn = threading.RLock()
        self._reported: tuple[object, ...] | None = None
        self._state_publisher = self.create_publisher(DiagnosticStatus, "~/state", LATCHED_QOS)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._emergency = EmergencyInputs(self, self._buttons(), self._on_emergency_stop, self._turn)
        self.create_service(SetBool, "~/arm", self._on_arm)
        self.create_service(Trigger, "~/reset", self._on_reset)
        # On the steady clock: simulated time that stands still must be reported, too.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady_clock())
        self.publish_state()

    def _robot(self) -> Robot:
        return load_robot(self.get_parameter("robot").value)

    def _buttons(self) -> tuple[EmergencyStop, ...]:
        """Return the emergency stops of the robot's file; of a file that cannot be read, `configure` tells."""
        try:
            return self._robot().emergency_stops
        except UserError:
            return DEFAULT_STOPS

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Read the robot's file and the parameters, and make all topics."""
        robot = self._robot()
        if {button.topic for button in robot.emergency_stops} != set(self._emergency.topics):
            raise UserError("the emergency stops of the robot's file have changed since the start: restart the guard")
        self.session = GuardSession(self, robot, self._emergency, self._turn, self._report_changes)
        if robot.unchecked:
            self.get_logger().warning(f"switched off in the robot's file: {', '.join(robot.unchecked)}")
        self.get_logger().info(f"ready on robot {robot.name!r} at {self.get_parameter('command_hz').value:g} Hz")

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Begin to tick."""
        assert self.session is not None
        self.session.start(armed=self.get_parameter("arm_on_start").value)

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stop the arm."""
        assert self.session is not None
        self.session.stop("deactivated")

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Give the robot's topics back; emergency stops are still heard."""
        self.release()

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Stop the arm and end."""
        self.release()

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Clear up after a failed transition."""
        self.release()

    def release(self) -> None:
        """Stop the arm and give the session back; harmless without one."""
        try:
            if self.session is not None:
                self.session.close()
        finally:
            self.session = None

    def _on_emergency_stop(self) -> None:
        if self.session is not None:
            self.session.halt("emergency_stop")

    # Reports

    def status(self) -> DiagnosticStatus:
        """Return the state as a message."""
        session = self.session
        if session is not None and session.active:
            message = diagnostics.state_status(session.core, dry_run=session.dry_run, stuck=session.stuck)
        else:
            label = "unconfigured" if session is None else "inactive"
            message = diagnostics.idle_status(label, self.last_error)
        message.name = self.get_fully_qualified_name()
        message.hardware_id = session.robot.name if session is not None else ""
        return message

    def publish_state(self) -> None:
        """Publish ~/state."""
        with self._turn:
            self._state_publisher.publish(self.status())

    def _report_changes(self) -> None:
        assert self.session is not None
        core, governor = self.session.core, self.session.core.governor
        stuck = self.session.stuck
        now = (governor.state, governor.reason, governor.armed, core.status.command, core.taken_over, stuck)
        if now == self._reported:
            return
        self._reported = now
        message = self.status()
        self._state_publisher.publish(message)
        log = self.get_logger()
        if governor.reason in FAULTS:
            log.error(message.message)
        elif governor.state is State.STOPPING and governor.reason not in IDLE:
            log.warning(message.message)
        else:
            log.info(message.message)

    def _on_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        session, stops = self.session, self._emergency.stops
        with self._turn:
            buttons, problems = stops.summary(time.monotonic()), stops.problems()
        if session is not None and session.active:
            problems += [f"{topic}: {problem}" for topic, problem in session.inputs.problems().items()]
            with self._turn:
                message.status = [diagnostics.guard_status(session.core, dry_run=session.dry_run, stuck=session.stuck)]
            outputs = session.outputs
            message.status.append(diagnostics.outputs_status(outputs.status(), outputs.problem()))
        else:
            message.status = [self.status()]
            message.status[0].name = "guard"
        message.status.append(diagnostics.inputs_status(buttons, problems))
        for status in message.status:
            status.name = f"{self.get_fully_qualified_name()}: {status.name}"
            status.hardware_id = session.robot.name if session is not None else ""
        self._diagnostics_publisher.publish(message)
        self.publish_state()

    # Services and parameters

    def _on_arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.session is None or not self.session.active:
            response.message = "the guard is not active: configure and activate it first"
            return response
        with self._turn:
            stop, stuck, output = self._emergency.stops.latched, self.session.stuck, self.session.core.output
            problem = f"{stop}; release it and call ~/reset first" if stop else stuck
            if not problem and output is not None and output[0] in DISARMING:
                problem = ": ".join(output)
            if request.data and problem:
                response.message = f"cannot arm: {problem}"
                return response
            self.session.arm(request.data)
        response.success, response.message = True, "disarmed"
        if request.data:
            core = self.session.core
            speed = "" if core.governor.scale == 1.0 else f" at {core.governor.scale:.0%} of the speed"
            response.message = f"armed{speed}; the policy follows {core.status.command[:200]!r}"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._turn:
            if self.session is not None:
                refusal = self.session.core.reset(time.monotonic())
            else:
                refusal = self._emergency.stops.reset(time.monotonic())
        response.success = refusal is None
        response.message = refusal or "fault cleared; the arm is disarmed: call ~/arm to move"
        return response

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        reason = refusal(PARAMETERS, parameters, configured=self.session is not None)
        for parameter in parameters:
            if not reason and self.session is not None and parameter.name == "speed_scale":
                self.session.core.governor.speed_scale = float(parameter.value)
        return SetParametersResult(successful=not reason, reason=reason)
