# SPDX-License-Identifier: Apache-2.0
"""Guard a robot, for a planner that is started elsewhere: on another machine, or your own.

ros2 launch vla_ros guard.launch.py robot:=/path/to/robot.yaml

With a params_file, empty arguments keep what it says. The arm stays still until the service guard/arm is called;
docs/planner.md says what the guard expects from a planner.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction

from vla_ros import launch_arguments
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """Start the guard node; the arm and the planner come from elsewhere."""
    return LaunchDescription([*launching.declared("guard"), OpaqueFunction(function=_guard)])


def _guard(context: LaunchContext) -> list:
    return launching.nodes(context, launch_arguments.guard(launching.values(context, "guard")))
