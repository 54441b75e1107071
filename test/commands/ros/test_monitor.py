# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from vla_ros.commands.ros.monitor import View

STATE = {
    "state": "stopping", "reason": "stale", "detail": "Traceback\n  ...\ncamera 'wrist' [/red] is 0.4 s old\n",
    "command": "open the drawer", "waiting_commands": ["close the drawer"], "dry_run": True, "taken_over": False,
    "speed_scale": 0.5, "stops": {"stale": 2}, "ticks": {"total": 120, "missed": 3},
    "inference_ms": {"p50": 8.25, "p95": None, "p99": None},
}  # fmt: skip


def text(view: View) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view.render())
    return console.export_text()


def test_without_messages_it_suggests_what_may_be_wrong():
    assert "no messages from policy" in text(View("policy"))


def test_it_shows_the_state_the_last_line_of_its_detail_and_why_the_arm_stopped():
    view = View("policy")
    view.on_state(STATE)
    shown = text(view)
    expected = (
        "STOPPING", "stale", "'open the drawer'", "DRY RUN", "camera 'wrist' [/red] is 0.4 s old", "close the drawer",
        "120, missed 3", "p50 8.2 ms", "stale 2", "0.5",
    )  # fmt: skip
    for part in expected:
        assert part in shown, part
    assert "Traceback" not in shown and "manual takeover" not in shown


def test_it_shows_the_diagnostics_of_its_node_only():
    view = View("/left/policy")
    view.on_state(STATE)
    view.on_status("/left/policy: stream wrist", "error", "silent for 1.00 s", {"rate Hz": "29.9", "age s": ""})
    view.on_status("/right/policy: stream wrist", "ok", "arriving", {"rate Hz": "15.0"})
    shown = text(view)
    assert "stream wrist" in shown and "silent for 1.00 s" in shown and "rate Hz 29.9" in shown
    assert "15.0" not in shown and "age s" not in shown


@pytest.mark.ros
def test_once_prints_the_state_and_exits(ros_environment):
    rclpy = pytest.importorskip("rclpy")
    from std_msgs.msg import String

    from vla_ros.nodes.common.qos import LATCHED_QOS

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(ros_environment["ROS_DOMAIN_ID"]))
    node = rclpy.create_node("policy", context=context)
    publisher = node.create_publisher(String, "~/state", LATCHED_QOS)
    publisher.publish(String(data=json.dumps(STATE)))
    command = [sys.executable, "-m", "vla_ros.cli", "monitor", "--once"]
    try:
        done = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60, check=False)
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert done.returncode == 0, done.stderr
    assert "STOPPING" in done.stdout and "open the drawer" in done.stdout
