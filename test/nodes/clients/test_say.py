# SPDX-License-Identifier: Apache-2.0
"""`vla say` stays until everybody has heard it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")


LISTENER = """
import sys, time, rclpy
from std_msgs.msg import String
from vla_ros.nodes.common.qos import LATCHED_QOS
rclpy.init()
node = rclpy.create_node(sys.argv[1])
heard = []
node.create_subscription(String, "language_command", heard.append, LATCHED_QOS)
print("there", flush=True)
deadline = time.monotonic() + 20
while not heard and time.monotonic() < deadline:
    rclpy.spin_once(node, timeout_sec=0.1)
print(heard[0].data if heard else "nothing", flush=True)
time.sleep(2)  # until `vla say` has counted
node.destroy_node()
rclpy.shutdown()
"""


def vla_say(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vla_ros.cli", "say", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_all_subscribers_receive_it_and_are_counted_by_node(ros_environment):
    listeners = [
        subprocess.Popen([sys.executable, "-c", LISTENER, name], env=ros_environment, stdout=subprocess.PIPE, text=True)
        for name in ("recorder", "policy")
    ]
    try:
        assert [listener.stdout.readline() for listener in listeners] == ["there\n"] * 2
        said = vla_say("open the drawer", environment=ros_environment)
        assert said.returncode == 0, said.stderr
        assert "to 2 subscribers" in said.stdout
        assert [listener.stdout.readline() for listener in listeners] == ["open the drawer\n"] * 2
    finally:
        for listener in listeners:
            listener.kill()
            listener.communicate()


def test_no_subscribers_is_an_error(ros_environment):
    said = vla_say("open the drawer", "--patience", "0.5", environment=ros_environment)
    assert said.returncode == 2 and "no subscribers on /language_command" in said.stderr


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (["--namespace", "left"], ""),
        (["--ros-args", "-r", "language_command:=left/language_command"], ""),
        (["--ros-args", "-r", "__ns:=/left"], ""),
        (["--topic", "left/language_command"], "--topic is deprecated; use --namespace NAME, or --ros-args -r"),
    ],
)
def test_a_policy_in_a_namespace_or_under_another_name_is_reached(ros_environment, options, warning):
    listener = subprocess.Popen(
        [sys.executable, "-c", LISTENER, "policy", "--ros-args", "-r", "__ns:=/left"],
        env=ros_environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert listener.stdout.readline() == "there\n"
        said = vla_say("open the drawer", *options, environment=ros_environment)
        assert said.returncode == 0, said.stderr
        assert (warning in said.stderr) if warning else not said.stderr
        assert listener.stdout.readline() == "open the drawer\n"
    finally:
        listener.kill()
        listener.communicate()


def test_arguments_that_ros_does_not_know_are_one_line(ros_environment):
    said = vla_say("go", "--ros-args", "-r", "no rule", environment=ros_environment)
    assert said.returncode == 2 and "vla: error: ROS did not start" in said.stderr
    assert "Traceback" not in said.stderr
