# SPDX-License-Identifier: Apache-2.0
"""Call services from a thread that may wait, while another thread spins the node."""

from __future__ import annotations

import json
import threading
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vla_ros.errors import UserError


class ServiceError(UserError):
    """A service that is not there, does not answer, or refuses."""


class RemoteNode:
    """Another node's Trigger services and parameters, by that node's (relative) name."""

    def __init__(self, node: Node, name: str, *, timeout_s: float = 20.0) -> None:
        self._node = node
        self._name = name
        self._timeout_s = timeout_s
        self._clients: dict[str, Any] = {}

    def trigger(self, service: str) -> str:
        """Call `~/service` and return its message.

        Raises:
            ServiceError: it is missing, silent, or answers with success = false.
        """
        response = self._call(Trigger, f"{self._name}/{service}", Trigger.Request())
        if not response.success:
            raise ServiceError(f"{self._name}/{service} refused: {response.message}")
        return str(response.message)

    def set_parameters(self, **values: Any) -> None:
        """Set parameters.

        Raises:
            ServiceError: the node is missing or silent, or refuses a value.
        """
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        response = self._call(SetParameters, f"{self._name}/set_parameters", request)
        for name, result in zip(values, response.results, strict=True):
            if not result.successful:
                raise ServiceError(f"{self._name}: parameter {name} = {values[name]!r} refused: {result.reason}")

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self._node.create_client(kind, service)
        if not client.wait_for_service(self._timeout_s):
            raise ServiceError(f"service {service} is not there after {self._timeout_s:.0f} s; is that node running?")
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(self._timeout_s):
            client.remove_pending_request(future)
            raise ServiceError(f"service {service} did not answer within {self._timeout_s:.0f} s")
        return future.result()


class RemoteSimulator(RemoteNode):
    """The simulator's services."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, "simulator")

    def reset(self, task: str, seed: int) -> dict[str, Any]:
        """Start an episode; returns task, seed, a fitting command and the instant `time_ns` of the reset."""
        self.set_parameters(task=task, seed=seed)
        return dict(json.loads(self.trigger("reset")))
