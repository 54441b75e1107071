# SPDX-License-Identifier: Apache-2.0
"""What to run: nodes with their names, parameters and environment.

launch/*.launch.py turns this into launch actions; without ROS's launch, `vla demo` and `vla record-demo` start the same
processes with the same parameters.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vla_ros import resources, topics, transport
from vla_ros.errors import UserError
from vla_ros.robot import Robot

PACKAGE = "vla_ros"
# Executables (`ros2 run vla_ros NAME`) and their modules, as setup.py installs them.
NODES = {
    "policy_node": "vla_ros.nodes.policy.node",
    "guard_node": "vla_ros.nodes.guard.node",
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
    namespace: str = ""
    ros_arguments_added: tuple[str, ...] = ()

    def enclave(self, namespace: str) -> str:
        """Return its SROS 2 enclave, as named in config/sros2/policies.xml, one per namespace."""
        return _full_name("vla_ros", f"{namespace.strip('/')}/{self.name}".lstrip("/"))

    def ros_arguments(self) -> list[str]:
        """Return the arguments of the executable. JSON is YAML, so every value keeps its type."""
        arguments = ["--ros-args", "-r", f"__node:={self.name}"]
        if self.namespace.strip("/"):
            arguments += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        arguments += ["--enclave", self.enclave(self.namespace)]  # without ROS_SECURITY_ENABLE, it has no effect
        if self.params_file:
            arguments += ["--params-file", self.params_file]
        for name, value in self.parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        return [*arguments, *self.ros_arguments_added]


def simulator(**parameters: Any) -> Process:
    """Return the simulated robot."""
    return Process("simulator_node", "simulator", {**parameters, "stop_with_parent": True})


# Launch arguments and `vla` options reach the node that has the parameter.
POLICY_PARAMETERS = frozenset(
    {"any_robot", "device", "precision", "compile", "cpu_threads", "stop_words", "on_new_command"}
)


def policy(checkpoint: str = "", params_file: str = "", **parameters: Any) -> list[Process]:
    """Return the policy and its guard. Without a `params_file`, the shipped checkpoint runs on the simulated robot.

    One thread for torch's operators: with a small network, threads that wait for each other on busy cores cost far more
    than they save; OMP_NUM_THREADS overrides it.

    Raises:
        UserError: the shipped checkpoint would run on another robot than its own, or the file would not be read.
    """
    robot = parameters.get("robot", "tabletop")
    own_robot = robot in ("tabletop", "tabletop.yaml") or parameters.get("any_robot")
    if not checkpoint and not params_file and not own_robot:
        raise UserError(
            f"the shipped checkpoint is for robot 'tabletop', not {robot!r}; set checkpoint:=FOLDER, or a params_file "
            "that sets it, or any_robot:=true"
        )
    shared = {name: value for name, value in parameters.items() if name in ("robot", "autostart", "use_sim_time")}
    own = {name: value for name, value in parameters.items() if name in POLICY_PARAMETERS}
    guards = {name: value for name, value in parameters.items() if name not in {*shared, *own}}
    given = {"checkpoint": checkpoint} if checkpoint else {}
    if not params_file:
        shared = {"robot": "tabletop", "autostart": True, **shared}
        given = {"checkpoint": checkpoint or str(resources.path(CHECKPOINT))}
    environment = {**transport.environment(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return [
        guard(params_file, **shared, **guards),
        Process(
            "policy_node", "policy", {**given, **shared, **own, "stop_with_parent": True}, environment, params_file
        ),
    ]


def guard(params_file: str = "", **parameters: Any) -> Process:
    """Return the guard, which owns the arm; any planner may drive it.

    Raises:
        UserError: the parameter file would not be read.
    """
    if params_file:
        check_params_file(params_file, ("guard", "policy"))
    else:
        parameters = {"robot": "tabletop", "autostart": True, **parameters}
    return Process("guard_node", "guard", {**parameters, "stop_with_parent": True}, params_file=params_file)


def check_params_file(path: str, nodes: Sequence[str]) -> None:
    """Make sure that a parameter file will be read; it may have sections for other nodes, too.

    Raises:
        UserError: it does not exist, is not a ROS parameter file, addresses none of `nodes`, or has a section whose
            name looks like theirs misspelt, or is that of their executable.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"params_file {path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"params_file {path} cannot be read: {error}") from None
    sections = data if isinstance(data, dict) else {}
    if not sections or not all(isinstance(each, dict) and "ros__parameters" in each for each in sections.values()):
        raise UserError(f"params_file {path} is not a ROS parameter file: NODE: then ros__parameters: then NAME: VALUE")
    addressed = {str(section): str(section).rpartition("/")[2] for section in sections}
    others = [section for section, name in addressed.items() if name not in ("**", "*", *nodes)]
    alike = [each for each in others if difflib.get_close_matches(addressed[each], [*nodes, *NODES], cutoff=0.8)]
    if alike or len(others) == len(addressed):
        raise UserError(
            f"params_file {path} addresses {(alike or others)[0]!r}, which is not started here; use "
            f"{' or '.join(f'/**/{node}' for node in nodes)}"
        )


def recorder(output: str, **parameters: Any) -> Process:
    """Return the recorder of demonstrations; `output` is the folder of the bag."""
    return Process(
        "recorder_node", "recorder", {"output": output, "robot": "tabletop", **parameters, "stop_with_parent": True}
    )


def demonstrator(**parameters: Any) -> Process:
    """Return the scripted teleoperator."""
    return Process("demonstrator_node", "demonstrator", parameters, ends=True)


def demo(checkpoint: str = "", *, any_robot: bool = False, **simulator_parameters: Any) -> list[Process]:
    """The simulated robot with a policy that is armed from the start: commands come by `vla say` or `vla demo`."""
    return [simulator(**simulator_parameters), *policy(checkpoint, arm_on_start=True, any_robot=any_robot)]


@dataclasses.dataclass(frozen=True)
class Names:
    """Topic names as ROS resolves them for some of our `nodes`: in a namespace, after remapping rules `(from, to)`."""

    nodes: Sequence[str]
    namespace: str = ""
    remaps: Sequence[tuple[str, str]] = ()

    def full(self, topic: str) -> str:
        """Return the full name of a topic; the first rule that matches wins."""
        name = _full_name(self.namespace, topic)
        for rule, target in self.remaps:
            node, _, source = rule.removeprefix("rostopic://").rpartition(":")
            if node in ("", *self.nodes) and _full_name(self.namespace, source) == name:
                return _full_name(self.namespace, target)
        return name


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
    robot: Robot, output: str, names: Names, qos_file: str, *, use_sim_time: bool, topics_option: bool
) -> list[str]:
    """Return the `ros2 bag record` command for `recorded_topics`; `qos_file` holds `bag_record_qos`.

    topics_option: rosbag2 has the option --topics; older versions (Humble, Iron) take topics as arguments.
    """
    command = ["ros2", "bag", "record", "--storage", "mcap", "--output", output]
    command += ["--qos-profile-overrides-path", qos_file, *(["--use-sim-time"] if use_sim_time else [])]
    recorded = dict.fromkeys(names.full(topic) for topic in recorded_topics(robot))
    return [*command, *(["--topics"] if topics_option else []), *recorded]


def bag_record_qos(robot: Robot, names: Names) -> dict[str, dict[str, Any]]:
    """Return rosbag2's QoS overrides: unless it requests latched topics as such, a late recorder misses them."""
    latched = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "transient_local"}
    late = (robot.language.topic, topics.EPISODE, topics.TASK_SUCCESS, topics.INTERVENTION)
    overrides = {names.full(topic): latched for topic in late}
    if robot.ee_pose is not None and robot.ee_pose.static_topic is not None:
        # Each of its publishers latches one message.
        overrides[names.full(robot.ee_pose.static_topic)] = {**latched, "depth": STATIC_TRANSFORMS_DEPTH}
    return overrides


def played_topics(robot: Robot) -> list[str]:
    """Return the topics of a bag from which a policy can run, as relative names: what was measured, said and pressed.

    None that the guard publishes, such as the arm's commands, and none with which a person drives.
    """
    inputs = (*robot.cameras.values(), robot.ee_pose, robot.gripper_state, robot.language)
    names = [stream.topic for stream in inputs if stream is not None]
    return list(dict.fromkeys([*names, *_latched_inputs(robot)]))


def bag_play_command(
    bag: str, found: Mapping[str, str], names: Names, qos_file: str, *, clock_hz: float | None, loop: bool
) -> list[str]:
    """Return the `ros2 bag play` command for the topics in `found`: relative name -> name in the bag.

    Args:
        bag: folder or file.
        found: those of `played_topics` that the bag has.
        names: those under which the nodes receive them.
        qos_file: holds `bag_play_qos`.
        clock_hz: publish the bag's time on /clock, so often; None: do not.
        loop: begin anew at the end.
    """
    command = ["ros2", "bag", "play", bag, "--disable-keyboard-controls", "--qos-profile-overrides-path", qos_file]
    command += [*(["--clock", f"{clock_hz:g}"] if clock_hz else []), *(["--loop"] if loop else [])]
    command += ["--topics", *found.values()]
    received = {recorded: names.full(topic) for topic, recorded in found.items()}
    remaps = [f"{recorded}:={name}" for recorded, name in received.items() if recorded != name]
    return [*command, *(["--remap", *remaps] if remaps else [])]


def bag_play_qos(robot: Robot, found: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return rosbag2's QoS overrides, by the names in the bag, whatever QoS the topics had when they were recorded.

    Reliable, for nodes that ask for that; and latched, unlike most bags say, where a message may come only once.
    """
    reliable = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "volatile"}
    latched = {**reliable, "depth": STATIC_TRANSFORMS_DEPTH, "durability": "transient_local"}
    late = _latched_inputs(robot)
    return {recorded: latched if topic in late else reliable for topic, recorded in found.items()}


def _latched_inputs(robot: Robot) -> list[str]:
    static = [] if robot.ee_pose is None or robot.ee_pose.static_topic is None else [robot.ee_pose.static_topic]
    return [robot.language.topic, *static, *(stop.topic for stop in robot.emergency_stops), topics.TASK_SUCCESS]


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
