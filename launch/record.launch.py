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

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction
from launch.logging import launch_config

from vla_ros import bringup, launch_arguments
from vla_ros.nodes.common import launching
from vla_ros.robot import load_robot


def generate_launch_description() -> LaunchDescription:
    """Start the recorder, and `ros2 bag record` if it is installed."""
    return LaunchDescription([*launching.declared("record"), OpaqueFunction(function=_record)])


def _record(context: LaunchContext) -> list:
    values, rosbag2_help = launching.values(context, "record"), _rosbag2_help()
    output, robot_file, writer = (values[name] for name in ("output", "robot", "writer"))
    rosbag2 = writer == "rosbag2" or (writer == "auto" and "mcap" in rosbag2_help)
    actions = launching.nodes(context, launch_arguments.recorder(values, write=not rosbag2))
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
    names = bringup.Names(["recorder"], launching.namespace(context), launching.remaps(context))
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
    return ExecuteProcess(
        cmd=launching.with_the_launch(command), output="screen", on_exit=launching.needed("ros2 bag record")
    )
