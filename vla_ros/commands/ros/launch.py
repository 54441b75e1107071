# SPDX-License-Identifier: Apache-2.0
"""Run a policy, a guard, a recorder or the demo, as their launch files do, without ROS's launch.

vla launch policy checkpoint:=checkpoints/my_policy robot:=my_arm
vla launch record robot:=my_arm output:=bags/monday
vla launch guard robot:=my_arm
vla launch demo rollouts:=0
vla launch policy --show-args                      all arguments with their defaults

Takes the arguments of launch/NAME.launch.py. Everything prints to the terminal. Ctrl-C and SIGTERM stop the arm and end
all processes; one that ends takes the others with it. Our recorder writes the bag: for `ros2 bag record`, use
`ros2 launch`.

Exit status: 0 after Ctrl-C, SIGTERM or a finished demo, 1 if the demo failed, 2 if a process ended by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import time
from collections.abc import Sequence

from vla_ros import launch_arguments
from vla_ros.bringup import Process
from vla_ros.commands.ros.process_group import ProcessError, ProcessGroup
from vla_ros.commands.ros.ros_arguments import add_ros_arguments, find_namespace, place
from vla_ros.errors import UserError

LAUNCHED = tuple(name for name in launch_arguments.ARGUMENTS if name != "bag")  # which needs `ros2 bag play`
POLL_S = 0.1
RESPAWN_DELAY_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=LAUNCHED, help="what to run")
    parser.add_argument("assignments", nargs="*", metavar="NAME:=VALUE", help="arguments, as for the launch file")
    parser.add_argument("--show-args", action="store_true", help="list the arguments and exit")
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.show_args:
        print(arguments_text(args.name))
        return 0
    values = launch_arguments.parse(args.name, args.assignments)
    namespace = find_namespace(values["namespace"] or args.namespace, args.ros_args)
    processes = place(_processes(args.name, values), namespace, [*args.ros_args, "--log-level", values["log_level"]])
    if launch_arguments.truth(values, "use_sim_time"):
        for process in processes:
            process.parameters["use_sim_time"] = True
    command = launch_arguments.demo_command(values, namespace, args.ros_args) if args.name == "demo" else []
    respawn = launch_arguments.truth(values, "use_respawn")
    with contextlib.suppress(KeyboardInterrupt), ProcessGroup() as group:
        group.start(*processes)
        return _supervise(group, command, {process.name: process for process in processes} if respawn else {})
    return 0


def arguments_text(name: str) -> str:
    """Return the arguments of a launch file as `ros2 launch --show-args` lists them."""
    lines = []
    for each in launch_arguments.ARGUMENTS[name]:
        choices = f" ({', '.join(filter(None, each.choices))})" if each.choices else ""
        lines += [f"  {each.name}:", f"      {each.description}{choices} (default: {each.default!r})"]
    return "\n".join(lines)


def _processes(name: str, values: launch_arguments.Values) -> list[Process]:
    if name == "record":
        if values["writer"] == "rosbag2":
            raise UserError(
                "writer must be auto or vla_ros here; for rosbag2, use ros2 launch vla_ros record.launch.py"
            )
        return launch_arguments.recorder(values, write=True)
    makers = {"policy": launch_arguments.policy, "guard": launch_arguments.guard, "demo": launch_arguments.demo}
    return makers[name](values)


def _supervise(group: ProcessGroup, command: Sequence[str], respawned: dict[str, Process]) -> int:
    """Wait until `command` has ended, if there is one, or a process has; return the exit status.

    Args:
        respawned: by name, those to start again after a crash.

    Raises:
        ProcessError: a process has ended by itself.
    """
    evaluation = subprocess.Popen(command, start_new_session=True) if command else None
    try:
        while evaluation is None or evaluation.poll() is None:
            for name, status in group.exited():
                if not (status and name in respawned):
                    raise ProcessError(f"{name} exited with status {status}, see above; stopped the others")
                group.stop(name)
                time.sleep(RESPAWN_DELAY_S)
                group.start(respawned[name])
            time.sleep(POLL_S)
        return int(evaluation.returncode != 0)
    finally:
        if evaluation is not None and evaluation.poll() is None:
            evaluation.terminate()
            evaluation.wait()
