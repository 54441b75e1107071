# SPDX-License-Identifier: Apache-2.0
"""Launch actions for the processes of `vla_ros.bringup` and the arguments of `vla_ros.launch_arguments`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.action import Action
from launch.actions import DeclareLaunchArgument, LogInfo, Shutdown
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from vla_ros import launch_arguments
from vla_ros.bringup import PACKAGE, Process
from vla_ros.errors import UserError
from vla_ros.nodes.guard import parameters as guard
from vla_ros.nodes.policy import parameters as policy

_GUARD, _POLICY = ({each.name for each in specs} for specs in (guard.PARAMETERS, policy.PARAMETERS))
_PARAMETERS = {"guard": _GUARD, "policy": _GUARD | _POLICY, "bag": _GUARD | _POLICY}


def declared(name: str) -> list[DeclareLaunchArgument]:
    """Declare the arguments of a launch file, as `ros2 launch ... --show-args` lists them."""
    return [
        DeclareLaunchArgument(each.name, default_value=each.default, description=each.description, choices=each.choices)
        for each in launch_arguments.ARGUMENTS[name]
    ]


def values(context: LaunchContext, name: str) -> dict[str, str]:
    """Return the values of a launch file's arguments; UserError if one is misspelt."""
    given = [argument.partition(":=")[0] for argument in context.argv]
    launch_arguments.refuse_misspelt(name, given, _PARAMETERS.get(name, ()))
    texts = {each.name: value(context, each.name) for each in launch_arguments.ARGUMENTS[name]}
    return texts | {"use_sim_time": str(simulated_time(context)).lower()}


def value(context: LaunchContext, name: str) -> str:
    """Return the value of an argument."""
    return str(LaunchConfiguration(name).perform(context))


def truth(context: LaunchContext, name: str) -> bool:
    """Return the value of a flag; UserError if it is neither true nor false."""
    return launch_arguments.truth({name: value(context, name)}, name)


def simulated_time(context: LaunchContext) -> bool:
    """Return whether nodes use simulated time: by our argument, or SetParameter in a launch file that includes ours."""
    every_node = context.launch_configurations.get("global_params", [])
    settings = [entry[1] for entry in every_node if isinstance(entry, tuple) and entry[0] == "use_sim_time"]
    return truth(context, "use_sim_time") or (bool(settings) and str(settings[-1]).lower() == "true")


def namespace(context: LaunchContext) -> str:
    """Return the full namespace, including what a launch file that includes ours has pushed (PushRosNamespace)."""
    own = value(context, "namespace")
    pushed = context.launch_configurations.get("ros_namespace", "")
    return own if own.startswith("/") else "/".join(part for part in (pushed.rstrip("/"), own) if part)


def remaps(context: LaunchContext) -> list[tuple[str, str]]:
    """Return the remapping rules of a launch file that includes ours (SetRemap); launch gives them to nodes only."""
    return list(context.launch_configurations.get("ros_remaps", []))


def needed(name: str, *, respawn: bool = False) -> Callable[[ProcessExited, LaunchContext], list[Action] | None]:
    """Return what to do once a process has ended without which the others are of no use: end the launch, say why.

    Args:
        respawn: launch restarts it after a crash.
    """

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action] | None:
        if context.is_shutdown or (respawn and event.returncode):
            return None
        if event.returncode:  # launch logs it as an error, and its exit status is 1
            raise UserError(f"{name} ended with exit status {event.returncode}; its message is above")
        reason = f"{name} has ended"
        return [LogInfo(msg=f"{reason}: stopping the others"), Shutdown(reason=reason)]

    return on_exit


def with_the_launch(command: Sequence[str]) -> list[str]:
    """Return a command that gets Ctrl-C's signal if the launch is killed; our own nodes watch it themselves (Linux)."""
    return [*(["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []), *command]


def nodes(context: LaunchContext, processes: Sequence[Process]) -> list[Node]:
    """Return launch actions for `processes`, with the shared arguments applied.

    The launch ends with the first of them that ends, but for a crash after which it is restarted.
    """
    use_sim_time = {"use_sim_time": True} if truth(context, "use_sim_time") else {}
    respawn = truth(context, "use_respawn")
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
                *("--enclave", process.enclave(namespace(context))),
            ],
            respawn=respawn,
            respawn_delay=2.0,
            on_exit=needed(process.name, respawn=respawn),
            output="screen",
        )
        for process in processes
    ]


def _typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep strings as strings: launch_ros parses them as YAML, where `no` is false and `7` a number."""
    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
