# SPDX-License-Identifier: Apache-2.0
"""`--namespace` and `--ros-args`, which mean the same in every command that starts nodes or talks to them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence

from vla_ros.bringup import Process

_NAMESPACE = "__ns:="


def add_ros_arguments(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Declare both; `condition` says when they apply."""
    parser.add_argument("--namespace", default="", metavar="NAME", help=f"ROS namespace of the nodes{condition}")
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="ARG",
        help=f"last: arguments for rclpy, such as -r language_command:=say{condition}",
    )


def find_namespace(namespace: str, ros_arguments: Sequence[str]) -> str:
    """Return the namespace of the nodes without slashes around it; `-r __ns:=NAME` is another way to give it."""
    given = [text.removeprefix(_NAMESPACE) for text in ros_arguments if text.startswith(_NAMESPACE)]
    return (given[0] if given else namespace).strip("/")  # as in rcl, the first rule counts


def place(processes: Iterable[Process], namespace: str, ros_arguments: Sequence[str]) -> list[Process]:
    """Return the processes in a namespace and with these ROS arguments."""
    return [
        dataclasses.replace(process, namespace=namespace, ros_arguments_added=tuple(ros_arguments))
        for process in processes
    ]


def warn_of_old(option: str, instead: str) -> None:
    """Say what to use instead of an option that still works."""
    print(f"vla: {option} is deprecated; use {instead}", file=sys.stderr)
