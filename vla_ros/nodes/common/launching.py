# SPDX-License-Identifier: Apache-2.0
"""Launch actions for the processes of `vla_ros.bringup`, and arguments shared by all launch files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from vla_ros.bringup import PACKAGE, Process

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


def argument(name: str, default: str, description: str, choices: Sequence[str] | None = None) -> DeclareLaunchArgument:
    """Declare an argument, as `ros2 launch ... --show-args` lists it."""
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def flag(name: str, default: bool, description: str) -> DeclareLaunchArgument:
    """Declare a boolean argument."""
    return argument(name, str(default).lower(), description, ["true", "false"])


def shared_arguments() -> list[DeclareLaunchArgument]:
    """Return the deployment arguments of every launch file."""
    return [
        argument("namespace", "", "Namespace of all nodes and topics"),
        flag("use_sim_time", False, "Use simulated time from /clock"),
        argument("log_level", "info", "Minimum severity of logged messages", LOG_LEVELS),
        flag("use_respawn", False, "Restart a node that ends unexpectedly"),
    ]


def value(context: LaunchContext, name: str) -> str:
    """Return the value of an argument."""
    return str(LaunchConfiguration(name).perform(context))


def truth(context: LaunchContext, name: str) -> bool:
    """Return the value of a flag."""
    return value(context, name) == "true"


def nodes(context: LaunchContext, processes: Sequence[Process]) -> list[Node]:
    """Return launch actions for `processes`, with the shared arguments applied."""
    use_sim_time = {"use_sim_time": True} if truth(context, "use_sim_time") else {}
    return [
        Node(
            package=PACKAGE,
            executable=process.executable,
            name=process.name,
            namespace=value(context, "namespace"),
            # The file first: the command line overrides it.
            parameters=[
                *([process.params_file] if process.params_file else []),
                {**_typed(process.parameters), **use_sim_time},
            ],
            additional_env=process.environment,
            # Without ROS_SECURITY_ENABLE, the enclave has no effect.
            ros_arguments=[
                *("--log-level", value(context, "log_level")),
                *("--enclave", process.enclave(_namespace(context))),
            ],
            respawn=truth(context, "use_respawn") and not process.ends,
            respawn_delay=2.0,
            output="screen",
        )
        for process in processes
    ]


def _namespace(context: LaunchContext) -> str:
    """Return the full namespace, including what a launch file that includes ours has pushed (PushRosNamespace)."""
    given = value(context, "namespace")
    pushed = context.launch_configurations.get("ros_namespace", "")
    return given if given.startswith("/") else "/".join(part for part in (pushed.rstrip("/"), given) if part)


def _typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep strings as strings: launch_ros parses them as YAML, where `no` is false and `7` a number."""
    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
