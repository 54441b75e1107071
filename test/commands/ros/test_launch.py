# SPDX-License-Identifier: Apache-2.0
"""`vla launch` takes the arguments of the launch files, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from vla_ros import launch_arguments
from vla_ros.cli import main
from vla_ros.commands.ros.launch import LAUNCHED
from vla_ros.errors import UserError

COMMAND = [sys.executable, "-m", "vla_ros.cli", "launch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policy", "rubot:=x"], "policy has no argument 'rubot'; did you mean 'robot'?"),
        (["policy", "robot=x"], "arguments must be NAME:=VALUE; got 'robot=x'"),
        (["policy", "precision:=fp8"], "precision must be one of auto, fp32, bf16, fp16; got 'fp8'"),
        (["policy", "dry_run:=yes"], "dry_run must be true or false; got 'yes'"),
        (["policy", "use_respawn:=1", "arm_on_start:=True"], "use_respawn and arm_on_start must not both be true"),
        (["policy", "robot:=franka_servo"], "the shipped checkpoint is for robot 'tabletop', not 'franka_servo'"),
        (["guard", "checkpoint:=x"], "guard has no argument 'checkpoint'"),
        (["record"], "output is required"),
        (["record", "output:=bag", "writer:=rosbag2"], "for rosbag2, use ros2 launch"),
        (["demo", "seed:=one"], "seed must be a whole number of at least 0; got 'one'"),
        (["demo", "use_sim_time:=true"], "use_sim_time must be false"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    assert main(["launch", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", LAUNCHED)
def test_all_arguments_are_shown_with_their_defaults(name, capsys):
    assert main(["launch", name, "--show-args"]) == 0
    shown = capsys.readouterr().out
    for each in launch_arguments.ARGUMENTS[name]:
        assert f"  {each.name}:\n      {each.description}" in shown and f"(default: {each.default!r})" in shown


def test_policy_arguments_reach_the_node_that_has_them():
    values = launch_arguments.parse("policy", ["any_robot:=True", "device:=cpu", "dry_run:=1", "robot:=mine"])
    guard, policy = launch_arguments.policy(values)
    assert policy.parameters["any_robot"] is True and policy.parameters["device"] == "cpu"
    assert guard.parameters["dry_run"] is True and guard.parameters["robot"] == policy.parameters["robot"] == "mine"
    with pytest.raises(UserError, match="the shipped checkpoint"):
        launch_arguments.policy(launch_arguments.parse("policy", ["robot:=mine"]))


@pytest.mark.ros
def test_a_process_that_dies_ends_the_rest_with_its_reason(ros_environment, tmp_path):
    command = [*COMMAND, "policy", f"checkpoint:={tmp_path / 'nowhere'}"]
    done = subprocess.run(command, env=ros_environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no such folder" in done.stderr and "policy exited with status 1, see above" in done.stderr


@pytest.mark.ros
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_in_order(ros_environment, number):
    command = [*COMMAND, "guard", "namespace:=left"]
    with subprocess.Popen(command, env=ros_environment, stderr=subprocess.PIPE, text=True) as launched:
        line = next(line for line in launched.stderr if "[left.guard]" in line)
        children = psutil.Process(launched.pid).children(recursive=True)
        assert children, line
        launched.send_signal(number)
        rest = launched.stderr.read()
        assert launched.wait(30) == 0, rest
    assert psutil.wait_procs(children, timeout=5.0)[1] == [] and "Traceback" not in rest
