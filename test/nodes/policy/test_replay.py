# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""`vla replay-onto-robot` over DDS: a recorded episode moves the simulated arm as it did, slowly, and only if armed."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool

from vla_ros import bringup, resources
from vla_ros.cli import main
from vla_ros.commands.ros import replay_onto_robot
from vla_ros.commands.ros.record_demo import record
from vla_ros.nodes.clients.services import RemoteSimulator
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS
from vla_ros.observations import messages
from vla_ros.runtime.playback import Playback

TASK, SEED = "pick_up_red", 5
SPEED = 0.5
CHECKPOINT = resources.path(bringup.CHECKPOINT)


class Robot:
    """The simulated arm and what it is sent."""

    def __init__(self, graph) -> None:
        self.graph = graph
        graph.start(bringup.simulator(publish_raw=False))
        self.twists = graph.listen(TwistStamped, "twist_command", 200)
        self.openings = graph.listen(Float64MultiArray, "gripper_command")
        self._simulator = RemoteSimulator(graph.node)
        self.emergency_stop = graph.node.create_publisher(Bool, "emergency_stop", LATCHED_QOS)
        self.language = graph.node.create_publisher(String, "language_command", LATCHED_QOS)

    def reset(self) -> None:
        self._simulator.reset(TASK, SEED)
        self.twists.clear()
        self.openings.clear()

    def speeds(self) -> np.ndarray:
        """Of all twists that were sent (N,) [m/s]."""
        return np.array([np.linalg.norm(messages.twist(twist)[:3]) for twist in self.twists])

    def on_motion(self, do) -> threading.Thread:
        """Call `do` once the arm is moved."""

        def wait() -> None:
            self.graph.wait(lambda: (self.speeds() > 0.01).sum() > 5, "motion")
            do()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def bag(domain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("replayed")
    (bag,) = record(folder / "bags", [TASK], 1, speed=5.0, perturbation=0.3, first_seed=SEED)
    return bag


@pytest.fixture(scope="module")
def running(bag, make_module_graph) -> Robot:
    return Robot(make_module_graph())


@pytest.fixture
def robot(running: Robot) -> Robot:
    running.reset()
    return running


def replayed(bag: Path, *options: str) -> int:
    return main(["replay-onto-robot", str(CHECKPOINT), str(bag), "--speed", str(SPEED), *options])


def test_the_recorded_twists_move_the_arm_as_they_did_and_slower(robot: Robot, bag, tmp_path, capsys) -> None:
    assert replayed(bag, "--arm", "--json", str(tmp_path / "replayed.json")) == 0
    figures = json.loads((tmp_path / "replayed.json").read_text())
    assert figures["stopped"] is None and figures["mismatches"] == []
    moved = [axis for axis in figures["axes"] if axis["gain"] is not None]
    assert {"x", "z"} <= {axis["name"] for axis in moved}
    assert all(0.8 < axis["gain"] < 1.2 for axis in moved)
    assert figures["position_error_m"] < 0.02
    assert figures["ticks"] > 30

    limit_mps = replay_onto_robot.load_robot("tabletop").limits.linear_mps
    assert 0.02 < robot.speeds().max() < 1.01 * SPEED * limit_mps
    assert robot.speeds()[-1] == 0.0  # it ends standing still
    assert [message.data[0] for message in robot.openings] == [0.08, 0.0]  # open, and closed on the block
    assert "no mismatch found" in capsys.readouterr().out


def test_nothing_moves_until_it_is_armed(robot: Robot, bag, capsys) -> None:
    assert replayed(bag, "--patience", "1") == 2
    assert "not armed within 1 s" in capsys.readouterr().err
    sentinel = robot.graph.node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)
    robot.graph.wait(lambda: sentinel.get_subscription_count() > 1, "listeners")
    message = TwistStamped()
    message.twist.linear.x = 77.0
    sentinel.publish(message)
    robot.graph.wait(lambda: bool(robot.twists), "the sentinel")
    robot.graph.node.destroy_publisher(sentinel)
    assert robot.speeds().tolist() == [77.0] and robot.openings == []


def test_its_service_arms_it(robot: Robot, bag) -> None:
    client = robot.graph.node.create_client(SetBool, "guard/arm")

    def arm() -> None:
        robot.graph.wait(lambda: client.service_is_ready(), "the service")
        future = client.call_async(SetBool.Request(data=True))
        while not (robot.graph.wait(future.done, "an answer") and future.result().success):
            future = client.call_async(SetBool.Request(data=True))  # it was not active yet

    threading.Thread(target=arm, daemon=True).start()
    assert replayed(bag) == 0
    assert robot.speeds().max() > 0.02


def test_an_axis_that_goes_the_wrong_way_is_named(robot: Robot, bag, monkeypatch, capsys) -> None:
    inverted = np.array([-1, 1, 1, 1, 1, 1, 1.0])  # as a driver might

    def play(contract, actions, command, speed) -> Playback:
        return Playback(contract, actions * inverted, command, speed)

    monkeypatch.setattr(replay_onto_robot, "Playback", play)
    assert replayed(bag, "--arm") == 1
    assert "mismatch, axes: position: x inverted" in capsys.readouterr().out


def test_an_arm_that_is_elsewhere_is_refused_unless_said_otherwise(robot: Robot, bag, capsys) -> None:
    assert replayed(bag, "--arm") == 0
    robot.twists.clear()
    assert replayed(bag, "--arm") == 2
    assert "from where the episode begins" in capsys.readouterr().err and not robot.speeds().any()


def test_whoever_stops_it_ends_it(robot: Robot, bag, capsys) -> None:
    thread = robot.on_motion(lambda: robot.emergency_stop.publish(Bool(data=True)))
    assert replayed(bag, "--arm") == 1
    thread.join()
    robot.emergency_stop.publish(Bool(data=False))
    assert "stopped early: emergency_stop" in capsys.readouterr().out
    assert robot.speeds()[-1] == 0.0


def test_another_command_ends_it(robot: Robot, bag, capsys) -> None:
    thread = robot.on_motion(lambda: robot.language.publish(String(data="open the drawer")))
    assert replayed(bag, "--arm") == 1
    thread.join()
    robot.language.publish(String(data=""))
    assert "another_command a new command arrived: 'open the drawer'" in capsys.readouterr().out


def test_it_is_refused_while_another_node_commands_the_arm(robot: Robot, bag, capsys) -> None:
    other = robot.graph.node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)
    assert replayed(bag, "--arm") == 2
    robot.graph.node.destroy_publisher(other)
    assert "other nodes publish twist_command" in capsys.readouterr().err and not robot.twists


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--robot", "franka_servo"], r"trained on recordings of robot 'tabletop'.*or pass --any-robot"),
        (["--speed", "0"], r"--speed must be in \(0, 1\]; got 0"),
        # The recording may begin with a frame before the first command.
        (["--episode", "7"], r"--episode must be between 0 and 0( \(skipped: .*\))?; got 7"),
    ],
)
def test_bad_arguments_are_one_line(bag, options, message, capsys) -> None:
    assert main(["replay-onto-robot", str(CHECKPOINT), str(bag), *options]) == 2
    assert re.search(message, capsys.readouterr().err)
