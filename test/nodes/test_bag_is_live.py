# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""The promise: what a bag gives at tick t is what the live node saw at tick t, bit for bit.

The simulator publishes, the recorder writes a bag, and a node in this process listens as the policy node does: three
processes with DDS between them. Then the bag is read as training reads it.
"""

from __future__ import annotations

import dataclasses
import gc
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
SPEED = 0.1
EPISODE_S = 1.5
# The simulated clock steps by 20 ms, pictures and states are stamped and sent on multiples of 100 ms: with this settle
# time, the step at which a tick of any of these rates has settled is never one at which they arrive.
TIMINGS = {control_hz: Timing(control_hz, 4, 8, settle_s=0.005) for control_hz in (10.0, 15.0, 30.0)}
SLOW = {"camera_rate_hz": 10.0, "state_rate_hz": 10.0}
PROPRIOCEPTION = ("ee_x", "ee_y", "ee_z", *(f"ee_r{index}" for index in range(6)), "gripper_opening")
# A camera of which it is known that its pictures are late: both sides must take that into account alike.
TABLETOP = load_robot("tabletop")
LATE = dataclasses.replace(TABLETOP.cameras["wrist"], latency_s=0.04)
ROBOT = dataclasses.replace(TABLETOP, cameras={**TABLETOP.cameras, "wrist": LATE})
SPEC = ObservationSpec((Camera("static", 64, 64), Camera("wrist", 96, 80)), PROPRIOCEPTION)


class LiveNode:
    """Takes the snapshot of each tick as the policy node's engine does: when the clock has reached tick + settle.

    It does so at several rates at once.
    """

    def __init__(self, node) -> None:
        self._node = node
        self._observations = {
            control_hz: ObservationQueue(ObservationBuffer(SPEC, ROBOT.observation)) for control_hz in TIMINGS
        }
        self._streams = ObservationStreams(node, ROBOT, SPEC, self, self._follow, 0)
        self._streams.start()
        self.seen: dict[float, dict[int, object]] = {control_hz: {} for control_hz in TIMINGS}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def push(self, stream: str, stamp_ns: int, value: object) -> None:
        for observations_of_a_rate in self._observations.values():
            observations_of_a_rate.push(stream, stamp_ns, value)

    def _run(self) -> None:
        ticks: dict[float, int] = {}
        while not self._stop.wait(0.001):
            for control_hz, timing in TIMINGS.items():
                newest = timing.grid.tick_at(self._node.get_clock().now().nanoseconds - timing.settle_ns)
                if newest != ticks.get(control_hz):
                    ticks[control_hz] = newest
                    snapshot = self._observations[control_hz].snapshot(timing.grid.start_ns(newest))
                    self.seen[control_hz][newest] = snapshot

    def _follow(self, text: str, _is_old: bool) -> None:
        self.push("language", self._node.get_clock().now().nanoseconds, text)

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
    """A bag, and what the live node saw at each rate while it was recorded."""
    graph = make_module_graph(use_sim_time=True)
    bag = tmp_path_factory.mktemp("bags") / "parity"
    graph.start(
        bringup.simulator(publish_clock=True, real_time_factor=SPEED, **SLOW),
        bringup.recorder(str(bag), use_sim_time=True),
    )
    gc.collect()
    gc.freeze()  # as the policy node does: a collection of all that other tests have left takes longer than a tick
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
    gc.unfreeze()
    graph.group.stop("recorder")
    return bag, live.seen


@pytest.mark.parametrize("control_hz", TIMINGS)
def test_the_observation_from_the_bag_is_the_live_one_bit_for_bit(recording, control_hz):
    bag, live = recording[0], recording[1][control_hz]
    with open_bag(bag) as opened:
        from_bag = dict(observations(opened, ROBOT, SPEC, TIMINGS[control_hz]))
    ticks = [tick for tick, seen in from_bag.items() if isinstance(seen, Observation) and tick in live]
    # The first ticks lie before the bag's first pictures.
    assert len(ticks) >= (EPISODE_S - 0.3) * control_hz
    for tick in ticks[round(0.1 * control_hz) :]:
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
    assert len(pictures) > EPISODE_S * 10 / 2, "the arm did not move: the comparison says nothing"


@pytest.mark.parametrize("control_hz", TIMINGS)
def test_the_episode_that_training_gets_is_made_of_these_observations(recording, control_hz):
    bag, live = recording[0], recording[1][control_hz]
    episodes, _ = read_bag(bag, ROBOT, SPEC, TIMINGS[control_hz])
    ticks = np.concatenate([episode.ticks for episode in episodes])
    assert len(ticks) >= control_hz
    for episode in episodes:
        skipped = round(0.1 * control_hz)
        for index, tick in enumerate(episode.ticks[skipped:], start=skipped):
            for name, picture in live[int(tick)].images.items():
                np.testing.assert_array_equal(episode.images[name][index], picture)
            np.testing.assert_array_equal(episode.proprioception[index], live[int(tick)].proprioception)
