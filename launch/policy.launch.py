# SPDX-License-Identifier: Apache-2.0
"""Run a policy on a robot.

ros2 launch vla_ros policy.launch.py checkpoint:=/path/to/checkpoint robot:=/path/to/robot.yaml

An argument that is left empty keeps the value of params_file; without that file, the shipped policy runs on the
simulated robot's topics. The arm stays still until the service policy/arm, unless arm_on_start:=true; with
use_respawn:=true it always does, so that a node that has crashed does not move the arm again by itself.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction

from vla_ros import bringup
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """The policy node alone: cameras, arm and commands come from the robot."""
    return LaunchDescription(
        [
            launching.argument("checkpoint", "", "Folder of the checkpoint (model.safetensors, contract.json, ...)"),
            launching.argument("robot", "", "Robot file: a path, or a name in config/robots"),
            launching.argument("device", "", "Where the policy computes: auto, cpu, cuda, cuda:1, ..."),
            launching.argument("precision", "", "Of the backbone", ["", "auto", "fp32", "bf16", "fp16"]),
            launching.argument("compile", "", "How steps are launched", ["", "auto", "none", "compile", "cuda_graph"]),
            launching.argument("params_file", "", "Parameters (YAML), for instance config/policy.yaml"),
            launching.argument("autostart", "", "Configure and activate at once", ["", "true", "false"]),
            launching.argument("arm_on_start", "", "Move as soon as there is a command", ["", "true", "false"]),
            launching.argument("dry_run", "", "Publish on policy/preview only; nothing moves", ["", "true", "false"]),
            *launching.shared_arguments(),
            OpaqueFunction(function=_policy),
        ]
    )


def _policy(context: LaunchContext) -> list:
    given = {}
    for name in ("robot", "device", "precision", "compile"):
        if text := launching.value(context, name):
            given[name] = text
    for name in ("autostart", "arm_on_start", "dry_run"):
        if launching.value(context, name):
            given[name] = launching.truth(context, name)
    if launching.truth(context, "use_respawn"):
        if given.get("arm_on_start"):
            raise RuntimeError(
                "use_respawn and arm_on_start are both true: a node that has crashed would move the arm again by "
                "itself; leave one of them out, and arm it with the service policy/arm"
            )
        given["arm_on_start"] = False  # whatever params_file says
    checkpoint, params_file = launching.value(context, "checkpoint"), launching.value(context, "params_file")
    return launching.nodes(context, [bringup.policy(checkpoint, params_file, **given)])
