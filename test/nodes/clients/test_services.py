# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from rclpy.task import Future

from vla_ros.nodes.clients import services
from vla_ros.nodes.clients.services import RemoteNode, ServiceError


class Client:
    """Of a service whose first answers are lost on their way."""

    def __init__(self, lost: int) -> None:
        self.lost, self.calls, self.removed = lost, 0, 0

    def wait_for_service(self, timeout_s: float) -> bool:
        return True

    def call_async(self, request):
        self.calls += 1
        future = Future()
        if self.calls > self.lost:
            result = SimpleNamespace(successful=True)
            future.set_result(SimpleNamespace(success=True, message="done", results=[result]))
        return future

    def remove_pending_request(self, future) -> None:
        self.removed += 1


def remote(client: Client) -> RemoteNode:
    return RemoteNode(SimpleNamespace(create_client=lambda kind, name: client), "recorder", timeout_s=0.5)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(services, "RETRY_AFTER_S", 0.05)


def test_parameters_are_set_again_where_the_answer_is_lost() -> None:
    client = Client(lost=2)
    remote(client).set_parameters(task="open_drawer")
    assert client.calls == 3 and client.removed == 2


def test_what_must_not_be_done_twice_is_asked_for_once() -> None:
    client = Client(lost=1)
    with pytest.raises(ServiceError, match="recorder/start did not answer within"):
        remote(client).trigger("start")
    assert client.calls == 1 == client.removed


def test_a_node_that_never_answers_is_named() -> None:
    client = Client(lost=1000)
    with pytest.raises(ServiceError, match="recorder/set_parameters did not answer within"):
        remote(client).set_parameters(task="open_drawer")
    assert client.calls == client.removed > 5
