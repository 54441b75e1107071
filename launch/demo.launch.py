# SPDX-License-Identifier: Apache-2.0
"""Run the policy on the simulated arm and print its success rates.

ros2 launch vla_ros demo.launch.py                   each task twice, then exits
ros2 launch vla_ros demo.launch.py rollouts:=0       simulator and policy only; command it with `vla say`
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction

from vla_ros import launch_arguments
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """Start the simulator, policy and guard, and `vla demo --attach` to command them."""
    return LaunchDescription([*launching.declared("demo"), OpaqueFunction(function=_demo)])


def _demo(context: LaunchContext) -> list:
    values = launching.values(context, "demo")
    actions = launching.nodes(context, launch_arguments.demo(values))
    rules = [part for source, target in launching.remaps(context) for part in ("-r", f"{source}:={target}")]
    if command := launch_arguments.demo_command(values, launching.namespace(context), rules):
        actions.append(ExecuteProcess(cmd=command, output="screen", on_exit=launching.needed("vla demo")))
    return actions
