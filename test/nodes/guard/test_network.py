# SPDX-License-Identifier: Apache-2.0
"""The planner on another machine: a link that is cut, that delays, that loses packets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("trajectory_msgs")

from lossy_link import available, two_hosts

pytestmark = [
    pytest.mark.ros,
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="network namespaces need root and iproute2"),
]
TRIAL = Path(__file__).resolve().parents[2] / "support" / "network_trial.py"
SPOILT_S = 4.0


def trial(folder: Path, environment: dict[str, str], delay_s: float, loss: float) -> dict:
    """Return what the arm did while the link was like that."""
    environment = {**environment, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        environment.pop(name, None)  # shared memory would bypass the link
    control = folder / "link"
    with two_hosts(control) as (here, there):
        command = [*here, sys.executable, str(TRIAL), str(folder), str(control), str(delay_s), str(loss), *there]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_cut_link_stops_the_arm_and_its_return_moves_nothing(tmp_path: Path, ros_environment: dict[str, str]) -> None:
    seen = trial(tmp_path, ros_environment, 0.0, 1.0)
    assert seen["moved_s"] < 0.6 and seen["state"]["state"] == "disarmed"
    assert "policy_silent" in seen["state"]["detail"] and seen["silent_s"] > 2.0


def test_200_ms_of_delay_keep_the_arm_moving(tmp_path: Path, ros_environment: dict[str, str]) -> None:
    seen = trial(tmp_path, ros_environment, 0.2, 0.0)
    assert seen["moved_s"] > SPOILT_S - 0.2 and seen["state"]["state"] == "running", seen


def test_a_loss_of_5_percent_keeps_the_arm_moving(tmp_path: Path, ros_environment: dict[str, str]) -> None:
    seen = trial(tmp_path, ros_environment, 0.0, 0.05)
    assert seen["moved_s"] > SPOILT_S - 0.3, seen
