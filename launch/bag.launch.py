# SPDX-License-Identifier: Apache-2.0
"""Run a policy on a recording instead of a robot, with the recording's timing; nothing moves.

ros2 launch vla_ros bag.launch.py bag:=bags/monday robot:=my_arm checkpoint:=checkpoints/my_policy

`ros2 bag play` starts once policy and guard are active, with cameras, tool pose, joints and the language command of the
robot file. The guard makes a dry run: it publishes its twists on guard/preview. The launch ends with the recording.
Keep the robot out of this ROS domain, or set another ROS_DOMAIN_ID: its nodes would take the recorded state for the
arm's.
"""

import sys
import tempfile

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.logging import launch_config

from vla_ros import bringup, launch_arguments, transport
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.recording import match_topic
from vla_ros.nodes.common import launching
from vla_ros.robot import load_robot

NODES = ("guard", "policy")


def generate_launch_description() -> LaunchDescription:
    """Start policy and guard, wait until they are active, and play the bag."""
    return LaunchDescription([*launching.declared("bag"), OpaqueFunction(function=_play)])


def _play(context: LaunchContext) -> list:
    values = launching.values(context, "bag")
    nodes = launching.nodes(context, launch_arguments.dry_run(values))
    names = bringup.Names(NODES, launching.namespace(context), launching.remaps(context))
    wait = [sys.executable, "-m", "vla_ros.nodes.clients.wait_active"]
    waiting = ExecuteProcess(cmd=[*wait, *(names.full(name) for name in NODES)])
    *notes, playing = _bag_play(values, names)

    def on_active(event: ProcessExited, _: LaunchContext) -> list | None:
        return [playing] if event.returncode == 0 else None

    return [*notes, *nodes, waiting, RegisterEventHandler(OnProcessExit(target_action=waiting, on_exit=on_active))]


def _bag_play(values: launch_arguments.Values, names: bringup.Names) -> list:
    """Return a note on what the bag lacks, if anything, and the player."""
    bag, robot = values["bag"], load_robot(values["robot"])
    if not bag:
        raise RuntimeError("bag is required: the folder or file to play, e.g. bag:=bags/NAME")
    wanted = bringup.played_topics(robot)
    with open_bag(bag) as recording:
        recording.find({name: (camera.topic, camera.type) for name, camera in robot.cameras.items()})  # or an error
        matches = {topic: match_topic(topic, recording.topics) for topic in wanted}
    found = {topic: recorded for topic, recorded in matches.items() if recorded is not None}
    with tempfile.NamedTemporaryFile(
        "w", prefix="bag_play_qos_", suffix=".yaml", dir=launch_config.log_dir, delete=False
    ) as qos:
        yaml.safe_dump(bringup.bag_play_qos(robot, found), qos)
    clock, loop = (launch_arguments.truth(values, name) for name in ("use_sim_time", "loop"))
    clock_hz = 2 * robot.command_hz if clock else None  # the guard ticks on it
    command = bringup.bag_play_command(bag, found, names, qos.name, clock_hz=clock_hz, loop=loop)
    absent = [topic for topic in wanted if topic not in found]
    return [
        *([LogInfo(msg=f"not in the bag: {', '.join(absent)}")] if absent else []),
        ExecuteProcess(
            cmd=launching.with_the_launch(command),
            output="screen",
            additional_env=transport.environment(),
            on_exit=launching.needed("ros2 bag play"),
        ),
    ]
