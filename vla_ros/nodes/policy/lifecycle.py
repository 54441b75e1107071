# SPDX-License-Identifier: Apache-2.0
"""The policy node's lifecycle, services and reports; `session.PolicySession` is what it does while configured."""

from __future__ import annotations

import sys
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vla_ros import transport
from vla_ros.nodes.common.clock import steady_clock
from vla_ros.nodes.common.lifecycle_node import transition
from vla_ros.nodes.common.parameters import declare, refusal
from vla_ros.nodes.common.qos import LATCHED_QOS
from vla_ros.nodes.policy import diagnostics, loading
from vla_ros.nodes.policy.loading import FindPolicy
from vla_ros.nodes.policy.parameters import PARAMETERS
from vla_ros.nodes.policy.session import PolicySession
from vla_ros.runtime.safety.governor import FAULTS

DIAGNOSTICS_PERIOD_S = 1.0
# The longest that the heartbeat waits for Python's lock if inference holds it; Python's default is 5 ms.
SWITCH_INTERVAL_S = 2e-4


class PolicyNode(LifecycleNode):
    """The node; `policy_node --help` lists its topics, services and parameters."""

    def __init__(self, name: str = "policy", find_policy: FindPolicy = loading.from_parameters) -> None:
        super().__init__(name)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._find_policy = find_policy
        self.session: PolicySession | None = None
        self.add_on_set_parameters_callback(self._on_set_parameters)
        declare(self, PARAMETERS)
        self.configuring = False  # takes as long as loading the model
        self.last_error = ""
        self._reported: tuple[str | None, str] | None = None
        self._publishing_state = threading.Lock()
        # Once, as the middleware reads them. At each report, pathlib would intern names in paths, and Python's table of
        # interned strings would grow by megabytes after half an hour.
        self._missing_settings = [*transport.missing(), *transport.small_shared_memory()]
        self._state_publisher = self.create_publisher(DiagnosticStatus, "~/state", LATCHED_QOS)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        # On the steady clock, to report simulated time that stands still.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady_clock())
        self.publish_state()

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the policy, and subscribe to its inputs."""
        self.configuring = True
        try:
            self.session = PolicySession(self, self._report_changes, self._find_policy)
        finally:
            self.configuring = False

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Observe and plan."""
        assert self.session is not None
        self.session.start()

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stop planning."""
        assert self.session is not None
        self.session.stop()

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Free the policy."""
        self.release()

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Free the policy and end."""
        self.release()

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Clean up after a failed transition."""
        self.release()

    def release(self) -> None:
        """Stop planning and close the session, if there is one."""
        try:
            if self.session is not None:
                self.session.close()  # until it returns, ticks continue and report changes
        finally:
            self.session = None

    def publish_state(self) -> None:
        """Publish ~/state."""
        with self._publishing_state:  # the later of two threads has the last word
            self._state_publisher.publish(self.status())

    def status(self) -> DiagnosticStatus:
        """Return the state as a message."""
        session = self.session
        if session is not None and session.active:
            message = self._policy_status(session)
        else:
            label = "unconfigured" if session is None else "inactive"
            message = diagnostics.idle_status(label, self.last_error)
        message.name = self.get_fully_qualified_name()
        message.hardware_id = session.robot.name if session is not None else ""
        return message

    def _policy_status(self, session: PolicySession) -> DiagnosticStatus:
        plans = session.plans
        latency = plans.camera_to_plan_ms.summary()
        return diagnostics.policy_status(session.status(), plans.count, session.commands.waiting, latency)

    def _report_changes(self) -> None:
        """Publish and log the state if it has changed."""
        assert self.session is not None
        engine = self.session.status()
        now = (engine.reason, engine.command)
        if now == self._reported:
            return
        self._reported = now
        self.publish_state()
        log, text = self.get_logger(), self.status().message
        if engine.reason in FAULTS:
            log.error(text)
        elif engine.reason is not None and engine.reason not in diagnostics.EXPECTED_REASONS:
            log.warning(text)
        else:
            log.info(text)

    def _on_diagnostics(self) -> None:
        now = self.get_clock().now()
        message = DiagnosticArray(status=[diagnostics.transport_status(self._missing_settings)])
        message.header.stamp = now.to_msg()
        session = self.session
        if session is not None and session.active:
            session.check()
            limits, rates = session.robot.observation, session.streams.rates
            message.status += [
                self._policy_status(session),
                diagnostics.skew_status(rates, session.robot.cameras, limits.max_skew_s),
            ]
            for name, rate in rates.items():
                qos = session.streams.incompatible_qos[name]
                message.status.append(diagnostics.stream_status(name, rate, now.nanoseconds, limits.max_age_s, qos))
            self.publish_state()
        for status in message.status:
            status.name = f"{self.get_fully_qualified_name()}: {status.name}"
            status.hardware_id = session.robot.name if session is not None else ""
        self._diagnostics_publisher.publish(message)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.session is None:
            response.message = "the node is not configured"
            return response
        self.session.reset()
        response.success, response.message = True, "plan, history and fault cleared"
        return response

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        reason = refusal(PARAMETERS, parameters, configured=self.session is not None)
        return SetParametersResult(successful=not reason, reason=reason)
