# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations of a robot for training.

ros2 launch vla_ros record.launch.py robot:=/path/to/robot.yaml output:=bags/monday
ros2 service call /recorder/start std_srvs/srv/Trigger       then /recorder/success, /failure or /discard

If rosbag2 is installed, `ros2 bag record` writes the bag (MCAP), and our recorder marks the start and end of episodes
and refuses to start one while a camera is silent. Otherwise our recorder writes the same bag itself.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction
from launch.logging import launch_config

from vla_ros import bringup
from vla_ros.nodes.common import launching
from vla_ros.robot import load_robot


def generate_launch_description() -> LaunchDescription:
    """Start the recorder, and `ros2 bag record` if it is installed."""
    return LaunchDescription(
        [
            launching.argument("output", "", "Folder of the bag (required; must not exist)"),
            launching.argument("robot", "tabletop", "Robot file: a path, or a name in config/robots"),
            launching.argument("task", "", "Task name to write into the episode markers"),
            launching.argument("writer", "auto", "Who writes the bag", ["auto", "rosbag2", "vla_ros"]),
            *launching.shared_arguments(),
            OpaqueFunction(function=_record),
        ]
    )


def _record(context: LaunchContext) -> list:
    output, robot_file = launching.value(context, "output"), launching.value(context, "robot")
    if not output:
        raise RuntimeError("output is required: the folder of the bag, e.g. output:=bags/NAME")
    if Path(output).exists():
        raise RuntimeError(f"output {output} already exists; choose another folder, or move it away")
    writer, rosbag2_help = launching.value(context, "writer"), _rosbag2_help()
    rosbag2 = writer == "rosbag2" or (writer == "auto" and "mcap" in rosbag2_help)
    parameters = {"robot": robot_file, "task": launching.value(context, "task"), "write": not rosbag2}
    actions = launching.nodes(context, [bringup.recorder(output, **parameters)], all_needed=True)
    if rosbag2:
        actions.append(_bag_record(context, robot_file, output, topics_option="--topics" in rosbag2_help))
    return actions


def _rosbag2_help() -> str:
    """Return the help of `ros2 bag record`, which shows whether it can write MCAP; empty if it is not installed."""
    if shutil.which("ros2") is None:
        return ""
    listing = subprocess.run(["ros2", "bag", "record", "--help"], capture_output=True, text=True, check=False)
    return listing.stdout if listing.returncode == 0 else ""


def _bag_record(context: LaunchContext, robot_file: str, output: str, *, topics_option: bool) -> ExecuteProcess:
    robot = load_robot(robot_file)
    names = bringup.Names(launching.namespace(context), launching.remaps(context))
    # Among the logs of this launch: rosbag2 reads it at some time after its start.
    with tempfile.NamedTemporaryFile(
        "w", prefix="bag_record_qos_", suffix=".yaml", dir=launch_config.log_dir, delete=False
    ) as qos:
        yaml.safe_dump(bringup.bag_record_qos(robot, names), qos)
    use_sim_time = launching.simulated_time(context)
    command = bringup.bag_record_command(
        robot, output, names, qos.name, use_sim_time=use_sim_time, topics_option=topics_option
    )
    # Without it, the recorder would go on to mark episodes that are not recorded.
    return ExecuteProcess(cmd=command, output="screen", on_exit=launching.needed("ros2 bag record"))
