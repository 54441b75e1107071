# SPDX-License-Identifier: Apache-2.0
"""Guard a robot, for a planner that is started elsewhere: on another machine, or your own.

ros2 launch vla_ros guard.launch.py robot:=/path/to/robot.yaml

With a params_file, empty arguments keep what it says. The arm stays still until the service guard/arm is called;
docs/planner.md says what the guard expects from a planner.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction

from vla_ros import bringup
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """Start the guard node; the arm and the planner come from elsewhere."""
    return LaunchDescription(
        [
            launching.argument("robot", "", "Robot file: a path, or a name in config/robots; empty: tabletop"),
            launching.argument("params_file", "", "Parameter file (YAML), e.g. config/policy.yaml"),
            launching.argument("autostart", "", "Configure and activate on start: true or false; empty: true"),
            launching.argument("dry_run", "", "Publish only on guard/preview: true or false; empty: false"),
            *launching.shared_arguments(),
            OpaqueFunction(function=_guard),
        ]
    )


def _guard(context: LaunchContext) -> list:
    given = launching.given(context, ["robot"], ["autostart", "dry_run"])
    return launching.nodes(context, [bringup.guard(launching.value(context, "params_file"), **given)])
