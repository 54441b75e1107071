# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

import pytest
from rich.console import Console

from vla_ros.commands.ros.monitor import View

GUARD = {
    "state": "stopping", "reason": "stale", "detail": "Traceback\n  ...\ncamera 'wrist' [/red] is 0.4 s old\n",
    "command": "open the drawer", "dry run": "True", "taken over": "False", "speed scale": "0.5", "stops": "stale 2",
    "ticks total": "120", "ticks missed": "3",
}  # fmt: skip
POLICY = {"state": "active", "reason": "", "waiting commands": "close the drawer", "inference p50 ms": "8.25"}


def text(view: View) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view.render())
    return console.export_text()


def test_without_messages_it_suggests_what_may_be_wrong():
    shown = text(View(""))
    assert "no messages from /guard" in shown and "no messages from /policy" in shown


def test_it_shows_both_states_the_last_line_of_the_detail_and_why_the_arm_stopped():
    view = View("")
    view.on_state("/guard", "stopping: stale: Traceback\n ...", GUARD)
    view.on_state("/policy", "planning: 'open the drawer'", POLICY)
    shown = text(view)
    expected = (
        "GUARD", "stopping: stale", "'open the drawer'", "DRY RUN", "camera 'wrist' [/red] is 0.4 s old",
        "120", "stale 2", "0.5", "POLICY", "planning", "close the drawer", "8.25",
    )  # fmt: skip
    for part in expected:
        assert part in shown, part
    assert " ..." not in shown and "manual takeover" not in shown


def test_it_shows_the_diagnostics_of_its_nodes_only():
    view = View("left")
    view.on_state("/left/guard", "running", GUARD)
    view.on_status("/left/policy: stream wrist", "error", "silent for 1.00 s", {"rate Hz": "29.9", "age s": ""})
    view.on_status("/right/policy: stream wrist", "ok", "arriving", {"rate Hz": "15.0"})
    shown = text(view)
    assert "stream wrist" in shown and "silent for 1.00 s" in shown and "rate Hz 29.9" in shown
    assert "15.0" not in shown and "age s" not in shown


@pytest.mark.ros
@pytest.mark.parametrize(
    ("options", "namespace"),
    [
        ([], ""),
        (["--namespace", "left"], "left"),
        (["--node", "/left/policy"], "left"),
        (["--ros-args", "-r", "__ns:=/left"], "left"),
        (["--ros-args", "-r", "guard/state:=left/guard/state"], "left"),
    ],
)
def test_once_prints_the_state_and_exits(ros_environment, options, namespace):
    rclpy = pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    from vla_ros.nodes.common.qos import LATCHED_QOS

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(ros_environment["ROS_DOMAIN_ID"]))
    node = rclpy.create_node("guard", namespace=namespace, context=context)
    publisher = node.create_publisher(DiagnosticStatus, "~/state", LATCHED_QOS)
    values = [KeyValue(key=key, value=value) for key, value in GUARD.items()]
    publisher.publish(DiagnosticStatus(message="stopping: stale", values=values))
    command = [sys.executable, "-m", "vla_ros.cli", "monitor", "--once", *options]
    try:
        done = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60, check=False)
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert done.returncode == 0, done.stderr
    assert "stopping: stale" in done.stdout and "open the drawer" in done.stdout
    assert ("--node is deprecated; use --namespace left" in done.stderr) == ("--node" in options)
