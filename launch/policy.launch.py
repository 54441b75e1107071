# SPDX-License-Identifier: Apache-2.0
"""Run a policy and its guard on a robot.

ros2 launch vla_ros policy.launch.py checkpoint:=/path/to/checkpoint robot:=/path/to/robot.yaml

With a params_file, empty arguments keep what it says. Without one, the shipped policy runs on the topics of the
simulated robot. The arm stays still until the service guard/arm is called, unless arm_on_start:=true. With
use_respawn:=true that call is always required, so that a restarted node never moves the arm by itself.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction

from vla_ros import launch_arguments
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """Start policy and guard; cameras, arm and commands come from the robot."""
    return LaunchDescription([*launching.declared("policy"), OpaqueFunction(function=_policy)])


def _policy(context: LaunchContext) -> list:
    return launching.nodes(context, launch_arguments.policy(launching.values(context, "policy")))
