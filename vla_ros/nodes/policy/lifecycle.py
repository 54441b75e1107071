# SPDX-License-Identifier: Apache-2.0
"""The policy node's lifecycle, services and reports; `session.PolicySession` is what it does while configured."""

from __future__ import annotations

import sys
import threading

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleState
from std_srvs.srv import Trigger

from vla_ros import transport
from vla_ros.nodes.common.lifecycle_node import SessionNode, transition
from vla_ros.nodes.policy import diagnostics, loading
from vla_ros.nodes.policy.loading import FindPolicy
from vla_ros.nodes.policy.parameters import PARAMETERS
from vla_ros.nodes.policy.session import PolicySession

# The longest that the heartbeat waits for Python's lock if inference holds it; Python's default is 5 ms.
SWITCH_INTERVAL_S = 2e-4


class PolicyNode(SessionNode[PolicySession]):
    """The node; `policy_node --help` lists its topics, services and parameters."""

    idle_status = staticmethod(diagnostics.idle_status)

    def __init__(self, name: str = "policy", find_policy: FindPolicy = loading.from_parameters) -> None:
        super().__init__(name, PARAMETERS, threading.Lock())
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._find_policy = find_policy
        # Once, as the middleware reads them. At each report, pathlib would intern names in paths, and Python's table of
        # interned strings would grow by megabytes after half an hour.
        self._missing_settings = [*transport.missing(), *transport.small_shared_memory()]
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.start_reports()

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the policy, and subscribe to its inputs."""
        self.configuring = True  # for as long as the model loads
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

    def active_status(self, session: PolicySession) -> DiagnosticStatus:
        """Return what the policy follows, and why it has no plan."""
        plans = session.plans
        latency = plans.camera_to_plan_ms.summary()
        return diagnostics.policy_status(session.status(), plans.count, session.commands.waiting, latency)

    def statuses(self, session: PolicySession | None, now_ns: int) -> list[DiagnosticStatus]:
        """Return how images travel and, of an active session, its plans and its streams."""
        statuses = [diagnostics.transport_status(self._missing_settings)]
        if session is not None:
            limits, streams = session.robot.observation, session.streams
            skew = diagnostics.skew_status(streams.rates, session.robot.cameras, limits.max_skew_s)
            statuses += [self.active_status(session), skew]
            if (decoder := streams.raw_decoder) is not None:
                statuses.append(diagnostics.decoder_status(decoder.verdict, dict(decoder.rejected)))
            for name, rate in streams.rates.items():
                faults = streams.incompatible_qos[name], streams.undecodable.get(name)
                statuses.append(diagnostics.stream_status(name, rate, now_ns, limits.max_age_s, *faults))
        return statuses

    def _on_diagnostics(self) -> None:
        session = self.active_session
        if session is not None:
            session.check()
            self.publish_state()
        super()._on_diagnostics()

    def _report_changes(self) -> None:
        assert self.session is not None
        engine = self.session.status()
        expected = engine.reason is None or engine.reason in diagnostics.EXPECTED_REASONS
        self.report_change((engine.reason, engine.command), engine.reason, expected=expected)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.session is None:
            response.message = "the node is not configured"
            return response
        self.session.reset()
        response.success, response.message = True, "plan, history and fault cleared"
        return response
