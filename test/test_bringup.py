# SPDX-License-Identifier: Apache-2.0
"""The one description of what runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from recordings import demonstration  # noqa: F401

from vla_ros import bringup, resources, transport
from vla_ros.errors import UserError
from vla_ros.robot import load_robot

LAUNCH_FILES = sorted((Path(__file__).parents[1] / "launch").glob("*.launch.py"))
NODES = ("guard", "policy")
ARM = bringup.Names(["recorder"], "arm")
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="ROS's launch and launch_ros are not installed (they are not on PyPI)",
)


def test_parameters_arrive_with_their_types():
    parameters = {"text": "no", "number": 4, "factor": 4.0, "flag": True, "names": ["a", "b: c"], "empty": ""}
    arguments = bringup.Process("some_node", "some", parameters).ros_arguments()
    given = [after for before, after in itertools.pairwise(arguments) if before == "-p"]
    parsed = {name: yaml.safe_load(value) for name, value in (text.split(":=", 1) for text in given)}
    assert parsed == parameters
    assert {name: type(value) for name, value in parsed.items()} == {k: type(v) for k, v in parameters.items()}


def test_every_process_gets_the_transport_settings():
    processes = [
        *bringup.demo("checkpoint"),
        *bringup.recording("bag", ["open_drawer"], 1, first_seed=0, perturbation=0.5),
        bringup.recording_simulator(4.0),
    ]
    for process in processes:
        assert process.environment.items() >= transport.environment().items()


def test_a_parameter_file_is_overridden_only_by_what_is_given(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**/policy: {ros__parameters: {robot: mine}}")
    guard, policy = bringup.policy(params_file=str(file), device="cpu", speed_scale=0.5)
    assert policy.parameters == {"device": "cpu", "stop_with_parent": True}
    assert guard.parameters == {"speed_scale": 0.5, "stop_with_parent": True}
    for process in (guard, policy):
        arguments = process.ros_arguments()
        assert arguments.index("--params-file") < arguments.index("-p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("policy_node: {ros__parameters: {dry_run: true}}", r"addresses 'policy_node', which is not started here"),
        ("dry_run: true", "is not a ROS parameter file"),
        ("[1, 2", "cannot be read"),
        ("/**: {ros__parameters: {}}\n/**/gaurd: {ros__parameters: {}}", "addresses '/\\*\\*/gaurd', which is not"),
        ("camera: {ros__parameters: {}}", "addresses 'camera', which is not started here; use /\\*\\*/guard or"),
    ],
)
def test_a_parameter_file_that_would_not_be_read_is_an_error(tmp_path: Path, text: str | None, message: str):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        bringup.policy(params_file=str(file))
    with pytest.raises(UserError, match=message):
        bringup.guard(str(file))


def test_a_parameter_file_may_be_shared_with_other_nodes(tmp_path: Path):
    file = tmp_path / "all.yaml"
    file.write_text("camera: {ros__parameters: {fps: 30}}\n/**/guard: {ros__parameters: {dry_run: true}}")
    assert [process.params_file for process in bringup.policy(params_file=str(file))] == [str(file)] * 2


def test_the_guard_alone_has_the_same_defaults_as_beside_the_policy_and_none_with_a_parameter_file(tmp_path: Path):
    defaults = {"robot": "tabletop", "autostart": True, "stop_with_parent": True}
    assert bringup.guard().parameters == bringup.policy()[0].parameters == defaults
    file = tmp_path / "mine.yaml"
    file.write_text("/**/guard: {ros__parameters: {robot: mine, autostart: false}}")
    assert bringup.guard(str(file)).parameters == {"stop_with_parent": True}


@pytest.mark.parametrize(
    ("rule", "full"),
    [
        (("ee_pose", "/cell/pose"), "/cell/pose"),
        (("ee_pose", "pose"), "/arm/pose"),
        (("/arm/ee_pose", "pose"), "/arm/pose"),
        (("recorder:ee_pose", "pose"), "/arm/pose"),
        (("guard:ee_pose", "pose"), "/arm/ee_pose"),
        (("rostopic://ee_pose", "pose"), "/arm/pose"),
        (("/ee_pose", "pose"), "/arm/ee_pose"),
    ],
)
def test_topics_are_recorded_under_the_names_that_remapping_rules_give_them(rule, full):
    names = bringup.Names(["recorder"], "/arm", [rule, ("ee_pose", "later")] if full != "/arm/ee_pose" else [rule])
    assert names.full("ee_pose") == full
    command = bringup.bag_record_command(
        load_robot("tabletop"), "one", names, "qos.yaml", use_sim_time=False, topics_option=True
    )
    assert full in command


def test_ros2_bag_record_gets_every_topic_that_training_needs_once_with_its_namespace():
    robot = load_robot("tabletop")
    command = bringup.bag_record_command(robot, "bags/one", ARM, "qos.yaml", use_sim_time=True, topics_option=True)
    topics = command[command.index("--topics") + 1 :]
    assert len(topics) == len(set(topics))
    assert set(topics) >= {
        "/arm/camera/static/image_raw/compressed", "/arm/camera/wrist/image_raw/compressed", "/arm/language_command",
        "/arm/ee_pose", "/arm/joint_states", "/arm/twist_command", "/arm/demonstrated_twist", "/arm/gripper_command",
        "/arm/episode", "/arm/task/success",
    }  # fmt: skip
    assert "--use-sim-time" in command and command[command.index("--storage") + 1] == "mcap"
    latched = bringup.bag_record_qos(robot, ARM)
    assert latched["/arm/language_command"]["durability"] == "transient_local"
    assert set(latched) <= set(topics)
    older = bringup.bag_record_command(robot, "bags/one", ARM, "qos.yaml", use_sim_time=True, topics_option=False)
    assert older == [part for part in command if part != "--topics"]


def test_transforms_are_recorded_with_what_is_latched_and_are_in_no_namespace():
    robot = load_robot("ur_servo")
    command = bringup.bag_record_command(robot, "bags/one", ARM, "qos.yaml", use_sim_time=False, topics_option=True)
    assert {"/tf", "/tf_static", "/arm/joint_states"} <= set(command) and "/arm/tf" not in command
    overrides = bringup.bag_record_qos(robot, ARM)
    assert overrides["/tf_static"]["durability"] == "transient_local" and overrides["/tf_static"]["depth"] >= 100
    assert "/tf" not in overrides and not any(
        "tf" in topic for topic in bringup.recorded_topics(load_robot("tabletop"))
    )


def test_ros2_bag_play_gets_what_a_policy_sees_but_nothing_that_the_guard_or_a_person_publishes():
    robot = load_robot("ur_servo")
    wanted = bringup.played_topics(robot)
    streams = (*robot.cameras.values(), robot.ee_pose, robot.gripper_state, robot.language)
    assert {stream.topic for stream in streams} | {"/tf_static", "task/success"} <= set(wanted)
    assert {stop.topic for stop in robot.emergency_stops} <= set(wanted)
    driven = {robot.twist_command.topic, robot.demonstrated_twist.topic, robot.gripper_command.topic}
    assert not {*driven, "intervention", "takeover", "takeover_twist", "enable"} & set(wanted)


def test_ros2_bag_play_plays_the_bag_s_names_onto_those_of_the_nodes():
    found = {"ee_pose": "/lab/ee_pose", "language_command": "/left/language_command", "/tf": "/tf"}
    command = bringup.bag_play_command(
        "bags/one", found, bringup.Names(NODES, "left"), "qos.yaml", clock_hz=200.0, loop=True
    )
    assert command[:4] == ["ros2", "bag", "play", "bags/one"] and "--loop" in command
    assert command[command.index("--clock") + 1] == "200"
    played = command[command.index("--topics") + 1 : command.index("--remap")]
    assert played == ["/lab/ee_pose", "/left/language_command", "/tf"]
    assert command[command.index("--remap") + 1 :] == ["/lab/ee_pose:=/left/ee_pose"]
    remapped = bringup.Names(NODES, "left", [("recorder:ee_pose", "/another"), ("guard:ee_pose", "/arm/pose")])
    command = bringup.bag_play_command("bags/one", {"ee_pose": "/ee_pose"}, remapped, "q", clock_hz=200.0, loop=True)
    assert command[-2:] == ["--remap", "/ee_pose:=/arm/pose"]
    plain = bringup.bag_play_command(
        "bags/one", {"/tf": "/tf"}, bringup.Names(NODES), "qos.yaml", clock_hz=None, loop=False
    )
    assert not {"--clock", "--loop", "--remap"} & set(plain)


def test_whatever_a_bag_recorded_is_played_reliably_and_what_may_come_only_once_is_latched():
    robot = load_robot("ur_servo")
    found = {topic: f"/lab/{topic.lstrip('/')}" for topic in bringup.played_topics(robot)}
    overrides = bringup.bag_play_qos(robot, found)
    assert set(overrides) == set(found.values())
    assert {qos["reliability"] for qos in overrides.values()} == {"reliable"}
    latched = {name for name, qos in overrides.items() if qos["durability"] == "transient_local"}
    stops = {f"/lab/{stop.topic.lstrip('/')}" for stop in robot.emergency_stops}
    assert latched == {"/lab/language_command", "/lab/tf_static", "/lab/task/success"} | stops


def test_the_shipped_checkpoint_is_for_no_other_robot():
    with pytest.raises(UserError, match=r"for robot 'tabletop', not 'mine\.yaml'.*checkpoint:=FOLDER"):
        bringup.policy(robot="mine.yaml")
    _, policy = bringup.policy(robot="mine.yaml", any_robot=True)
    assert policy.parameters["any_robot"] and policy.parameters["checkpoint"].endswith("tabletop")
    for process in bringup.policy("somewhere", robot="mine.yaml"):
        assert process.parameters["robot"] == "mine.yaml"


def test_each_process_has_an_enclave_and_in_a_namespace_one_of_its_own():
    process = bringup.Process("policy_node", "policy", {})
    assert [process.enclave(namespace) for namespace in ("", "/", "left", "/left/")] == [
        "/vla_ros/policy", "/vla_ros/policy", "/vla_ros/left/policy", "/vla_ros/left/policy",
    ]  # fmt: skip


def test_a_process_is_started_in_the_enclave_that_the_shipped_policies_define():
    policies = ElementTree.parse(resources.path("config/sros2/policies.xml"))
    defined = {enclave.get("path") for enclave in policies.iter("enclave")}
    for process in (*bringup.demo("checkpoint"), bringup.recorder("bag")):
        arguments = process.ros_arguments()
        assert arguments[arguments.index("--enclave") + 1] in defined
    arguments = dataclasses.replace(bringup.guard(), namespace="/left/").ros_arguments()
    assert arguments[arguments.index("--enclave") + 1] == "/vla_ros/left/guard"


@needs_launch
@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_describes_its_arguments(path):
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    arguments = get_launch_description_from_python_launch_file(str(path)).get_launch_arguments()
    assert {argument.name for argument in arguments} >= {"namespace", "use_sim_time", "log_level", "use_respawn"}
    assert all(argument.description and argument.default_value is not None for argument in arguments)


@needs_launch
def test_the_launch_file_starts_the_same_nodes_as_vla_demo():
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, OpaqueFunction
    from launch.launch_description_sources import get_launch_description_from_python_launch_file
    from launch_ros.actions import Node

    path = next(path for path in LAUNCH_FILES if path.name.startswith("demo"))
    context = LaunchContext()
    context.launch_configurations.update(checkpoint="somewhere", rollouts="0")
    nodes = []
    for entity in get_launch_description_from_python_launch_file(str(path)).entities:
        if isinstance(entity, DeclareLaunchArgument | OpaqueFunction):
            nodes += [made for made in entity.execute(context) or [] if isinstance(made, Node)]
    executables = [node.node_executable for node in nodes]
    assert executables == [process.executable for process in bringup.demo("somewhere")]


@needs_launch
@pytest.mark.parametrize(
    ("given", "armed"),
    [
        ({}, None),
        ({"arm_on_start": "true"}, True),
        ({"use_respawn": "true"}, False),
        ({"use_respawn": "true", "arm_on_start": "false"}, False),
        ({"use_respawn": "true", "checkpoint": "somewhere"}, False),
        ({"arm_on_start": "True"}, True),
        ({"arm_on_start": "0"}, False),
    ],
)
def test_a_node_that_is_respawned_waits_to_be_armed(given, armed, monkeypatch):
    assert _policy_process(given, monkeypatch).parameters.get("arm_on_start") is armed


@needs_launch
def test_a_respawn_that_would_move_by_itself_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"use_respawn and arm_on_start must not both be true.*omit one of them"):
        _policy_process({"use_respawn": "true", "arm_on_start": "true"}, monkeypatch)


@needs_launch
def test_a_user_s_bringup_includes_two_policies_in_namespaces_of_its_own_and_keeps_its_arguments(monkeypatch):
    from launch import LaunchDescription, LaunchService
    from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
    from launch_ros.actions import PushRosNamespace

    from vla_ros.nodes.common import launching

    started, kept = {}, []

    def note(context, processes):
        for node in make_nodes(context, processes):
            node._perform_substitutions(context)
            texts = [getattr(part, "text", "") for argument in node.cmd for part in argument]
            enclave = texts[texts.index("--enclave") + 1]
            started[node.expanded_node_namespace] = (processes[-1].parameters["checkpoint"], enclave)
        return []

    make_nodes = launching.nodes
    monkeypatch.setattr(launching, "nodes", note)
    path = next(path for path in LAUNCH_FILES if path.name.startswith("policy"))
    arms = [
        GroupAction([
            PushRosNamespace(arm),
            IncludeLaunchDescription(str(path), launch_arguments={"checkpoint": f"of_{arm}"}.items()),
        ])
        for arm in ("left", "right")
    ]  # fmt: skip
    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        LaunchDescription([
            DeclareLaunchArgument("checkpoint", default_value="the user's"),
            *arms,
            OpaqueFunction(function=lambda context: kept.append(launching.value(context, "checkpoint"))),
        ])
    )  # fmt: skip
    assert service.run() == 0
    assert started == {"/left": ("of_left", "/vla_ros/left/policy"), "/right": ("of_right", "/vla_ros/right/policy")}
    assert kept == ["the user's"]


@needs_launch
def test_a_bag_is_played_into_a_dry_run_once_the_nodes_are_active(demonstration, tmp_path, monkeypatch):  # noqa: F811
    from launch import LaunchContext
    from launch.actions import ExecuteProcess
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    from vla_ros.nodes.common import launching

    processes = []
    monkeypatch.setattr(launching, "nodes", lambda context, wanted, **_: processes.extend(wanted) or [])
    context = LaunchContext()
    context.launch_configurations.update(bag=str(demonstration.write(tmp_path / "bag")), namespace="left")
    path = next(path for path in LAUNCH_FILES if path.name.startswith("bag"))
    actions = []
    for entity in get_launch_description_from_python_launch_file(str(path)).entities:
        actions += entity.execute(context) or []
    guard, policy = processes
    assert guard.parameters["dry_run"] and guard.parameters["arm_on_start"] and policy.parameters["autostart"]
    assert context.launch_configurations["use_sim_time"] == "true"
    (waiting,) = [action for action in actions if isinstance(action, ExecuteProcess)]  # nothing is played yet
    words = ["".join(part.text for part in word) for word in waiting.cmd]
    assert words[-2:] == ["/left/guard", "/left/policy"]


def _policy_process(given, monkeypatch) -> bringup.Process:
    """What policy.launch.py starts with these arguments."""
    from launch import LaunchContext
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    from vla_ros.nodes.common import launching

    processes = []
    monkeypatch.setattr(launching, "nodes", lambda context, wanted: processes.extend(wanted) or [])
    context = LaunchContext()
    context.launch_configurations.update(given)
    path = next(path for path in LAUNCH_FILES if path.name.startswith("policy"))
    for entity in get_launch_description_from_python_launch_file(str(path)).entities:
        entity.execute(context)
    return processes[0]
