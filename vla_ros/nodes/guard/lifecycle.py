# SPDX-License-Identifier: Apache-2.0
"""The guard node's lifecycle, services and reports; `session.py` has what it does while configured."""

from __future__ import annotations

import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleState
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from vla_ros.errors import UserError
from vla_ros.nodes.common.lifecycle_node import SessionNode, transition
from vla_ros.nodes.guard import diagnostics
from vla_ros.nodes.guard.emergency_inputs import EmergencyInputs
from vla_ros.nodes.guard.parameters import PARAMETERS
from vla_ros.nodes.guard.session import GuardSession
from vla_ros.robot import EmergencyStop, Robot, load_robot
from vla_ros.runtime.safety.governor import State
from vla_ros.runtime.safety.guard import DISARMING, IDLE

DEFAULT_STOPS = (EmergencyStop("emergency_stop"),)


class GuardNode(SessionNode[GuardSession]):
    """See node.py for its topics and services. Emergency stops are heard without a session, too."""

    idle_status = staticmethod(diagnostics.idle_status)

    def __init__(self, name: str = "guard") -> None:
        self._turn = threading.RLock()
        super().__init__(name, PARAMETERS, self._turn)
        self._emergency = EmergencyInputs(self, self._buttons(), self._on_emergency_stop, self._turn)
        self.create_service(SetBool, "~/arm", self._on_arm)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.start_reports()

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
        self.get_logger().info(f"ready on robot {robot.name!r} at {robot.command_hz:g} Hz")

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

    def _on_emergency_stop(self) -> None:
        if self.session is not None:
            self.session.halt("emergency_stop")

    # Reports

    def active_status(self, session: GuardSession) -> DiagnosticStatus:
        """Return what the arm does, and why."""
        return diagnostics.state_status(session.core, dry_run=session.dry_run, stuck=session.stuck)

    def statuses(self, session: GuardSession | None, now_ns: int) -> list[DiagnosticStatus]:
        """Return what the arm does, what executes its commands, and whether its operator can be heard."""
        stops = self._emergency.stops
        with self._turn:
            buttons, problems = stops.summary(time.monotonic()), stops.problems()
        if session is None:
            idle = self.status()
            idle.name = "guard"
            return [idle, diagnostics.inputs_status(buttons, problems)]
        problems += [f"{topic}: {problem}" for topic, problem in session.inputs.problems().items()]
        with self._turn:
            guard = diagnostics.guard_status(session.core, dry_run=session.dry_run, stuck=session.stuck)
        outputs = diagnostics.outputs_status(session.outputs.status(), session.outputs.problem())
        return [guard, outputs, diagnostics.inputs_status(buttons, problems)]

    def _on_diagnostics(self) -> None:
        super()._on_diagnostics()
        self.publish_state()

    def _report_changes(self) -> None:
        assert self.session is not None
        core, governor, stuck = self.session.core, self.session.core.governor, self.session.stuck
        facts = (governor.state, governor.reason, governor.armed, core.status.command, core.taken_over, stuck)
        expected = governor.state is not State.STOPPING or governor.reason in IDLE
        self.report_change(facts, governor.reason, expected=expected)

    # Services and parameters

    def _on_arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        session = self.active_session
        if session is None:
            response.message = "the guard is not active: configure and activate it first"
            return response
        with self._turn:
            stop, stuck, output = self._emergency.stops.latched, session.stuck, session.core.output
            problem = f"{stop}; release it and call ~/reset first" if stop else stuck
            if not problem and output is not None and output[0] in DISARMING:
                problem = ": ".join(output)
            if request.data and problem:
                response.message = f"cannot arm: {problem}"
                return response
            session.arm(request.data)
        response.success, response.message = True, "disarmed"
        if request.data:
            core = session.core
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
        result = super()._on_set_parameters(parameters)
        for parameter in parameters:
            if result.successful and self.session is not None and parameter.name == "speed_scale":
                self.session.core.governor.speed_scale = float(parameter.value)
        return result
