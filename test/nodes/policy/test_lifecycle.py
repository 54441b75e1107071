# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What the policy node says about transitions and of itself, without a robot."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from fake_cv_bridge import CRASH
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from vla_ros import resources
from vla_ros.nodes.common.qos import message_class, second_publisher
from vla_ros.nodes.policy import lifecycle
from vla_ros.robot import load_robot
from vla_ros.runtime.planning.engine import EngineStatus

SHIPPED = resources.path("config/checkpoints/tabletop")


@pytest.fixture
def node():
    rclpy.init(args=[])
    node = lifecycle.PolicyNode()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@contextlib.contextmanager
def configured(checkpoint: Path = SHIPPED, **parameters):
    given = {"checkpoint": checkpoint, "robot": "tabletop", **parameters}
    rclpy.init(args=["--ros-args", *(part for name, value in given.items() for part in ("-p", f"{name}:={value}"))])
    node = lifecycle.PolicyNode()
    node.trigger_configure()
    yield node
    node.release()
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def loaded():
    """The shipped policy, configured."""
    with configured() as node:
        assert node.last_error == ""
        yield node


def wait_until(condition) -> bool:
    deadline_s = time.monotonic() + 10.0
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return condition()


def test_the_reason_of_a_failed_transition_stays_known(node, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA is out of memory")

    monkeypatch.setattr(lifecycle, "PolicySession", fail)
    node.trigger_configure()
    assert node.last_error == "RuntimeError: CUDA is out of memory"


def test_reports_look_into_no_folder(node, monkeypatch):
    looked: list[str] = []
    monkeypatch.setattr(resources, "path", looked.append)
    node._on_diagnostics()
    assert not looked


def test_a_cv_bridge_that_crashes_leaves_the_node_alive_with_a_warning(tmp_path, install_cv_bridge):
    install_cv_bridge(on_decode=CRASH)
    robot = yaml.safe_load(resources.path("config/robots/tabletop.yaml").read_text())
    robot["cameras"]["wrist"] = {"topic": "wrist/image_raw", "type": "sensor_msgs/msg/Image", "stamp": "header"}
    (tmp_path / "raw.yaml").write_text(yaml.safe_dump(robot))
    given = {"checkpoint": resources.path("config/checkpoints/tabletop"), "robot": tmp_path / "raw.yaml"}
    rclpy.init(args=["--ros-args", *(part for name, value in given.items() for part in ("-p", f"{name}:={value}"))])
    node = lifecycle.PolicyNode()
    try:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        statuses = {status.name: status for status in node.statuses(node.session, 0)}
        assert statuses["image decoder"].message.startswith("built-in: cv_bridge crashed (SIGSEGV) with NumPy")
        assert statuses["image decoder"].level == DiagnosticStatus.WARN
    finally:
        node.release()
        node.destroy_node()
        rclpy.try_shutdown()


def test_a_command_that_cannot_be_heard_is_a_reason_not_to_plan_while_it_is_there(loaded):
    session = loaded.session
    assert session.status().reason != "command_unheard"
    loaded.create_publisher(String, "language_command", QoSProfile(depth=1))
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    lossy = loaded.create_publisher(String, "language_command", best_effort)

    def reason() -> str | None:
        session._look()
        return session.status().reason

    assert wait_until(lambda: reason() == "command_unheard")
    assert session.status().detail == "language_command: QoS mismatch: the publisher policy must be RELIABLE"
    loaded.destroy_publisher(lossy)
    assert wait_until(lambda: reason() != "command_unheard")


def test_a_second_publisher_on_a_camera_is_a_reason_not_to_plan_unless_switched_off(loaded, monkeypatch):
    session = loaded.session
    camera = next(iter(session.robot.cameras.values()))
    for _ in range(2):
        loaded.create_publisher(message_class(camera.type), camera.topic, 1)

    def status() -> tuple[str | None, str]:
        session._look()
        return session.status().reason, session.status().detail

    assert wait_until(lambda: status()[0] == "second_camera_publisher")
    assert status()[1].startswith(f"2 nodes publish {camera.topic}: stop the others")
    monkeypatch.setattr(session, "robot", dataclasses.replace(session.robot, unchecked=("second_camera_publisher",)))
    assert status()[0] != "second_camera_publisher"


def test_an_exception_in_a_tick_is_raised_in_the_thread_that_can_end_the_node(loaded):
    def bug(_) -> None:
        raise RuntimeError("in a tick")

    loaded.session.streams.stale = bug
    loaded.trigger_activate()

    with pytest.raises(RuntimeError, match="in a tick"):
        wait_until(loaded._on_diagnostics)


def test_a_stale_stream_is_a_reason_while_the_model_computes(loaded):
    session = loaded.session
    session.engine = SimpleNamespace(status=lambda: EngineStatus("go", None, "", None, 0), stop=lambda: True)
    session._stale = "wrist"
    assert (session.status().reason, session.status().detail) == ("stale", "stream 'wrist' is silent")


def test_a_loaded_policy_is_excluded_from_garbage_collection_until_it_is_unloaded(loaded):
    assert gc.get_freeze_count() > 100_000
    loaded.trigger_cleanup()
    assert gc.get_freeze_count() == 0


def test_a_second_publisher_is_seen_on_a_remapped_topic():
    rclpy.init(args=["--ros-args", "-r", "ee_pose:=/left/tool"])
    node = rclpy.create_node("guard")
    try:
        for _ in range(2):
            node.create_publisher(String, "/left/tool", 1)
        robot = load_robot("tabletop")
        assert wait_until(lambda: second_publisher(node, robot, "second_pose_publisher", "ee_pose") is not None)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def test_a_checkpoint_of_another_robot_is_refused_unless_told_to_use_it_anyway(capfd):
    with configured(robot="franka_servo") as node:
        assert node.session is None
        assert re.fullmatch(
            r"checkpoint \S+/tabletop was trained on recordings of robot 'tabletop', but robot is 'franka_servo'; use "
            r"a checkpoint of that robot, or pass any_robot:=true",
            node.last_error,
        )
    with configured(robot="franka_servo", any_robot="true") as node:
        assert node.last_error == "" and node.session is not None
    assert "robot is 'franka_servo'; used anyway (any_robot:=true)" in capfd.readouterr().err


def test_a_checkpoint_that_names_no_robot_is_accepted_with_one_line(tmp_path, capfd):
    for file in SHIPPED.iterdir():
        (tmp_path / file.name).symlink_to(file)
    contract = json.loads((SHIPPED / "contract.json").read_text()) | {"version": 1}
    del contract["provenance"]["robots"]
    (tmp_path / "contract.json").unlink()
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    with configured(tmp_path, robot="franka_servo") as node:
        assert node.last_error == "" and node.session is not None
    assert capfd.readouterr().err.count("does not say which robot its recordings were of") == 1
