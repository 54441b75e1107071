# SPDX-License-Identifier: Apache-2.0
"""Small bags with known content, built message by message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ros.contract import Camera, ObservationSpec, Timing
from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.episodes.markers import EpisodeMarker
from vla_ros.datasets.bags.reader import BagReader
from vla_ros.datasets.bags.writer import BagWriter
from vla_ros.datasets.episode import Episode
from vla_ros.datasets.errors import BagError
from vla_ros.datasets.shards import DecodeReport
from vla_ros.datasets.sources import explain_empty
from vla_ros.files import absolute
from vla_ros.imaging import images
from vla_ros.robot import Robot, load_robot

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000  # on the control grid of 10 Hz
COMMAND = "pick up the red block"


def header(stamp_ns: int, frame: str = "") -> Any:
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


class BagBuilder:
    """Messages of the table-top robot at times in ms after START_NS; `write` makes them a bag.

    `late_ms` is how long after its stamp a message is received.
    """

    def __init__(self) -> None:
        self.messages: list[tuple[int, str, str, Any]] = []

    def add(self, topic: str, kind: str, receive_ms: float, **fields: Any) -> BagBuilder:
        message = typestore().types[kind](**fields)
        self.messages.append((START_NS + round(receive_ms * MS), f"/{topic}", kind, message))
        return self

    def image(self, camera: str, stamp_ms: float, shade: int, late_ms: float = 1) -> BagBuilder:
        data = images.encode_jpeg(np.full((16, 16, 3), shade, np.uint8))
        return self.add(
            f"camera/{camera}/image_raw/compressed", "sensor_msgs/msg/CompressedImage", stamp_ms + late_ms,
            header=header(START_NS + round(stamp_ms * MS)), format="jpeg", data=np.frombuffer(data, np.uint8),
        )  # fmt: skip

    def pose(self, stamp_ms: float, x_m: float = 0.4, late_ms: float = 1) -> BagBuilder:
        types = typestore().types
        pose = types["geometry_msgs/msg/Pose"](
            position=types["geometry_msgs/msg/Point"](x=x_m, y=0.0, z=0.3),
            orientation=types["geometry_msgs/msg/Quaternion"](x=1.0, y=0.0, z=0.0, w=0.0),
        )
        stamp = header(START_NS + round(stamp_ms * MS), "base_link")
        return self.add("ee_pose", "geometry_msgs/msg/PoseStamped", stamp_ms + late_ms, header=stamp, pose=pose)

    def transforms(
        self, stamp_ms: float, *links: tuple[str, str, Sequence[float]], topic: str = "tf", late_ms: float = 1
    ) -> BagBuilder:
        """One message of (parent, child, position and quaternion xyzw), all with the same stamp."""
        types = typestore().types
        made = [
            types["geometry_msgs/msg/TransformStamped"](
                header=header(START_NS + round(stamp_ms * MS), parent), child_frame_id=child,
                transform=types["geometry_msgs/msg/Transform"](
                    translation=types["geometry_msgs/msg/Vector3"](**dict(zip("xyz", map(float, pose[:3])))),
                    rotation=types["geometry_msgs/msg/Quaternion"](**dict(zip("xyzw", map(float, pose[3:])))),
                ),
            )
            for parent, child, pose in links
        ]  # fmt: skip
        return self.add(topic, "tf2_msgs/msg/TFMessage", stamp_ms + late_ms, transforms=made)

    def joints(self, stamp_ms: float, opening_m: float = 0.08, late_ms: float = 1) -> BagBuilder:
        names = ["panda_joint1", "panda_finger_joint1", "panda_finger_joint2"]
        return self.add(
            "joint_states", "sensor_msgs/msg/JointState", stamp_ms + late_ms,
            header=header(START_NS + round(stamp_ms * MS)), name=names,
            position=np.array([0.0, opening_m / 2, opening_m / 2]), velocity=np.zeros(0), effort=np.zeros(0),
        )  # fmt: skip

    def twist(
        self, stamp_ms: float, vx: float, frame: str = "base_link", topic: str = "demonstrated_twist"
    ) -> BagBuilder:
        types = typestore().types
        twist = types["geometry_msgs/msg/Twist"](
            linear=types["geometry_msgs/msg/Vector3"](x=vx, y=0.0, z=0.0),
            angular=types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=-vx),
        )
        stamp = header(START_NS + round(stamp_ms * MS), frame)
        return self.add(topic, "geometry_msgs/msg/TwistStamped", stamp_ms + 1, header=stamp, twist=twist)

    def twist_without_header(self, receive_ms: float, vx: float) -> BagBuilder:
        types = typestore().types
        linear, angular = (types["geometry_msgs/msg/Vector3"](x=x, y=0.0, z=0.0) for x in (vx, 0.0))
        return self.add("teleop", "geometry_msgs/msg/Twist", receive_ms, linear=linear, angular=angular)

    def width(self, receive_ms: float, width_m: float) -> BagBuilder:
        return self.add("width", "std_msgs/msg/Float64", receive_ms, data=width_m)

    def gripper(self, receive_ms: float, width_m: float) -> BagBuilder:
        layout = typestore().types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        data = np.array([width_m])
        return self.add("gripper_command", "std_msgs/msg/Float64MultiArray", receive_ms, layout=layout, data=data)

    def say(self, receive_ms: float, text: str = COMMAND) -> BagBuilder:
        return self.add("language_command", "std_msgs/msg/String", receive_ms, data=text)

    def mark(self, receive_ms: float, event: str, episode: int = 0, task: str = "pick_red") -> BagBuilder:
        text = EpisodeMarker(event, episode, task, COMMAND).to_text()
        return self.add("episode", "std_msgs/msg/String", receive_ms, data=text)

    def move(self, from_ms: int, to_ms: int, vx: float = 0.1) -> BagBuilder:
        """The robot at work: cameras at 20 Hz (the shade counts the ticks), state at 50 Hz, twists at 10 Hz."""
        for stamp_ms in range(from_ms, to_ms, 50):
            for camera in ("static", "wrist"):
                self.image(camera, stamp_ms, 2 * (stamp_ms // 50) % 250)
        for stamp_ms in range(from_ms, to_ms, 20):
            self.pose(stamp_ms, x_m=stamp_ms / 1e4).joints(stamp_ms)
        for stamp_ms in range(from_ms, to_ms, 100):
            self.twist(stamp_ms, vx)
        return self

    def noise(self, topic: str, images: int) -> BagBuilder:
        """Raw images of noise, 50 kB each, that no robot's file names: what does not compress, in several chunks."""
        pixels = np.random.default_rng(1).integers(0, 256, (images, 50_000), dtype=np.uint8)
        for number, data in enumerate(pixels):
            self.add(
                topic.lstrip("/"), "sensor_msgs/msg/Image", 2000 * number / images, header=header(START_NS),
                height=100, width=500, encoding="mono8", is_bigendian=0, step=500, data=data,
            )  # fmt: skip
        return self

    def without(self, topic: str) -> BagBuilder:
        self.messages = [entry for entry in self.messages if entry[1] != f"/{topic}"]
        return self

    def write(self, folder: Path) -> Path:
        with BagWriter(folder) as writer:
            for topic, kind in sorted({(topic, kind) for _, topic, kind, _ in self.messages}):
                writer.add_topic(topic, kind)
            for receive_ns, topic, kind, message in sorted(self.messages, key=lambda entry: entry[0]):
                writer.write(topic, receive_ns, bytes(typestore().serialize_cdr(message, kind)))
        return folder


def read_bag(path: str | Path, *args: Any, **kwargs: Any) -> tuple[list[Episode], DecodeReport]:
    """All episodes of one bag and the report, for the arguments of `BagReader`; BagError if there is no episode."""
    reader = BagReader(absolute(path), *args, **kwargs)
    episodes = list(reader.episodes())
    if not episodes:
        raise BagError(f"no usable episode in the bag {path}; {explain_empty(reader.report)}")
    return episodes, reader.report


@pytest.fixture
def bag() -> Callable[[], BagBuilder]:
    return BagBuilder


@pytest.fixture
def demonstration() -> BagBuilder:
    """Two seconds of a demonstration with markers: 20 ticks, the first at START_NS, all usable."""
    built = BagBuilder().mark(-10, "start").say(-9).gripper(-8, 0.08).image("static", -40, 0).image("wrist", -40, 0)
    built.pose(-20).joints(-20).twist(-5, 0.0)
    return built.move(0, 2050).mark(2000.5, "success")


@pytest.fixture(scope="session")
def robot() -> Robot:
    return load_robot("tabletop")


@pytest.fixture(scope="session")
def spec() -> ObservationSpec:
    return ObservationSpec((Camera("static", 8, 8), Camera("wrist", 8, 8)), ("ee_x", "gripper_opening"))


@pytest.fixture(scope="session")
def timing() -> Timing:
    return Timing(control_hz=10.0, history=4, chunk=8, settle_s=0.02)
