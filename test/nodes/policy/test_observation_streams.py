# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""What the streams make of stamps, message by message, with a clock that the test turns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import PoseStamped

from vla_ros.contract import Camera, ObservationSpec
from vla_ros.nodes.policy.observation_streams import ObservationStreams
from vla_ros.nodes.simulator.messages import time_message
from vla_ros.observations.observation import ObservationBuffer, ObservationQueue
from vla_ros.robot import load_robot

MS, START_NS = 1_000_000, 10**12
ROBOT = load_robot("tabletop")  # max_age_s: 0.3
SPEC = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x",))


class Bench:
    """The streams of a node that only notes what it is told; `now_ns` is the time."""

    def __init__(self) -> None:
        self.now_ns, self.errors = START_NS, []
        self._on_message: dict = {}
        logger = SimpleNamespace(warning=lambda text: None, error=lambda text, **_: self.errors.append(text))
        node = SimpleNamespace(
            get_logger=lambda: logger,
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns)),
            create_subscription=lambda kind, topic, callback, *_, **__: self._on_message.update({topic: callback}),
        )
        observations = ObservationQueue(ObservationBuffer(SPEC, ROBOT.observation))
        self.streams = ObservationStreams(node, ROBOT, SPEC, observations, lambda _: None, 100 * MS)
        self.streams.start()

    def pose(self, x: float, stamp_ms: float) -> None:
        """A pose arrives now, stamped `stamp_ms` after now."""
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = time_message(self.now_ns + round(stamp_ms * MS)), "base_link"
        message.pose.position.x, message.pose.orientation.w = x, 1.0
        self._on_message[ROBOT.ee_pose.topic](message)

    @property
    def x(self) -> float | None:
        pose = self.streams.ee_pose(self.now_ns)
        return None if pose is None else float(pose[0])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_pose_counts_until_it_is_older_than_the_robot_allows(bench):
    bench.pose(0.5, -10)
    bench.now_ns += 290 * MS
    assert bench.x == 0.5
    bench.now_ns += 1
    assert bench.x is None


def test_a_stamp_ahead_of_the_clock_makes_a_pose_no_fresher_than_its_receipt(bench):
    bench.pose(0.5, 250)
    assert bench.x == 0.5
    bench.now_ns += 301 * MS
    assert bench.x is None


def test_a_pose_stamped_far_in_the_future_is_dropped_and_logged_with_the_way_out(bench):
    bench.pose(0.5, -10)
    bench.pose(0.9, 1000)
    assert bench.x == 0.5 and bench.streams.rates["ee_pose"].received == 1
    assert "'ee_pose': message dropped: stamped 1.00 s in the future; synchronise the clocks" in bench.errors[0]
    bench.pose(0.6, 0)
    assert bench.x == 0.6


def test_an_older_pose_that_arrives_late_does_not_replace_a_newer_one(bench):
    bench.pose(0.5, -10)
    bench.pose(0.4, -40)
    assert bench.x == 0.5
