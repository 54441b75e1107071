# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The recorder as a process, with a robot in this one."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.serialization import serialize_message
from recordings import read_bag
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import Float64MultiArray, String

from vla_ros import bringup
from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.episodes.markers import parse_marker
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.errors import BagError
from vla_ros.nodes.clients.services import RemoteNode, ServiceError
from vla_ros.nodes.common.qos import LATCHED_QOS, SENSOR_QOS
from vla_ros.nodes.simulator.messages import compressed_message, time_message
from vla_ros.robot import load_robot

FINGERS = ["panda_finger_joint1", "panda_finger_joint2"]
SPEC = ObservationSpec((Camera("static", 16, 16), Camera("wrist", 16, 16)), ("ee_x", "gripper_opening"))


class Robot:
    """Publishes the tabletop robot's topics at 30 Hz, except those in `silent`."""

    def __init__(self, node) -> None:
        self.silent: set[str] = set()
        self._node = node
        self._cameras = {
            name: node.create_publisher(CompressedImage, f"camera/{name}/image_raw/compressed", SENSOR_QOS)
            for name in ("static", "wrist")
        }
        self._pose = node.create_publisher(PoseStamped, "ee_pose", 10)
        self._joints = node.create_publisher(JointState, "joint_states", 10)
        self._twists = [node.create_publisher(TwistStamped, f"{name}_twist", 10) for name in ("demonstrated",)]
        self._twists.append(node.create_publisher(TwistStamped, "twist_command", 10))
        self.gripper = node.create_publisher(Float64MultiArray, "gripper_command", 10)
        self.language = node.create_publisher(String, "language_command", LATCHED_QOS)
        self._picture = np.zeros((16, 16, 3), np.uint8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1 / 30):
            stamp = self._node.get_clock().now().to_msg()
            for name, publisher in self._cameras.items():
                if name not in self.silent:
                    publisher.publish(compressed_message(self._picture, name, stamp))
            pose, twist = PoseStamped(), TwistStamped()
            pose.header.stamp = twist.header.stamp = stamp
            pose.pose.orientation.w, twist.header.frame_id = 1.0, "base_link"
            joints = JointState(name=FINGERS, position=[0.02, 0.02])
            joints.header.stamp = stamp
            self._pose.publish(pose)
            self._joints.publish(joints)
            for publisher in self._twists:
                publisher.publish(twist)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclasses.dataclass
class Bench:
    graph: object
    robot: Robot
    recorder: RemoteNode
    bag: Path

    def settle(self) -> None:
        """Until the recorder has heard what was published before: the sentinel is a start that it accepts."""

        def starts() -> bool:
            try:
                self.recorder.trigger("start")
            except ServiceError:
                return False
            return True

        self.graph.wait(starts, "a recorder that starts")

    def stop(self) -> None:
        self.graph.group.stop("recorder")


@pytest.fixture
def bench(make_graph, tmp_path):
    graph = make_graph()
    bag = tmp_path / "bags" / "one"
    graph.start(bringup.recorder(str(bag), task="push"))
    robot = Robot(graph.node)
    recorder = RemoteNode(graph.node, "recorder")
    yield Bench(graph, robot, recorder, bag)
    robot.close()


def markers(bag: Path) -> list[tuple[str, int]]:
    with open_bag(bag) as recording:
        texts = [message.data for _, _, message in recording.messages(["/episode"])]
    return [(marker.event, marker.episode) for marker in map(parse_marker, texts)]


def texts(bag: Path, topic: str) -> list:
    with open_bag(bag) as recording:
        return [message.data for _, _, message in recording.messages([topic])]


def test_start_is_refused_naming_what_is_silent_and_without_a_command(bench):
    bench.robot.silent = {"wrist"}
    with pytest.raises(ServiceError, match="nothing received on /camera/wrist/image_raw/compressed"):
        bench.graph.wait(lambda: _trigger_until_wrist(bench), "a refusal")
    bench.robot.silent = set()
    with pytest.raises(ServiceError, match="no language command received; publish one on /language_command"):
        bench.graph.wait(lambda: _trigger_until(bench, "no language"), "a refusal")
    bench.robot.language.publish(String(data="push it"))
    bench.settle()
    bench.recorder.trigger("discard")
    bench.robot.silent = {"static"}
    with pytest.raises(ServiceError, match=r"/camera/static/image_raw/compressed has been silent for 1\.\d s"):
        bench.graph.wait(lambda: _start_and_discard(bench), "a refusal")


def _trigger_until_wrist(bench) -> None:
    _trigger_until(bench, "/camera/wrist")


def _trigger_until(bench, text: str) -> None:
    try:
        bench.recorder.trigger("start")
    except ServiceError as error:
        if text in str(error):
            raise


def _start_and_discard(bench) -> None:
    bench.recorder.trigger("start")
    bench.recorder.trigger("discard")


def test_a_bag_holds_episodes_each_with_its_command_and_gripper(bench):
    bench.robot.language.publish(String(data="push the red block"))
    bench.settle()
    bench.recorder.trigger("discard")
    bench.robot.gripper.publish(Float64MultiArray(data=[0.06]))
    _wait_s(bench, 0.3)
    bench.recorder.trigger("start")
    _wait_s(bench, 0.8)
    answer = json.loads(bench.recorder.trigger("success"))
    assert answer["messages"]["/camera/static/image_raw/compressed"] >= 10
    bench.recorder.trigger("start")
    _wait_s(bench, 0.3)
    bench.recorder.trigger("failure")
    bench.recorder.trigger("start")
    _wait_s(bench, 0.5)
    bench.stop()

    events = [event for event, _ in markers(bench.bag)]
    assert events == ["start", "discard", "start", "success", "start", "failure", "start", "discard"]
    assert texts(bench.bag, "/language_command") == ["push the red block"] * 4
    assert [list(data) for data in texts(bench.bag, "/gripper_command")] == [[0.06]] * 3
    episodes, report = read_bag(bench.bag, load_robot("tabletop"), SPEC, Timing(10.0, 1, 1))
    assert [(episode.task, episode.command, episode.outcome) for episode in episodes] == [
        ("push", "push the red block", "success")
    ]
    np.testing.assert_allclose(episodes[0].actions[:, 6], 0.75)
    assert len(episodes[0].actions) >= 5
    assert set(report.dropped) >= {"episode failure", "episode discarded"}


def _wait_s(bench, duration_s: float) -> None:
    until_ns = bench.graph.node.get_clock().now().nanoseconds + duration_s * 1e9
    bench.graph.wait(lambda: bench.graph.node.get_clock().now().nanoseconds > until_ns, "time")


def test_a_command_that_is_not_latched_is_recorded_and_a_latched_one_once(bench):
    unlatched = bench.graph.node.create_publisher(String, "language_command", 10)
    bench.graph.wait(unlatched.get_subscription_count, "the recorder")
    unlatched.publish(String(data="push it"))
    bench.settle()
    bench.robot.language.publish(String(data="pull it"))
    _wait_s(bench, 0.3)
    bench.recorder.trigger("success")
    bench.stop()
    assert texts(bench.bag, "/language_command") == ["push it", "pull it"]


def test_after_a_write_error_the_bag_is_closed_and_the_error_names_it(tmp_path, ros_environment):
    import rclpy

    from vla_ros.datasets.bags.episodes.markers import EpisodeMarker
    from vla_ros.nodes.recorder.recorder import RecorderNode

    rclpy.init(args=["recorder", "--ros-args", "-p", f"output:={tmp_path / 'one'}"])
    try:
        node = RecorderNode()
        node._mark(EpisodeMarker("start", 0, "push", "push it"), 1)
        node._episode, node._episodes = EpisodeMarker("start", 0, "push", "push it"), 1

        def fail(*_):
            raise OSError("no space left on device")

        node._writer.write = fail
        with pytest.raises(BagError, match=r"no space left.*one\.partial.*free disk space"):
            node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    assert markers(tmp_path / "one.partial") == [("start", 0)]


def test_an_episode_does_not_start_on_a_disk_that_is_almost_full(tmp_path, ros_environment, monkeypatch):
    import rclpy

    from vla_ros.nodes.recorder import recorder as recorder_node

    rclpy.init(args=["recorder", "--ros-args", "-p", f"output:={tmp_path / 'one'}"])
    try:
        node = recorder_node.RecorderNode()
        for stream in node._streams.values():
            stream.heard_s = node._steady_s() + 60.0
        node._streams[node._language].keep(serialize_message(String(data="push it")))
        assert node._why_not() is None
        monkeypatch.setattr(recorder_node.shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
        assert node._why_not() == "only 5 MB free for the bag, 200 required; free disk space first"
        node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


def test_only_what_happens_in_an_episode_is_written(bench):
    bench.robot.language.publish(String(data="push it"))
    bench.settle()
    bench.recorder.trigger("success")
    _wait_s(bench, 0.5)
    bench.stop()
    assert len(texts(bench.bag, "/language_command")) == 1
    with open_bag(bench.bag) as recording:
        poses = list(recording.messages(["/ee_pose"]))
    assert len(poses) < 10


@pytest.fixture
def marking(make_graph):
    """A recorder beside `ros2 bag record`, in an episode, and the markers that it has published."""
    graph = make_graph()
    graph.start(bringup.recorder("", write=False, task="push"))
    heard = graph.listen(String, "episode", LATCHED_QOS)
    bench = Bench(graph, Robot(graph.node), RemoteNode(graph.node, "recorder"), Path())
    bench.robot.language.publish(String(data="push it"))
    bench.settle()
    yield bench, heard
    bench.robot.close()


def test_beside_ros2_bag_record_it_only_marks_episodes(marking):
    bench, heard = marking
    bench.recorder.trigger("success")
    bench.graph.wait(lambda: len(heard) == 2, "two markers")
    assert [parse_marker(message.data).event for message in heard] == ["start", "success"]
    assert parse_marker(heard[0].data).command == "push it"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_in_an_episode_it_marks_it_as_discarded_for_ros2_bag_record(number, marking):
    bench, heard = marking
    _, process = bench.graph.group._running.pop("recorder")
    process.send_signal(number)
    assert process.wait(10.0) == 0
    bench.graph.wait(lambda: len(heard) == 2, "the end of the episode")
    assert [parse_marker(message.data).event for message in heard] == ["start", "discard"]


def test_killed_in_an_episode_it_leaves_what_it_wrote(bench):
    bench.robot.language.publish(String(data="push it"))
    bench.settle()
    bench.graph.kill("recorder")
    partial = bench.bag.with_name("one.partial")
    assert not bench.bag.exists() and partial.is_dir()


def test_without_an_episode_no_bag_is_left(bench):
    bench.graph.wait(lambda: "ready" in bench.graph.group.log("recorder").read_text(), "a recorder that waits")
    assert bench.bag.with_name("one.partial").is_dir()
    bench.stop()
    assert not bench.bag.exists() and not bench.bag.with_name("one.partial").exists()


def test_an_existing_bag_is_not_overwritten(tmp_path):
    (tmp_path / "kept").mkdir()
    command = [sys.executable, "-m", "vla_ros.nodes.recorder.node", "--ros-args", "-p", f"output:={tmp_path / 'kept'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "already exists and is not overwritten" in done.stderr
    assert list((tmp_path / "kept").iterdir()) == []


def test_stamps_are_read_from_serialised_messages():
    from vla_ros.nodes.recorder.recorded_topic import header_stamp_ns

    pose = PoseStamped()
    pose.header.stamp = time_message(1_795_000_000_123_456_789)
    assert header_stamp_ns(serialize_message(pose)) == 1_795_000_000_123_456_789
