# SPDX-License-Identifier: Apache-2.0
"""Run a policy and its guard on a robot.

ros2 launch vla_ros policy.launch.py checkpoint:=/path/to/checkpoint robot:=/path/to/robot.yaml

With a params_file, empty arguments keep what it says. Without one, the shipped policy runs on the topics of the
simulated robot. The arm stays still until the service guard/arm is called, unless arm_on_start:=true. With
use_respawn:=true that call is always required, so that a restarted node never moves the arm by itself.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction

from vla_ros import bringup
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """Start policy and guard; cameras, arm and commands come from the robot."""
    return LaunchDescription(
        [
            launching.argument("checkpoint", "", "Checkpoint folder (model.safetensors, ...); empty: the shipped one"),
            launching.argument("robot", "", "Robot file: a path, or a name in config/robots; empty: tabletop"),
            launching.argument("any_robot", "", "Accept a checkpoint of another robot: true or false; empty: false"),
            launching.argument("device", "", "Compute device: auto, cpu, cuda, cuda:1, ...; empty: auto"),
            launching.argument(
                "precision", "", "Precision of the backbone; empty: auto", ["", "auto", "fp32", "bf16", "fp16"]
            ),
            launching.argument(
                "compile", "", "Acceleration of inference; empty: auto", ["", "auto", "none", "compile", "cuda_graph"]
            ),
            launching.argument("params_file", "", "Parameter file (YAML), e.g. config/policy.yaml"),
            launching.argument("autostart", "", "Configure and activate on start: true or false; empty: true"),
            launching.argument("arm_on_start", "", "Move on the first command: true or false; empty: false"),
            launching.argument("dry_run", "", "Publish only on guard/preview: true or false; empty: false"),
            *launching.shared_arguments(),
            OpaqueFunction(function=_policy),
        ]
    )


def _policy(context: LaunchContext) -> list:
    texts, flags = ("robot", "device", "precision", "compile"), ("any_robot", "autostart", "arm_on_start", "dry_run")
    given = launching.given(context, texts, flags)
    if launching.truth(context, "use_respawn"):
        if given.get("arm_on_start"):
            raise RuntimeError(
                "use_respawn and arm_on_start must not both be true: after a crash, the node would move the arm by "
                "itself; omit one of them, and arm it with the service guard/arm"
            )
        given["arm_on_start"] = False  # whatever params_file says
    checkpoint, params_file = launching.value(context, "checkpoint"), launching.value(context, "params_file")
    return launching.nodes(context, bringup.policy(checkpoint, params_file, **given))
