# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What mains of nodes share: parameters that are not theirs, and signals at any time."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

import rclpy
from rclpy.node import Node

from vla_ros.errors import UserError
from vla_ros.nodes.common import command_line, lifecycle_node, startup
from vla_ros.nodes.guard.lifecycle import GuardNode


def refuse(args: list[str]) -> None:
    """Check the parameters that `args` set for a node called arm, which has require_enable and speed."""
    rclpy.init(args=args)
    try:
        node = Node("arm")
        startup.declare(node, "require_enable", False, "")
        startup.declare(node, "speed", 1.0, "", fixed=False)
        startup.refuse_unknown_parameters(node, args)
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


@pytest.mark.parametrize(
    ("section", "names", "refused"),
    [
        ("/**", "{camera_fps: 30, nested: {depth: 4}}", ""),
        ("/**", "{camera_fps: 30, require_enabel: true}", "require_enabel"),
        ("/**/arm", "{camera_fps: 30}", "camera_fps"),
        ("arm", "{nested: {depth: 4}}", r"nested\.depth"),
        ("/**/camera", "{speeed: 3.0}", ""),
    ],
)
def test_what_is_set_for_all_nodes_may_be_meant_for_others(section, names, refused, tmp_path, capfd):
    file = tmp_path / "all.yaml"
    file.write_text(f"{section}: {{ros__parameters: {names}}}")
    args = ["arm", "--ros-args", "--params-file", str(file)]
    if refused:
        with pytest.raises(UserError, match=f"arm has no parameter {refused}; its parameters are require_enable, spe"):
            refuse(args)
    else:
        refuse(args)
        assert ("camera_fps, nested.depth" in capfd.readouterr().err) == (section == "/**")


def test_what_the_command_line_sets_is_meant_for_this_node(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text("/**: {ros__parameters: {camera_fps: 30}}")
    with pytest.raises(UserError, match="arm has no parameter camera_fps"):
        refuse(["arm", "--ros-args", "--params-file", str(file), "-p", "camera_fps:=30"])


class Interrupted(Node):
    """Gets signals when it is made, or from then on, or while it closes."""

    exit_status = 0

    def __init__(self, when: str, number: signal.Signals) -> None:
        super().__init__("interrupted")
        self.when, self.closed, self.heard = when, 0, []
        if when == "made":
            os.kill(os.getpid(), number)
        self.create_timer(0.001, lambda: os.kill(os.getpid(), number))

    def close(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # the second Ctrl-C
        assert self.context.ok()  # it can still say something
        self.closed += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_in_order_and_another_one_does_not_interrupt_that(number, capfd):
    nodes = []

    def make() -> Interrupted:
        nodes.append(Interrupted("later", number))
        return nodes[0]

    assert startup.run(make, ["node"], os.getppid()) == 0
    assert nodes[0].closed == 1 and not rclpy.ok()
    assert "Traceback" not in capfd.readouterr().err


def test_a_signal_while_a_node_is_made_ends_it_without_a_traceback(capfd):
    assert startup.run(lambda: Interrupted("made", signal.SIGINT), ["node"], os.getppid()) == 0
    assert not rclpy.ok() and "Traceback" not in capfd.readouterr().err


class Quiet(Node):
    exit_status = 0

    def __init__(self) -> None:
        super().__init__("quiet")

    def close(self) -> None: ...


def test_a_parent_that_ended_before_the_node_was_made_is_noticed(capfd):
    watching = ["--ros-args", "-p", "stop_with_parent:=true"]
    nobody = 2**22 + 1  # above the largest process id of Linux
    assert startup.run(Quiet, ["node", *watching], nobody) == 0
    assert lifecycle_node.run("guard_node", watching, GuardNode, nobody) == 0
    assert "the process that started this node has ended: stopping" in capfd.readouterr().err


@pytest.fixture
def kept_handler():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_while_libraries_are_loaded_or_python_ends_leaves_no_trace(monkeypatch, kept_handler):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "pkgutil", SimpleNamespace(resolve_name=interrupt))
    assert command_line.run_node("any_node", "any:Node", None, []) == 0
    assert command_line.run_lifecycle_node("any_node", "any:Node", None, "any:PARAMETERS", []) == 0
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_wrong_ros_argument_is_an_error_in_one_line(capfd):
    assert startup.run(lambda: None, ["node", "--ros-args", "-r", "nonsense"], os.getppid()) == 2
    error = capfd.readouterr().err
    assert "\nerror: ROS did not start: " in error and "Traceback" not in error
