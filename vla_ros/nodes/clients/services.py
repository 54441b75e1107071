# SPDX-License-Identifier: Apache-2.0
"""Call services from a thread that may block, while another thread spins the node."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vla_ros.errors import UserError

RETRY_AFTER_S = 3.0


class ServiceError(UserError):
    """A service is missing, does not answer, or refuses."""


class RemoteNode:
    """Another node's Trigger services and parameters; `name` may be relative."""

    def __init__(self, node: Node, name: str, *, timeout_s: float = 20.0) -> None:
        self._node, self._name, self._timeout_s = node, name, timeout_s
        self._clients: dict[str, Any] = {}

    def trigger(self, service: str) -> str:
        """Call `~/service` and return its message."""
        response = self._call(Trigger, f"{self._name}/{service}", Trigger.Request())
        if not response.success:
            raise ServiceError(f"{self._name}/{service} refused: {response.message}")
        return str(response.message)

    def set_parameters(self, **values: Any) -> None:
        """Set parameters; ServiceError if any is refused."""
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        response = self._call(SetParameters, f"{self._name}/set_parameters", request, retry_after_s=RETRY_AFTER_S)
        for name, result in zip(values, response.results, strict=True):
            if not result.successful:
                raise ServiceError(f"{self._name}: parameter {name} = {values[name]!r} refused: {result.reason}")

    def _call(self, kind: Any, service: str, request: Any, retry_after_s: float | None = None) -> Any:
        """Call a service; an idempotent one again after `retry_after_s` without an answer.

        DDS reports a service as available once requests reach it, although its answers may not reach us yet and get
        lost.
        """
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self._node.create_client(kind, service)
        if not client.wait_for_service(self._timeout_s):
            raise ServiceError(f"no service {service} after {self._timeout_s:.0f} s; is its node running?")
        answered, futures = threading.Event(), []
        gives_up_s = time.monotonic() + self._timeout_s
        while (left_s := gives_up_s - time.monotonic()) > 0:
            futures.append(client.call_async(request))
            futures[-1].add_done_callback(lambda _: answered.set())
            if answered.wait(min(left_s, retry_after_s or left_s)):
                break
        unanswered = [future for future in futures if not future.done()]
        for future in unanswered:
            client.remove_pending_request(future)
        if len(unanswered) == len(futures):
            raise ServiceError(f"service {service} did not answer within {self._timeout_s:.0f} s")
        return next(future for future in futures if future.done()).result()


class RemoteSimulator(RemoteNode):
    """The simulator's services."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, "simulator")

    def reset(self, task: str, seed: int) -> dict[str, Any]:
        """Start an episode; return task, seed, a suitable command, and the time of the reset, `time_ns`."""
        self.set_parameters(task=task, seed=seed)
        return dict(json.loads(self.trigger("reset")))
