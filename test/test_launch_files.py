# SPDX-License-Identifier: Apache-2.0
"""The launch files under ROS's own launch, included by a user's and run in a process as `ros2 launch` does."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from graphs import domain, make_graph  # noqa: F401

from vla_ros.bringup import NODES
from vla_ros.errors import UserError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="ROS's launch and launch_ros are not installed (they are not on PyPI)",
)
FOLDER = Path(__file__).parents[1] / "launch"
ENDS_S = 60.0
# What `ros2 launch FILE NAME:=VALUE ...` does.
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
service = LaunchService()
arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(sys.argv[1], launch_arguments=arguments)])
)
sys.exit(service.run())
"""


def actions_of(name: str, given: dict[str, str], argv: Sequence[str] = (), **configurations: Any) -> list:
    """What a launch file makes of arguments, in what the files that include it have configured.

    `argv`: what was typed, for the outermost of them.
    """
    from launch import LaunchContext
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    context = LaunchContext(argv=argv)
    context.launch_configurations.update(given, **configurations)
    description = get_launch_description_from_python_launch_file(str(FOLDER / f"{name}.launch.py"))
    return [made for entity in description.entities for made in entity.execute(context) or []]


def command_of(action: Any) -> list[str]:
    return ["".join(part.text for part in argument) for argument in action.cmd]


def executable(path: Path, python: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys\n{textwrap.dedent(python)}")
    path.chmod(0o755)


@pytest.fixture
def install(tmp_path, monkeypatch) -> Path:
    """An installed package, as launch finds it, with our nodes; tests replace some."""
    prefix = tmp_path / "install"
    marker = prefix / "share/ament_index/resource_index/packages/vla_ros"
    marker.parent.mkdir(parents=True)
    marker.touch()
    for name, module in NODES.items():
        executable(prefix / "lib/vla_ros" / name, f"from {module} import main\nsys.exit(main())")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    return prefix / "lib/vla_ros"


@pytest.fixture
def rosbag2(tmp_path, monkeypatch) -> None:
    """A `ros2 bag record` that is there."""
    executable(tmp_path / "bin/ros2", "print('--topics --storage mcap') if '--help' in sys.argv else input()")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def launched(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(FOLDER / f"{name}.launch.py"), *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a launch that ends by itself, and return what it has said."""
    try:
        return process.communicate(timeout=ENDS_S)[0]
    except subprocess.TimeoutExpired:
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            each.kill()
        raise


def test_a_pushed_namespace_and_remaps_reach_ros2_bag_record(rosbag2, tmp_path):
    pushed = {"ros_namespace": "/cell", "ros_remaps": [("ee_pose", "/arm/pose"), ("language_command", "says")]}
    made = actions_of("record", {"output": str(tmp_path / "bag"), "namespace": "left"}, **pushed)
    command = command_of(made[-1])
    assert {"/arm/pose", "/cell/left/says", "/cell/left/joint_states", "/cell/left/episode"} <= set(command)
    assert not {"/cell/left/ee_pose", "/left/episode", "/episode"} & set(command)
    overrides = yaml.safe_load(Path(command[command.index("--qos-profile-overrides-path") + 1]).read_text())
    assert overrides["/cell/left/says"]["durability"] == "transient_local"


def test_what_rosbag2_reads_lies_among_the_logs_and_not_in_tmp(rosbag2, tmp_path):
    from launch.logging import launch_config

    command = command_of(actions_of("record", {"output": str(tmp_path / "bag")})[-1])
    file = Path(command[command.index("--qos-profile-overrides-path") + 1])
    assert file.parent == Path(launch_config.log_dir)


def test_simulated_time_that_is_set_for_all_nodes_reaches_ros2_bag_record(rosbag2, tmp_path):
    for simulated, expected in ((True, True), (False, False)):
        made = actions_of("record", {"output": str(tmp_path / "bag")}, global_params=[("use_sim_time", simulated)])
        assert ("--use-sim-time" in command_of(made[-1])) == expected


def test_a_pushed_namespace_and_remaps_reach_vla_demo():
    pushed = {"ros_namespace": "/cell", "ros_remaps": [("ee_pose", "/arm/pose")]}
    command = command_of(actions_of("demo", {"namespace": "left"}, **pushed)[-1])
    assert command[command.index("--namespace") + 1] == "/cell/left"
    assert command[-3:] == ["--ros-args", "-r", "ee_pose:=/arm/pose"]
    assert "--ros-args" not in command_of(actions_of("demo", {})[-1])


@pytest.mark.parametrize(
    ("name", "argument", "text", "message"),
    [
        ("demo", "rollouts", "two", "rollouts must be a whole number of at least 0; got 'two'"),
        ("demo", "seed", "-1", "seed must be a whole number of at least 0; got '-1'"),
        ("demo", "view", "maybe", "view must be true or false; got 'maybe'"),
        ("policy", "autostart", "yes", "autostart must be true or false; got 'yes'"),
        ("guard", "dry_run", "on", "dry_run must be true or false; got 'on'"),
        ("record", "use_sim_time", "wall", "use_sim_time must be true or false; got 'wall'"),
        ("guard", "params_file", "none.yaml", "params_file none.yaml does not exist"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_what_is_allowed(name, argument, text, message, tmp_path):
    given = {argument: text, **({"output": str(tmp_path / "bag"), "writer": "vla_ros"} if name == "record" else {})}
    with pytest.raises(UserError, match=message):
        actions_of(name, given)


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("guard", "dryrun:=true", r"guard.launch.py has no argument 'dryrun'; did you mean 'dry_run'\?"),
        ("guard", "dry-run:=true", "did you mean 'dry_run'"),
        ("policy", "require_enable:=true", "'require_enable': it is a parameter, set it in a params_file"),
        ("policy", "robots:=my_arm.yaml", "did you mean 'robot'"),
        ("record", "outputs:=bags/one", "did you mean 'output'"),
    ],
)
def test_a_misspelt_argument_is_not_dropped_in_silence(name, typed, message):
    with pytest.raises(UserError, match=message):
        actions_of(name, {}, argv=[typed])


def test_arguments_of_a_launch_file_that_includes_ours_pass():
    assert actions_of("guard", {}, argv=["use_lidar:=true", "world:=lab", "dry_run:=true"])


@pytest.mark.parametrize(("text", "truth"), [("True", True), ("1", True), ("TRUE", True), ("False", False)])
def test_truth_is_taken_as_ros_users_type_it(text, truth, install):
    from launch_ros.actions import Node

    made = [each for each in actions_of("guard", {"use_respawn": text}) if isinstance(each, Node)]
    assert [node._ExecuteLocal__respawn for node in made] == [truth]


@pytest.mark.parametrize(
    ("name", "dies"),
    [("policy", "policy"), ("policy", "guard"), ("guard", "guard"), ("demo", "simulator"), ("record", "recorder")],
)
def test_a_node_that_dies_ends_the_launch_with_the_reason(name, dies, install, tmp_path):
    for node in NODES:
        executable(install / node, "import signal; signal.pause()")
    executable(install / f"{dies}_node", "sys.exit(3)")
    arguments = {"demo": ["rollouts:=0"], "record": [f"output:={tmp_path / 'bag'}", "writer:=vla_ros"]}
    process = launched(name, *arguments.get(name, ()))
    output = finished(process)
    assert f"{dies} ended with exit status 3; its message is above" in output
    assert process.returncode == 1


def test_a_crashed_node_is_restarted_and_one_that_ended_cleanly_is_not(install, tmp_path):
    starts = tmp_path / "starts"
    counting = f"""
        with open({str(starts)!r}, "a") as file:
            file.write("x")
        sys.exit(1 if len(open({str(starts)!r}).read()) == 1 else 0)
    """
    executable(install / "guard_node", counting)
    output = finished(launched("guard", "use_respawn:=true"))
    assert starts.read_text() == "xx", output


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_ros2_bag_record_completes_its_bag_when_the_launch_is_killed(install, tmp_path, monkeypatch):
    for node in NODES:
        executable(install / node, "import signal; signal.pause()")
    began, completed = tmp_path / "began", tmp_path / "completed"
    records = f"""
        import pathlib, signal
        if "--help" in sys.argv:
            sys.exit(print("--topics --storage mcap"))
        try:
            pathlib.Path({str(began)!r}).touch()
            signal.pause()
        except KeyboardInterrupt:
            pathlib.Path({str(completed)!r}).touch()
    """
    executable(tmp_path / "bin/ros2", records)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    process = launched("record", f"output:={tmp_path / 'bag'}", "writer:=rosbag2")
    started: list[psutil.Process] = []
    try:
        wait_for(began)
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        wait_for(completed)
    finally:
        for each in (process, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def wait_for(file: Path) -> None:
    deadline_s = time.monotonic() + ENDS_S
    while not file.exists():
        assert time.monotonic() < deadline_s, file.name
        time.sleep(0.02)


@pytest.mark.ros
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["demo", "policy"])
def test_however_launch_ends_the_last_twist_is_zero_and_no_process_is_left(name, number, install, make_graph):  # noqa: F811
    from diagnostic_msgs.msg import DiagnosticStatus
    from geometry_msgs.msg import TwistStamped
    from std_msgs.msg import String

    from vla_ros import bringup
    from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS

    graph = make_graph()
    twists = graph.listen(TwistStamped, "twist_command", COMMAND_QOS)
    states = {name: graph.listen(DiagnosticStatus, f"{name}/state", LATCHED_QOS) for name in ("policy", "guard")}
    in_domain = {"ROS_DOMAIN_ID": str(graph._domain_id)}
    if name == "policy":
        graph.start(bringup.simulator())
        process = launched("policy", "arm_on_start:=true", **in_domain)
    else:
        process = launched("demo", "rollouts:=0", **in_domain)
    started: list[psutil.Process] = []
    try:
        for node, state in (("policy", "active"), ("guard", "waiting")):
            graph.wait(functools.partial(_is, states[node], state), f"a {node} that is {state}", 120.0)
        graph.node.create_publisher(String, "language_command", LATCHED_QOS).publish(String(data="open the drawer"))
        graph.wait(lambda: any(_moves(twist) for twist in twists), "an arm that moves")
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.wait(ENDS_S)
        _, alive = psutil.wait_procs(started, timeout=10.0)
        assert alive == []
        # The zeros come in a burst, of which a reader may keep the last one only.
        graph.wait(lambda: not _moves(twists[-1]), "a zero twist", 5.0)
    finally:
        for each in (process, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def _is(states: list, wanted: str) -> bool:
    return bool(states) and any((each.key, each.value) == ("state", wanted) for each in states[-1].values)


def _moves(message: Any) -> bool:
    twist = message.twist
    return any((twist.linear.x, twist.linear.y, twist.linear.z, twist.angular.x, twist.angular.y, twist.angular.z))
