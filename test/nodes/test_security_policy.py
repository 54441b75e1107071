# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""config/sros2/policies.xml allows what our nodes create, and nothing else: compared with the graph, over real DDS."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy", reason="needs rclpy")

from policy_bench import policy_node, write_checkpoint

from vla_ros import bringup, resources
from vla_ros.robot import load_robot

POLICIES = resources.path("config/sros2/policies.xml")
OURS = ("policy", "guard", "recorder", "simulator", "monitor", "say", "replay")
QUALIFIERS = ("publish", "subscribe", "reply", "request")
SPEAKER = "from vla_ros.nodes.clients.say import say; say('x', 'language_command', 120.0)"
WATCHER = "from vla_ros.nodes.clients.monitor import listen; list(listen(['/guard', '/policy'], print, print, 1.0))"
REPLAYER = """
import pathlib, sys
import numpy as np
from vla_ros.commands.ros.replay_onto_robot import with_state
from vla_ros.contract import PolicyContract
from vla_ros.nodes.policy.replay import replay
from vla_ros.robot import load_robot
from vla_ros.runtime.playback import Playback

contract = with_state(PolicyContract.load(pathlib.Path(sys.argv[1], "contract.json")), load_robot("tabletop"))
playback = Playback(contract, np.zeros((1, 7)), "x", 1.0)
parameters, settings = {"robot": "tabletop"}, {"namespace": "", "arm": False, "timeout_s": 60.0}
replay(playback, parameters=parameters, check_start=print, check_guard=lambda: None, report=print, **settings)
"""

Granted = dict[str, set[str]]


def granted() -> dict[str, Granted]:
    """What the file allows each node, as full names."""
    found: dict[str, Granted] = {}
    for profile in ElementTree.parse(POLICIES).iter("profile"):
        assert profile.get("ns") == "/"
        names = found.setdefault(profile.get("node"), {qualifier: set() for qualifier in QUALIFIERS})
        for expressions in profile:
            for qualifier in QUALIFIERS:
                if expressions.get(qualifier) == "ALLOW":
                    names[qualifier] |= {_full_name(profile.get("node"), each.text) for each in expressions}
            assert "DENY" not in expressions.attrib.values()  # what is not allowed is denied
    return found


def _full_name(node: str, name: str) -> str:
    return name.replace("~", f"/{node}", 1) if name.startswith("~") else "/" + name.lstrip("/")


def created(probe, node: str) -> Granted | None:
    """What a node has created, by its full name; None while it is not known."""
    from rclpy.node import NodeNameNonExistentError

    look = (
        probe.get_publisher_names_and_types_by_node,
        probe.get_subscriber_names_and_types_by_node,
        probe.get_service_names_and_types_by_node,
        probe.get_client_names_and_types_by_node,
    )
    try:
        return {qualifier: {name for name, _ in names(node, "/")} for qualifier, names in zip(QUALIFIERS, look)}
    except NodeNameNonExistentError:
        return None


def listening_ports(pid: int) -> list[int]:
    """The TCP ports on which a process listens (Linux). DDS uses UDP and shared memory."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    listening = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                listening.append(int(fields[1].rsplit(":", 1)[1], 16))
    return listening


def test_a_port_would_be_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening_ports(os.getpid()) == [server.getsockname()[1]]


@contextlib.contextmanager
def _running(code: str, environment: dict[str, str], *arguments: str) -> Iterator[None]:
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_each_node_may_do_what_it_does_and_nothing_else(make_graph, ros_environment, tmp_path):
    graph, seen = make_graph(), {}

    def see(node: str, expected: Granted) -> None:
        def all_there() -> bool:
            seen[node] = created(graph.node, node)
            return seen[node] == expected

        with contextlib.suppress(AssertionError):  # the comparison below says more
            graph.wait(all_there, node, timeout_s=30.0)

    wanted = {node: granted()[node] for node in OURS}
    with _running(SPEAKER, ros_environment):
        see("say", wanted["say"])  # it waits for somebody to listen
    graph.start(bringup.simulator(), bringup.recorder(str(tmp_path / "bag")))
    options = {"on_new_command": "after_success", "arm_on_start": False}
    files = write_checkpoint(tmp_path), "tabletop"
    preview = {_full_name("guard", "~/preview"), _full_name("guard", "~/preview_gripper")}
    robot = load_robot("tabletop")
    commands = {f"/{topic.topic}" for topic in (robot.twist_command, robot.gripper_command, robot.demonstrated_twist)}
    with policy_node(*files, ros_environment, **options) as policy, _running(WATCHER, ros_environment):
        for node in ("policy", "guard", "monitor", "simulator", "recorder"):
            see(node, {**wanted[node], "publish": wanted[node]["publish"] - (preview if node == "guard" else set())})
        moving = seen["guard"]
        assert listening_ports(policy.pid) == listening_ports(policy.guard.pid) == []
    with policy_node(*files, ros_environment, dry_run=True, **options):
        see("guard", {**wanted["guard"], "publish": wanted["guard"]["publish"] - commands})
    with _running(REPLAYER, ros_environment, str(files[0])):
        see("replay", wanted["replay"])
    seen["guard"] = {qualifier: moving[qualifier] | seen["guard"][qualifier] for qualifier in QUALIFIERS}
    assert seen == wanted


def test_what_carries_commands_and_stops_is_for_the_nodes_that_need_it():
    wanted = granted()
    assert {node for node, names in wanted.items() if "/twist_command" in names["publish"]} == {"guard"}
    assert {node for node, names in wanted.items() if "/plan" in names["publish"]} == {"policy", "replay"}
    assert {node for node, names in wanted.items() if "/language_command" in names["publish"]} == {"say"}
    assert {node for node, names in wanted.items() if "/guard/arm" in names["request"]} == {"operator", "replay"}
    operator, ours = wanted["operator"], [wanted[node] for node in OURS]
    assert operator["request"] <= set().union(*(names["reply"] for names in ours))
    heard = set().union(*(names["subscribe"] for names in ours)) | {"/rosout", "/parameter_events"}
    assert operator["publish"] <= heard and "/twist_command" not in operator["publish"]
    assert operator["subscribe"] <= set().union(*(names["publish"] for names in ours))


@pytest.mark.skipif(importlib.util.find_spec("sros2") is None, reason="sros2 is not installed (it is not on PyPI)")
def test_sros2_makes_a_keystore_of_it(tmp_path: Path):
    from sros2.api._artifact_generation import generate_artifacts
    from sros2.policy import load_policy

    load_policy(Path(POLICIES))  # validates against sros2's schema
    keystore = tmp_path / "keystore"
    generate_artifacts(keystore_path=keystore, policy_files=[Path(POLICIES)])
    enclaves = {path.parent.relative_to(keystore / "enclaves").as_posix() for path in keystore.rglob("permissions.p7s")}
    assert enclaves == {f"vla_ros/{node}" for node in (*OURS, "operator")}
    permissions = (keystore / "enclaves/vla_ros/guard/permissions.xml").read_text()
    assert "rt/twist_command" in permissions and "rq/guard/armRequest" in permissions
    assert "rt/twist_command" not in (keystore / "enclaves/vla_ros/say/permissions.xml").read_text()
