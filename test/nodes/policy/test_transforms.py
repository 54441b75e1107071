# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""A robot whose pose is on /tf: what the live node makes of it, and what the recorder writes.

tf2_msgs comes with a ROS distribution only (it is not on PyPI). Without it, geometry_msgs/TransformStamped stands in
for it: a message with one transform instead of several, everything else the same.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason="needs rclpy")

from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message

from vla_ros import resources
from vla_ros.contract import Camera, ObservationSpec
from vla_ros.datasets.bags.open_bag import open_bag
from vla_ros.nodes.common.qos import message_class
from vla_ros.nodes.policy import observation_streams
from vla_ros.nodes.policy.observation_streams import ObservationStreams
from vla_ros.nodes.recorder import recorded_topic
from vla_ros.nodes.recorder import recorder as recorder_node
from vla_ros.nodes.simulator.messages import time_message
from vla_ros.observations import messages
from vla_ros.observations.observation import ObservationBuffer, ObservationQueue
from vla_ros.robot import TRANSFORMS, PoseStream, RobotError, load_robot

MS, START_NS = 1_000_000, 10**12
TF = {"topic": "/tf", "type": TRANSFORMS, "stamp": "header", "ee_frame": "tcp"}
ROBOT = dataclasses.replace(load_robot("tabletop"), ee_pose=PoseStream(**TF))  # max_age_s: 0.3
SPEC = ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x",))
INSTALLED = importlib.util.find_spec("tf2_msgs") is not None
needs_tf2_msgs = pytest.mark.skipif(not INSTALLED, reason="tf2_msgs is not installed (it is not on PyPI)")


def transform(parent: str, child: str, x: float, stamp_ns: int) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.stamp, message.header.frame_id = time_message(stamp_ns), parent
    message.transform.translation.x, message.transform.rotation.w = x, 1.0
    return message


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """One transform instead of several, as the type of /tf."""
    one_of = messages.transforms

    def kind(name: str) -> Any:
        return TransformStamped if name == TRANSFORMS else message_class(name)

    for module in (observation_streams, recorder_node, recorded_topic):
        monkeypatch.setattr(module, "message_class", kind)
    monkeypatch.setattr(
        messages, "transforms", lambda message, wants: one_of(SimpleNamespace(transforms=[message]), wants)
    )


class Bench:
    """The streams of a node that only notes what it is told; `now_ns` is the time."""

    def __init__(self) -> None:
        self.now_ns, self.errors, self.warnings = START_NS, [], []
        self._on_message: dict[str, Callable] = {}
        self.qos: dict[str, QoSProfile] = {}
        logger = SimpleNamespace(
            warning=lambda text, **_: self.warnings.append(text), error=lambda text, **_: self.errors.append(text)
        )
        node = SimpleNamespace(
            get_logger=lambda: logger,
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns)),
            create_subscription=self._subscribe,
        )
        observations = ObservationQueue(ObservationBuffer(SPEC, ROBOT.observation))
        self.streams = ObservationStreams(node, ROBOT, SPEC, observations, lambda _: None, 100 * MS)

    def _subscribe(self, kind: Any, topic: str, callback: Callable, qos: QoSProfile, **_: Any) -> None:
        self._on_message[topic], self.qos[topic] = callback, qos

    def hear(self, topic: str, parent: str, child: str, x: float, stamp_ms: float = 0) -> None:
        """A transform arrives now, stamped `stamp_ms` after now."""
        self._on_message[topic](transform(parent, child, x, self.now_ns + round(stamp_ms * MS)))

    @property
    def x(self) -> float | None:
        pose = self.streams.ee_pose(self.now_ns)
        return None if pose is None else float(pose[0])


@pytest.fixture
def bench(stand_in: None) -> Bench:
    return Bench()


def test_transforms_are_subscribed_to_with_tf2_s_qos(bench: Bench):
    moving, static = bench.qos["/tf"], bench.qos["/tf_static"]
    assert (moving.reliability, moving.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
    assert (static.reliability, static.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    assert moving.depth == 100 and static.depth >= 100


def test_what_was_latched_before_the_node_was_active_counts(bench: Bench):
    bench.hear("/tf_static", "hand", "tcp", 0.1)
    bench.hear("/tf", "base_link", "hand", 9.0, -5)  # not active: nothing is fed
    bench.streams.start()
    assert bench.x is None
    bench.hear("/tf", "base_link", "hand", 0.4, -10)
    assert bench.x == pytest.approx(0.5) and bench.streams.rates["ee_pose"].received == 1
    bench.now_ns += 301 * MS
    assert bench.x is None


def test_after_the_clock_was_set_back_poses_come_again(bench: Bench):
    bench.streams.start()
    bench.hear("/tf_static", "hand", "tcp", 0.1)
    bench.hear("/tf", "base_link", "hand", 0.4)
    bench.now_ns += 100 * MS
    bench.streams.start()
    bench.now_ns -= 100 * MS
    assert bench.x is None
    bench.hear("/tf", "base_link", "hand", 0.3)  # at the very stamp of before
    assert bench.x == pytest.approx(0.4)


def test_a_pose_of_the_far_future_is_dropped(bench: Bench):
    bench.streams.start()
    bench.hear("/tf", "base_link", "tcp", 0.4)
    bench.hear("/tf", "base_link", "tcp", 0.9, 1000)
    assert bench.x == 0.4 and "stamped 1.00 s in the future" in bench.errors[0]


def test_a_chain_that_stays_broken_is_named_in_the_log(bench: Bench):
    bench.streams.start()
    for _ in range(3):
        bench.hear("/tf", "base_link", "hand", 0.4)
        assert bench.errors == []  # others may be on their way
        bench.now_ns += 500 * MS
    bench.hear("/tf", "base_link", "hand", 0.4)
    (told,) = bench.errors
    assert "'ee_pose': no chain of transforms leads from 'base_link' to 'tcp': no transform names 'tcp'" in told
    assert told.endswith("known frames: base_link, hand")


def test_transforms_that_are_none_are_named_in_the_log(bench: Bench):
    bench.streams.start()
    bench.hear("/tf", "base_link", "tcp", 0.4, -10)
    bench.hear("/tf", "base_link", "tcp", float("nan"))
    assert bench.x == 0.4 and bench.warnings == ["stream 'ee_pose': 'tcp' in 'base_link': not finite (1 times)"]


@pytest.mark.skipif(INSTALLED, reason="tf2_msgs is installed")
def test_without_tf2_msgs_the_error_names_the_missing_package():
    with pytest.raises(RobotError, match=r"'tf2_msgs/msg/TFMessage' is not installed.*ros-\$ROS_DISTRO-tf2-msgs"):
        Bench()


@pytest.fixture(params=[pytest.param("tf2_msgs", marks=needs_tf2_msgs), "stand-in"])
def message_of(request: pytest.FixtureRequest) -> Callable[[TransformStamped], Any]:
    """Makes the message of /tf with one transform."""
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
        return lambda one: one
    kind = message_class(TRANSFORMS)
    return lambda one: kind(transforms=[one])


def test_over_dds_a_late_node_hears_what_is_latched(message_of: Callable[..., Any], make_graph: Callable):
    graph = make_graph()
    node, wrap = graph.node, message_of
    type_ = type(wrap(TransformStamped()))
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    statics = [node.create_publisher(type_, "/tf_static", latched) for _ in range(12)]  # as tf2's tool
    for number, publisher in enumerate(statics):
        child = "tcp" if number == 11 else f"part{number}"
        publisher.publish(wrap(transform("hand" if child == "tcp" else "base_link", child, 0.1, 0)))
    moving = node.create_publisher(type_, "/tf", QoSProfile(depth=100))
    observations = ObservationQueue(ObservationBuffer(SPEC, ROBOT.observation))
    streams = ObservationStreams(node, ROBOT, SPEC, observations, lambda _: None, 100 * MS)
    streams.start()

    def pose() -> Any:
        now_ns = node.get_clock().now().nanoseconds
        moving.publish(wrap(transform("base_link", "hand", 0.4, now_ns)))
        return streams.ee_pose(now_ns)

    found = graph.wait(lambda: None if (value := pose()) is None else (value,), "a pose")
    assert found[0][0] == pytest.approx(0.5)
    assert not streams.incompatible_qos


def test_the_recorder_writes_transforms_and_opens_every_episode_with_the_static_ones(
    tmp_path: Path, stand_in: None, ros_environment: dict, monkeypatch: pytest.MonkeyPatch
):
    data = yaml.safe_load((resources.path("config/robots") / "tabletop.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**data, "ee_pose": TF}))
    from vla_ros.datasets.bags.cdr.messages import typestore

    types = typestore()
    monkeypatch.setattr(recorded_topic, "deserialize_message", lambda data, _: types.deserialize_cdr(data, TRANSFORMS))

    def tf(*links: tuple[str, str, float]) -> bytes:
        one = serialize_message  # a TFMessage is a count and that many transforms
        parts = [
            types.deserialize_cdr(one(transform(*each, 5)), "geometry_msgs/msg/TransformStamped") for each in links
        ]
        return bytes(types.serialize_cdr(types.types[TRANSFORMS](transforms=parts), TRANSFORMS))

    rclpy.init(args=["r", "--ros-args", "-p", f"robot:={tmp_path / 'mine.yaml'}", "-p", f"output:={tmp_path / 'bag'}"])
    try:
        node = recorder_node.RecorderNode()
        moving, static = node._streams["/tf"], node._streams["/tf_static"]
        assert moving.required and moving.qos.depth == 100 and not moving.repeated
        for data in (tf(("hand", "tcp", 1.0)), tf(("base_link", "arm0", 2.0)), tf(("hand", "tcp", 3.0))):
            node._on_message(static, data)
        monkeypatch.setattr(node, "_why_not", lambda: None)
        monkeypatch.setattr(node, "_command", lambda: "push it")
        for _ in range(2):
            node._on_message(moving, tf(("arm0", "hand", 9.0)))  # before the episode: not written
            node._on_start(None, SimpleNamespace())
            node._on_message(moving, tf(("arm0", "hand", 0.5)))
            node._on_end("success", None, SimpleNamespace())
        node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    with open_bag(tmp_path / "bag") as recording:
        written = [
            (topic, one.child_frame_id, one.transform.translation.x)
            for topic, _, message in recording.messages(["/tf", "/tf_static"]) for one in message.transforms
        ]  # fmt: skip
    episode = [("/tf_static", "arm0", 2.0), ("/tf_static", "tcp", 3.0), ("/tf", "hand", 0.5)]
    assert written == [*episode, *episode]
