# SPDX-License-Identifier: Apache-2.0
"""What to run: nodes with their names, parameters and environment.

launch/*.launch.py turns this into launch actions; without ROS's launch, `vla demo` and `vla record-demo` start the same
processes with the same parameters.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from vla_ros import resources, topics, transport
from vla_ros.errors import UserError
from vla_ros.robot import Robot

PACKAGE = "vla_ros"
# Executables (`ros2 run vla_ros NAME`) and their modules, as setup.py installs them.
NODES = {
    "policy_node": "vla_ros.nodes.policy.node",
    "simulator_node": "vla_ros.nodes.simulator.node",
    "recorder_node": "vla_ros.nodes.recorder.node",
    "demonstrator_node": "vla_ros.nodes.simulator.demonstrator",
}
DEMONSTRATION_HZ = 10.0
CHECKPOINT = "config/checkpoints/tabletop"
STATIC_TRANSFORMS_DEPTH = 100  # more publishers than a robot has


@dataclasses.dataclass(frozen=True)
class Process:
    """One node: an executable of this package (`ros2 run vla_ros EXECUTABLE`), its name and its parameters.

    `parameters` override those in `params_file`. `ends`: it ends by itself (the demonstrator).
    """

    executable: str
    name: str
    parameters: dict[str, Any]
    environment: dict[str, str] = dataclasses.field(default_factory=transport.environment)
    params_file: str = ""
    ends: bool = False

    def enclave(self, namespace: str) -> str:
        """Return its SROS 2 enclave, as named in config/sros2/policies.xml, one per namespace."""
        return _full_name("vla_ros", f"{namespace.strip('/')}/{self.name}".lstrip("/"))

    def ros_arguments(self) -> list[str]:
        """Return the arguments of the executable. JSON is YAML, so every value keeps its type."""
        arguments = ["--ros-args", "-r", f"__node:={self.name}"]
        if self.params_file:
            arguments += ["--params-file", self.params_file]
        for name, value in self.parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        return arguments


def simulator(**parameters: Any) -> Process:
    """Return the simulated robot."""
    return Process("simulator_node", "simulator", parameters)


def policy(checkpoint: str = "", params_file: str = "", **parameters: Any) -> Process:
    """Return the policy. Without `params_file`, the default is the shipped checkpoint on the simulated robot.

    Torch's operators get one thread, unless OMP_NUM_THREADS is set: threads of a small network cost more by waiting for
    each other on busy cores than they save.

    Raises:
        UserError: the shipped checkpoint would run on a robot that it was not trained for.
    """
    robot = parameters.get("robot", "tabletop")
    if not checkpoint and not params_file and robot != "tabletop":
        raise UserError(
            f"the shipped checkpoint is for robot 'tabletop', not {robot!r}; set checkpoint:=FOLDER, or a params_file "
            "that sets it"
        )
    given = {"checkpoint": checkpoint, **parameters} if checkpoint else parameters
    if not params_file:
        defaults = {"robot": "tabletop", "autostart": True}
        given = {"checkpoint": checkpoint or str(resources.path(CHECKPOINT)), **defaults, **given}
    environment = {**transport.environment(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return Process("policy_node", "policy", given, environment, params_file)


def recorder(output: str, **parameters: Any) -> Process:
    """Return the recorder of demonstrations; `output` is the folder of the bag."""
    return Process("recorder_node", "recorder", {"output": output, "robot": "tabletop", **parameters})


def demonstrator(**parameters: Any) -> Process:
    """Return the scripted teleoperator."""
    return Process("demonstrator_node", "demonstrator", parameters, ends=True)


def demo(checkpoint: str = "", **simulator_parameters: Any) -> list[Process]:
    """Return the simulated robot with a policy armed from the start; `vla say` or `vla demo` commands it."""
    return [simulator(**simulator_parameters), policy(checkpoint, arm_on_start=True)]


def recorded_topics(robot: Robot) -> list[str]:
    """Return the topics of a bag for training, as relative names, each once."""
    streams = (
        *robot.cameras.values(), robot.ee_pose, robot.gripper_state, robot.language, robot.twist_command,
        robot.demonstrated_twist, robot.gripper_command,
    )  # fmt: skip
    names = [stream.topic for stream in streams if stream is not None]
    names += [robot.ee_pose.static_topic] if robot.ee_pose is not None and robot.ee_pose.static_topic else []
    return list(dict.fromkeys([*names, topics.TASK_SUCCESS, topics.EPISODE, topics.INTERVENTION]))


def bag_record_command(
    robot: Robot, output: str, namespace: str, qos_file: str, *, use_sim_time: bool, topics_option: bool
) -> list[str]:
    """Return the `ros2 bag record` command for `recorded_topics`; `qos_file` holds `bag_record_qos`.

    topics_option: rosbag2 has the option --topics; older versions (Humble, Iron) take topics as arguments.
    """
    command = ["ros2", "bag", "record", "--storage", "mcap", "--output", output]
    command += ["--qos-profile-overrides-path", qos_file, *(["--use-sim-time"] if use_sim_time else [])]
    names = [_full_name(namespace, topic) for topic in recorded_topics(robot)]
    return [*command, *(["--topics"] if topics_option else []), *names]


def bag_record_qos(robot: Robot, namespace: str) -> dict[str, dict[str, Any]]:
    """Return rosbag2's QoS overrides: unless it requests latched topics as such, a late recorder misses them."""
    latched = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "transient_local"}
    names = (robot.language.topic, topics.EPISODE, topics.TASK_SUCCESS, topics.INTERVENTION)
    overrides = {_full_name(namespace, topic): latched for topic in names}
    if robot.ee_pose is not None and robot.ee_pose.static_topic is not None:
        # Each of its publishers latches one message.
        overrides[_full_name(namespace, robot.ee_pose.static_topic)] = {**latched, "depth": STATIC_TRANSFORMS_DEPTH}
    return overrides


def _full_name(namespace: str, topic: str) -> str:
    if topic.startswith("/"):  # absolute, such as /tf
        return topic
    return "/" + "/".join(part for part in (namespace.strip("/"), topic) if part)


def recording_simulator(speed: float) -> Process:
    """Return the simulated robot on a simulated clock, `speed` times real time if the machine keeps up."""
    return simulator(publish_clock=True, real_time_factor=float(speed), lockstep_hz=DEMONSTRATION_HZ, publish_raw=False)


def recording(output: str, tasks: list[str], episodes: int, *, first_seed: int, perturbation: float) -> list[Process]:
    """Return the recorder and the demonstrator for a `recording_simulator`."""
    teacher = demonstrator(
        tasks=tasks,
        episodes=episodes,
        first_seed=first_seed,
        perturbation=float(perturbation),
        control_hz=DEMONSTRATION_HZ,
        use_sim_time=True,
    )
    return [recorder(output, use_sim_time=True, lockstep_hz=DEMONSTRATION_HZ), teacher]
