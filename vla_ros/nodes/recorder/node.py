# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations: episodes with a start, an outcome and a language command, in a rosbag2 bag (MCAP).

Services    ~/start refuses, naming the topic, while a camera is silent or no language command is known
            ~/success, ~/failure, ~/discard end the episode (all std_srvs/Trigger)
Publishes   episode (std_msgs/String, latched): JSON markers of starts and ends, which the bag holds as well
Subscribes  every topic of the robot's file, as serialised bytes that go into the bag untouched

With write:=false it writes no bag, but gates and marks episodes beside `ros2 bag record`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.datasets.bags.episodes.markers import EPISODE_TYPE, INTERVENTION_TYPE, EpisodeMarker
from vla_ros.datasets.bags.writer import BagWriter, TopicQos
from vla_ros.datasets.errors import BagError
from vla_ros.nodes.common import startup
from vla_ros.nodes.common.qos import (
    LATCHED_QOS,
    STATE_QOS,
    STATIC_TRANSFORMS_QOS,
    TRANSFORMS_QOS,
    message_class,
    subscribe_latched,
)
from vla_ros.nodes.simulator.messages import time_message
from vla_ros.robot import TRANSFORMS, Robot, load_robot

SILENT_AFTER_S = 1.0
# An episode does not start with less than that: some seconds of raw pictures, minutes of compressed ones.
FREE_BYTES = 200 * 10**6
CDR_HEADER_BYTES = 4
# Deep enough for the writer to pause on a full disk cache; best effort, because it takes whatever a camera offers.
CAMERA_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)


@dataclasses.dataclass
class Recorded:
    """A topic of the robot's file: its full name and type, and what has come in.

    required: an episode cannot start while it is silent. repeated: its last message opens every episode, since it may
    have been published long before; of static transforms, the last one about each set of frames.
    """

    topic: str
    type: str
    qos: QoSProfile
    required: bool = False
    repeated: bool = False
    stamped: bool = False  # its time is its header's stamp
    kept: dict[tuple[str, ...], bytes] = dataclasses.field(default_factory=dict)  # what opens every episode
    stamp_ns: int = 0
    heard_s: float | None = None  # steady clock
    count: int = 0  # in the running episode

    @property
    def last(self) -> bytes | None:
        """The last message, of a topic that is `repeated` and no other."""
        return next(reversed(self.kept.values()), None)

    def keep(self, data: bytes) -> None:
        """Remember a message for the episodes to come."""
        about: tuple[str, ...] = ()
        if self.type == TRANSFORMS:
            message = deserialize_message(data, message_class(TRANSFORMS))
            about = tuple(sorted(one.child_frame_id for one in message.transforms))
        self.kept.pop(about, None)
        self.kept[about] = data


class RecorderNode(Node):
    """Gate, mark and write episodes."""

    def __init__(self, *, steady_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__("recorder")
        self.exit_status = 0
        self._steady_s = steady_s
        declare = startup.declare
        robot_file = declare(self, "robot", "tabletop", "Robot file: a path, or a name in config/robots")
        output = declare(self, "output", "", "Folder of the bag; it must not exist yet")
        self._write = declare(self, "write", True, "Write the bag; false: only gate and mark episodes")
        declare(self, "task", "", "Name of the task, written into the markers", fixed=False)
        description = "With a simulator in lockstep: rate of the instants that it waits for [Hz]; 0: none"
        lockstep_hz = declare(self, "lockstep_hz", 0.0, description, low=0.0, high=50.0)
        self._lockstep_ns = round(1e9 / lockstep_hz) if lockstep_hz else 0  # 0: none
        self._recorded_ns = 0
        if self._write and not output:
            raise BagError("output is empty; set it to the folder of the bag: -p output:=bags/NAME (or write:=false)")
        self._streams = {stream.topic: stream for stream in self._wanted(load_robot(robot_file))}
        self._episode: EpisodeMarker | None = None
        self._episodes = 0
        self._markers = self.create_publisher(String, topics.EPISODE, LATCHED_QOS)
        self._recorded = self.create_publisher(Time, topics.RECORDED_UNTIL, STATE_QOS)
        for stream in self._streams.values():
            kind = message_class(stream.type)
            if stream.topic == self._language:
                subscribe_latched(self, kind, stream.topic, functools.partial(self._on_language, stream), raw=True)
            else:
                on_message = functools.partial(self._on_message, stream)
                self.create_subscription(kind, stream.topic, on_message, stream.qos, raw=True)
        self.create_service(Trigger, "~/start", self._on_start)
        for event in ("success", "failure", "discard"):
            self.create_service(Trigger, f"~/{event}", functools.partial(self._on_end, event))
        # Now, not at the first episode: it takes a tenth of a second, which that episode's cameras would wait; and
        # last, so that nothing is left behind when something above fails.
        self._writer = self._open_bag(Path(output)) if self._write else None
        where = f"writes {output}" if self._write else "marks episodes only"
        self.get_logger().info(f"ready: {where}; waits for ~/start")

    def _wanted(self, robot: Robot) -> list[Recorded]:
        """The robot's topics by full name, each once: a demonstrator may be the commander and share its topic."""
        name = self.resolve_topic_name
        sensors = (*robot.cameras.values(), robot.ee_pose, robot.gripper_state)
        streams = [
            Recorded(
                name(sensor.topic),
                sensor.type,
                TRANSFORMS_QOS if sensor.type == TRANSFORMS else CAMERA_QOS,
                required=True,
                stamped=sensor.stamp == "header" and sensor.type != TRANSFORMS,  # which have a stamp each
            )
            for sensor in sensors
            if sensor is not None
        ]
        if robot.ee_pose is not None and robot.ee_pose.static_topic is not None:
            static = name(robot.ee_pose.static_topic)
            streams.append(Recorded(static, TRANSFORMS, STATIC_TRANSFORMS_QOS, repeated=True))
        self._language = name(robot.language.topic)
        self._gripper = name(robot.gripper_command.topic)
        self._demonstrated = name(robot.demonstrated_twist.topic)
        streams += [
            Recorded(self._language, robot.language.type, LATCHED_QOS, repeated=True),
            Recorded(self._gripper, robot.gripper_command.type, RELIABLE_QOS, repeated=True),
            Recorded(self._demonstrated, robot.demonstrated_twist.type, RELIABLE_QOS),
            Recorded(
                name(robot.twist_command.topic),
                robot.twist_command.type,
                RELIABLE_QOS,
                stamped=robot.twist_command.stamp == "header",
            ),
            Recorded(name(topics.TASK_SUCCESS), "std_msgs/msg/Bool", RELIABLE_QOS),
            Recorded(name(topics.INTERVENTION), INTERVENTION_TYPE, LATCHED_QOS, repeated=True),
        ]
        return list({stream.topic: stream for stream in streams}.values())

    def _on_message(self, stream: Recorded, data: bytes) -> None:
        stream.heard_s = self._steady_s()
        if stream.repeated:
            stream.keep(data)
        if self._episode is not None:
            stream.count += 1
            self._record(stream.topic, self._now_ns(), data)
            if self._lockstep_ns and stream.stamped:
                stream.stamp_ns = _stamp_ns(data)
                self._report_recorded()

    def _on_language(self, stream: Recorded, data: bytes) -> None:
        """Who publishes latched is heard twice, and recorded once."""
        if data != stream.last:
            self._on_message(stream, data)

    def _report_recorded(self) -> None:
        """Let the simulator go on when everything of an instant of the control grid has been written."""
        stamps = [stream.stamp_ns for stream in self._streams.values() if stream.stamped]
        instant_ns = min(stamps) // self._lockstep_ns * self._lockstep_ns
        if instant_ns > self._recorded_ns:
            self._report(instant_ns)

    def _report(self, instant_ns: int) -> None:
        self._recorded_ns = instant_ns
        self._recorded.publish(time_message(instant_ns))

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._why_not()
        if reason is not None:
            self.get_logger().warning(f"start refused: {reason}")
            response.message = reason
            return response
        self._episode = EpisodeMarker("start", self._episodes, self.get_parameter("task").value, self._command())
        self._episodes += 1
        start_ns = self._now_ns()
        self._mark(self._episode, start_ns)
        for stream in self._streams.values():
            stream.count = stream.stamp_ns = 0
            for data in stream.kept.values():
                self._record(stream.topic, start_ns, data)
        if self._lockstep_ns:
            self._report(start_ns // self._lockstep_ns * self._lockstep_ns)
        response.success = True
        response.message = self._episode.to_text()
        return response

    def _why_not(self) -> str | None:
        """Why an episode cannot start now, with the way out; None when it can."""
        if self._episode is not None:
            return f"episode {self._episode.episode} is running; end it with ~/success, ~/failure or ~/discard"
        for stream in self._streams.values():
            if not stream.required:
                continue
            if stream.heard_s is None:
                return f"nothing has arrived on {stream.topic} ({stream.type}); start its publisher"
            silent_s = self._steady_s() - stream.heard_s
            if silent_s > SILENT_AFTER_S:
                return f"{stream.topic} has been silent for {silent_s:.1f} s; restart its publisher"
        if not self._command():
            return f"no language command is known; publish one on {self._language} first (vla say TEXT)"
        free_bytes = shutil.disk_usage(self._writer.partial).free if self._writer is not None else FREE_BYTES
        if free_bytes < FREE_BYTES:
            return f"{free_bytes / 1e6:.0f} MB are free for the bag, fewer than {FREE_BYTES / 1e6:.0f}; make room first"
        if self._now_ns() == 0:
            return "use_sim_time is true, but nothing has arrived on /clock; start the simulation, or set it to false"
        return None

    def _command(self) -> str:
        data = self._streams[self._language].last
        return "" if data is None else deserialize_message(data, String).data.strip()

    def _on_end(self, event: str, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._episode is None:
            response.message = "no episode is running; start one with ~/start"
            return response
        counts = self._end(event)
        response.success = True
        response.message = json.dumps({"episode": self._episodes - 1, "event": event, "messages": counts})
        return response

    def _end(self, event: str) -> dict[str, int]:
        assert self._episode is not None
        self._mark(dataclasses.replace(self._episode, event=event), self._now_ns())
        self._episode = None
        if self._lockstep_ns and self.context.ok():
            self._recorded.publish(Time())
        counts = {stream.topic: stream.count for stream in self._streams.values()}
        needed = [stream.topic for stream in self._streams.values() if stream.required] + [self._demonstrated]
        empty = [topic for topic in needed if not counts[topic]]
        if empty and event == "success":
            self.get_logger().warning(f"episode {self._episodes - 1} holds no message of {', '.join(empty)}")
        return counts

    def _mark(self, marker: EpisodeMarker, time_ns: int) -> None:
        message = String(data=marker.to_text())
        self._record(self._markers.topic_name, time_ns, serialize_message(message))
        if self.context.ok():
            self._markers.publish(message)

    def _record(self, topic: str, time_ns: int, data: bytes) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(topic, time_ns, data)
        except OSError as error:
            raise self._give_up(error) from None

    def _give_up(self, error: OSError) -> BagError:
        """Write no more, and tell everybody that the running episode is none; returns what the operator is told."""
        writer, self._writer = self._writer, None
        assert writer is not None
        with contextlib.suppress(OSError):  # of a full disk: what was written stays, and is read as a killed recorder's
            writer.abort()
        if self._episode is not None:
            self._end("discard")
        return BagError(
            f"the bag can't be written any more: {error}; what was written until now is in {writer.partial}, without "
            "the running episode's end, so training leaves that one out; make room and start the recorder anew"
        )

    def _open_bag(self, folder: Path) -> BagWriter:
        folder.parent.mkdir(parents=True, exist_ok=True)
        writer = BagWriter(folder)
        writer.add_topic(self._markers.topic_name, EPISODE_TYPE, _offered(LATCHED_QOS))
        for stream in self._streams.values():
            writer.add_topic(stream.topic, stream.type, _offered(stream.qos))
        return writer

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def close(self) -> None:
        """End an open episode as discarded, and complete the bag; one without any episode is removed again."""
        try:
            if self._episode is not None:
                self.get_logger().warning(f"episode {self._episode.episode} was not ended; it is marked as discarded")
                self._end("discard")
        finally:  # also when the marker can't be written: the bag holds the episodes from before
            writer, self._writer = self._writer, None
            if writer is not None and self._episodes:
                writer.close()
            elif writer is not None:
                writer.abort()
                shutil.rmtree(writer.partial)


def _stamp_ns(data: bytes) -> int:
    """The stamp of a serialised message that begins with a std_msgs/Header, without deserialising the rest."""
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, CDR_HEADER_BYTES)
    return seconds * 1_000_000_000 + nanoseconds


def _offered(qos: QoSProfile) -> TopicQos:
    return TopicQos(qos.reliability.name.lower(), qos.durability.name.lower())


def main(args: Sequence[str] | None = None) -> int:
    """Run the recorder until it is stopped."""
    startup.answer_help("recorder_node", __doc__, args)
    return startup.run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
