# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The promise: what a bag gives at tick t is what the live node saw at tick t, bit for bit.

The simulator publishes, the recorder writes a bag, and a node in this process listens as the policy node does: three
processes with DDS between them. Then the bag is read as training reads it.
"""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import TwistStamped
from recordings import read_bag
from std_msgs.msg import Float64MultiArray, String

from vla_ros import bringup
from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.datasets.bags.streams import observations
from vla_ros.nodes.clients.services import RemoteNode, RemoteSimulator, ServiceError
from vla_ros.nodes.common.qos import COMMAND_QOS, LATCHED_QOS
from vla_ros.nodes.policy.observation_streams import ObservationStreams
from vla_ros.observations.observation import Observation, ObservationBuffer, ObservationQueue
from vla_ros.robot import load_robot

# Slow enough that a busy test machine does not decide what arrives before a tick's settle time is over.
SPEED = 0.4
EPISODE_S = 1.5
TIMING = Timing(10.0, 4, 8)
PROPRIOCEPTION = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)), "gripper_opening")
# A camera of which it is known that its pictures are late: both sides must take that into account alike.
TABLETOP = load_robot("tabletop")
LATE = dataclasses.replace(TABLETOP.cameras["wrist"], latency_s=0.04)
ROBOT = dataclasses.replace(TABLETOP, cameras={**TABLETOP.cameras, "wrist": LATE})
SPEC = ObservationSpec((Camera("static", 64, 64), Camera("wrist", 96, 80)), PROPRIOCEPTION)


class LiveNode:
    """Takes the snapshot of each tick as the policy node's engine does: when the clock has reached tick + settle."""

    def __init__(self, node) -> None:
        self._node = node
        self._observations = ObservationQueue(ObservationBuffer(SPEC, ROBOT.observation))
        self._streams = ObservationStreams(node, ROBOT, SPEC, self._observations, self._follow, TIMING.period_ns)
        self._streams.start()
        self.seen: dict[int, object] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        tick = None
        while not self._stop.wait(0.001):
            newest = (self._node.get_clock().now().nanoseconds - TIMING.settle_ns) // TIMING.period_ns
            if newest != tick:
                tick = newest
                self.seen[tick] = self._observations.snapshot(tick * TIMING.period_ns)

    def _follow(self, text: str, _is_old: bool) -> None:
        self._observations.push("language", self._node.get_clock().now().nanoseconds, text)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def drive(graph) -> None:
    """Move the arm and the gripper, for pictures that differ."""
    twist = graph.node.create_publisher(TwistStamped, "twist_command", COMMAND_QOS)
    meant = graph.node.create_publisher(TwistStamped, "demonstrated_twist", COMMAND_QOS)
    gripper = graph.node.create_publisher(Float64MultiArray, "gripper_command", COMMAND_QOS)
    clock = graph.node.get_clock()
    end_ns, opening = clock.now().nanoseconds + EPISODE_S * 1e9, 0.08
    while clock.now().nanoseconds < end_ns:
        message = TwistStamped()
        message.header.stamp = clock.now().to_msg()
        message.header.frame_id = "base_link"
        message.twist.linear.y, message.twist.angular.z = 0.1, 0.3
        twist.publish(message)
        meant.publish(message)
        opening = max(opening - 0.004, 0.0)
        gripper.publish(Float64MultiArray(data=[opening]))
        time.sleep(0.04 / SPEED)


@pytest.fixture(scope="module")
def recording(make_module_graph, tmp_path_factory):
    """A bag, and what the live node saw while it was recorded."""
    graph = make_module_graph(use_sim_time=True)
    bag = tmp_path_factory.mktemp("bags") / "parity"
    graph.start(
        bringup.simulator(publish_clock=True, real_time_factor=SPEED), bringup.recorder(str(bag), use_sim_time=True)
    )
    live = LiveNode(graph.node)
    language = graph.node.create_publisher(String, "language_command", LATCHED_QOS)
    RemoteSimulator(graph.node).reset("pick_up_red", 11)
    language.publish(String(data="pick up the red block"))
    recorder = RemoteNode(graph.node, "recorder")

    def starts() -> bool:
        try:
            return bool(recorder.trigger("start"))
        except ServiceError:
            return False

    graph.wait(starts, "a recorder that starts")
    drive(graph)
    recorder.trigger("success")
    live.close()
    graph.group.stop("recorder")
    return bag, live.seen


def test_the_observation_from_the_bag_is_the_live_one_bit_for_bit(recording):
    bag, live = recording
    with open_bag(bag) as opened:
        from_bag = dict(observations(opened, ROBOT, SPEC, TIMING))
    ticks = [tick for tick, seen in from_bag.items() if isinstance(seen, Observation) and tick in live]
    # The first ticks lie before the bag's first pictures.
    assert len(ticks) >= EPISODE_S * 10 - 3
    for tick in ticks[1:]:
        there, here = from_bag[tick], live[tick]
        assert isinstance(here, Observation), here
        assert {**there.stamps_ns, "language": 0} == {**here.stamps_ns, "language": 0}
        assert there.command == here.command
        np.testing.assert_array_equal(there.proprioception, here.proprioception)
        assert there.proprioception.dtype == here.proprioception.dtype
        for camera in SPEC.cameras:
            assert there.images[camera.name].shape == (camera.height, camera.width, 3)
            np.testing.assert_array_equal(there.images[camera.name], here.images[camera.name])
    pictures = {from_bag[tick].images["wrist"].tobytes() for tick in ticks}
    assert len(pictures) > len(ticks) / 2, "the arm did not move: the comparison says nothing"


def test_the_episode_that_training_gets_is_made_of_these_observations(recording):
    bag, live = recording
    episodes, _ = read_bag(bag, ROBOT, SPEC, TIMING)
    ticks = np.concatenate([episode.ticks for episode in episodes])
    assert len(ticks) >= 10
    for episode in episodes:
        for index, tick in enumerate(episode.ticks[1:], start=1):
            for name, picture in live[int(tick)].images.items():
                np.testing.assert_array_equal(episode.images[name][index], picture)
            np.testing.assert_array_equal(episode.proprioception[index], live[int(tick)].proprioception)
