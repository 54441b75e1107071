# SPDX-License-Identifier: Apache-2.0
"""Run the policy on the simulated arm and print its success rates.

ros2 launch vla_ros demo.launch.py                   each task twice, then exits
ros2 launch vla_ros demo.launch.py rollouts:=0       simulator and policy only; command it with `vla say`
"""

import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction

from vla_ros import bringup
from vla_ros.nodes.common import launching


def generate_launch_description() -> LaunchDescription:
    """Start the simulator, policy and guard, and `vla demo --attach` to command them."""
    return LaunchDescription(
        [
            launching.argument("rollouts", "2", "Rollouts per task; 0: none, keep running"),
            launching.argument("tasks", "all", "Task names separated by spaces, or all"),
            launching.argument("checkpoint", "", "Checkpoint folder; empty: the shipped one"),
            launching.argument("task", "pick_up_red", "Task of the first scene"),
            launching.argument("seed", "0", "Seed of the first scene"),
            launching.argument("output", "runs/demo", "Folder for results.json, the video and the contact sheet"),
            launching.flag("view", False, "Show both cameras in a window"),
            *launching.shared_arguments(),
            OpaqueFunction(function=_demo),
        ]
    )


def _demo(context: LaunchContext) -> list:
    if launching.simulated_time(context):
        raise RuntimeError(
            "use_sim_time must be false: nothing here publishes /clock, the simulated arm runs in real time; to use "
            "simulated time, start simulator_node with publish_clock:=true and policy.launch.py with use_sim_time:=true"
        )
    checkpoint = launching.value(context, "checkpoint")
    scene = {"task": launching.value(context, "task"), "seed": launching.whole_number(context, "seed")}
    rollouts = launching.whole_number(context, "rollouts")
    actions = launching.nodes(context, bringup.demo(checkpoint, **scene), all_needed=True)
    if rollouts:
        command = [sys.executable, "-m", "vla_ros.cli", "demo", "--attach", "--rollouts", str(rollouts)]
        command += ["--tasks", *launching.value(context, "tasks").split()]
        command += ["--output", launching.value(context, "output")]
        command += ["--namespace", launching.namespace(context)]
        command += ["--view"] if launching.truth(context, "view") else []
        rules = [part for source, target in launching.remaps(context) for part in ("-r", f"{source}:={target}")]
        command += ["--ros-args", *rules] if rules else []
        actions.append(ExecuteProcess(cmd=command, output="screen", on_exit=launching.needed("vla demo")))
    return actions
