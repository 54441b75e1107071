# SPDX-License-Identifier: Apache-2.0
"""A ROS graph for one test: real processes and a probe node, in a domain of their own."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vla_ros.bringup import Process
from vla_ros.commands.ros.isolation import DOMAIN_VARIABLE
from vla_ros.commands.ros.process_group import ProcessGroup

TIMEOUT_S = 30.0


class Graph:
    """Starts processes and talks to them. `node` is spun in a thread; lists from `listen` grow as messages come."""

    def __init__(self, group: ProcessGroup, domain_id: int, use_sim_time: bool) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter

        self.group = group
        self._domain_id = domain_id
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        parameters = [Parameter("use_sim_time", value=use_sim_time)]
        self.node = rclpy.create_node("probe", context=self.context, parameter_overrides=parameters)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def start(self, *processes: Process) -> None:
        for process in processes:
            environment = {**process.environment, "ROS_DOMAIN_ID": str(self._domain_id)}
            self.group.start(dataclasses.replace(process, environment=environment))

    def kill(self, name: str) -> None:
        """Kill a process of the group without warning."""
        _, popen = self.group._running.pop(name)
        popen.kill()
        popen.wait()

    def listen(self, kind: Any, topic: str, qos: Any = 10) -> list:
        heard: list = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (result := condition()):
            self.group.check()
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
            time.sleep(0.005)
        return result

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


def _graphs(folder: Path, domain_id: int) -> Iterator[Callable[..., Graph]]:
    graphs: list[Graph] = []

    def make(use_sim_time: bool = False) -> Graph:
        graphs.append(Graph(ProcessGroup(folder), domain_id, use_sim_time))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()
        graph.group.__exit__(None, None, None)


@pytest.fixture
def make_graph(tmp_path: Path, ros_environment: dict[str, str]) -> Iterator[Callable[..., Graph]]:
    """Makes the graph of one test; `use_sim_time` is the probe's."""
    yield from _graphs(tmp_path / "logs", int(ros_environment["ROS_DOMAIN_ID"]))


@pytest.fixture(scope="module")
def make_module_graph(
    tmp_path_factory: pytest.TempPathFactory, module_ros_environment: dict[str, str]
) -> Iterator[Callable[..., Graph]]:
    """Makes a graph that the tests of a module share."""
    yield from _graphs(tmp_path_factory.mktemp("logs"), int(module_ros_environment["ROS_DOMAIN_ID"]))


@pytest.fixture(scope="module")
def domain(module_ros_environment):
    """What this process starts is in the ROS domain of the module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROS_DOMAIN_ID", DOMAIN_VARIABLE):
            patch.setenv(name, module_ros_environment[name])
        yield
