# SPDX-License-Identifier: Apache-2.0
"""One way to name a namespace, and to remap, in every command."""

from __future__ import annotations

import argparse

import pytest

from vla_ros import bringup
from vla_ros.cli import COMMANDS, main
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace, place

NODES = ("demo", "record-demo", "replay-onto-robot", "evaluate", "say", "monitor")


@pytest.mark.parametrize("command", NODES)
def test_every_command_that_meets_nodes_takes_namespace_and_ros_arguments(command, capsys):
    assert command in COMMANDS
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--namespace NAME" in shown and "--ros-args" in shown


def test_what_follows_ros_args_is_for_rclpy():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    add_ros_arguments(parser)
    given = parser.parse_args(["go", "--namespace", "left", "--ros-args", "-r", "plan:=other", "--log-level", "debug"])
    assert (given.text, given.namespace) == ("go", "left")
    assert given.ros_args == ["-r", "plan:=other", "--log-level", "debug"]
    assert parser.parse_args(["go"]).ros_args == []


@pytest.mark.parametrize(
    ("namespace", "ros_arguments", "found"),
    [
        ("", [], ""),
        ("/left/", [], "left"),
        ("", ["-r", "__ns:=/left"], "left"),
        ("right", ["-r", "__ns:=/left", "-r", "__ns:=/other"], "left"),
        ("right", ["-r", "plan:=__ns"], "right"),
    ],
)
def test_the_namespace_is_that_of_rclpy(namespace, ros_arguments, found):
    assert find_namespace(namespace, ros_arguments) == found


def test_started_processes_get_both():
    arguments = place([bringup.simulator()], "left", ["-r", "ee_pose:=pose"])[0].ros_arguments()
    assert "__ns:=/left" in arguments and arguments[-2:] == ["-r", "ee_pose:=pose"]
