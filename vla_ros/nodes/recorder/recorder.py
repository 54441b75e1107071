# SPDX-License-Identifier: Apache-2.0
"""The recorder node."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.datasets.bags.episodes.markers import EPISODE_TYPE, EpisodeMarker
from vla_ros.datasets.bags.writer import BagWriter, TopicQos
from vla_ros.datasets.errors import BagError
from vla_ros.grid import Grid
from vla_ros.nodes.common import startup
from vla_ros.nodes.common.qos import LATCHED_QOS, STATE_QOS, message_class, subscribe_latched
from vla_ros.nodes.recorder.recorded_topic import RecordedTopic, header_stamp_ns, robot_topics
from vla_ros.nodes.simulator.messages import time_message
from vla_ros.robot import load_robot

SILENT_AFTER_S = 1.0
MARKER_ARRIVES_S = 1.0
# Required to start an episode: some seconds of raw images, minutes of compressed ones.
MIN_FREE_BYTES = 200 * 10**6


class RecorderNode(Node):
    """Gates, marks and writes episodes."""

    def __init__(self, *, steady_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__("recorder")
        self.exit_status = 0
        self._steady_s = steady_s
        declare = startup.declare
        robot_file = declare(self, "robot", "tabletop", "Robot file: a path, or a name in config/robots")
        output = declare(self, "output", "", "Folder of the bag; must not exist yet")
        self._write = declare(self, "write", True, "Write a bag; false: only gate and mark episodes")
        declare(self, "task", "", "Name of the task, for the markers", fixed=False)
        description = "Rate at which a simulator in lockstep waits for the recorder [Hz]; 0: no lockstep"
        lockstep_hz = declare(self, "lockstep_hz", 0.0, description, low=0.0, high=50.0)
        self._lockstep = Grid(lockstep_hz) if lockstep_hz else None
        self._recorded_ns = 0
        if self._write and not output:
            raise BagError("parameter output is empty; set it to a folder (-p output:=bags/NAME), or use write:=false")
        robot, name = load_robot(robot_file), self.resolve_topic_name
        self._language, self._gripper = name(robot.language.topic), name(robot.gripper_command.topic)
        self._demonstrated = name(robot.demonstrated_twist.topic)
        self._streams = {stream.topic: stream for stream in robot_topics(robot, name)}
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
        # Now instead of at the first episode, since it takes a tenth of a second; and last, so that nothing is left
        # behind if something above fails.
        self._writer = self._open_bag(Path(output)) if self._write else None
        where = f"writing {output}" if self._write else "marking episodes only"
        self.get_logger().info(f"ready: {where}; waiting for ~/start")

    def _on_message(self, stream: RecordedTopic, data: bytes) -> None:
        stream.heard_s = self._steady_s()
        if stream.repeated:
            stream.keep(data)
        if self._episode is not None:
            stream.count += 1
            self._record(stream.topic, self._now_ns(), data)
            if self._lockstep is not None and stream.stamped:
                stream.stamp_ns = header_stamp_ns(data)
                self._report_recorded(self._lockstep)

    def _on_language(self, stream: RecordedTopic, data: bytes) -> None:
        """Record a latched message once, although it arrives twice."""
        if data != stream.last:
            self._on_message(stream, data)

    def _report_recorded(self, lockstep: Grid) -> None:
        """Let the simulator continue once everything up to a tick of the control grid is written."""
        stamps = [stream.stamp_ns for stream in self._streams.values() if stream.stamped]
        instant_ns = lockstep.start_ns(lockstep.tick_at(min(stamps)))
        if instant_ns > self._recorded_ns:
            self._report(instant_ns)

    def _report(self, instant_ns: int) -> None:
        self._recorded_ns = instant_ns
        self._recorded.publish(time_message(instant_ns))

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self._why_not()
        if reason is not None:
            self.get_logger().warning(f"cannot start an episode: {reason}")
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
        if self._lockstep is not None:
            self._report(self._lockstep.start_ns(self._lockstep.tick_at(start_ns)))
        response.success = True
        response.message = self._episode.to_text()
        return response

    def _why_not(self) -> str | None:
        """Return why no episode can start now, and the way out; None if one can."""
        if self._episode is not None:
            return f"episode {self._episode.episode} is running; end it with ~/success, ~/failure or ~/discard"
        for stream in self._streams.values():
            if not stream.required:
                continue
            if stream.heard_s is None:
                return f"nothing received on {stream.topic} ({stream.type}); start its publisher"
            silent_s = self._steady_s() - stream.heard_s
            if silent_s > SILENT_AFTER_S:
                return f"{stream.topic} has been silent for {silent_s:.1f} s; restart its publisher"
        if not self._command():
            return f"no language command received; publish one on {self._language} first (vla say TEXT)"
        free_bytes = shutil.disk_usage(self._writer.partial).free if self._writer is not None else MIN_FREE_BYTES
        if free_bytes < MIN_FREE_BYTES:
            free, required = f"{free_bytes / 1e6:.0f} MB", f"{MIN_FREE_BYTES / 1e6:.0f}"
            return f"only {free} free for the bag, {required} required; free disk space first"
        if self._now_ns() == 0:
            return "use_sim_time is true, but nothing received on /clock; start the simulation first"
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
        if self._lockstep is not None and self.context.ok():
            self._recorded.publish(Time())
        counts = {stream.topic: stream.count for stream in self._streams.values()}
        needed = [stream.topic for stream in self._streams.values() if stream.required] + [self._demonstrated]
        empty = [topic for topic in needed if not counts[topic]]
        if empty and event == "success":
            self.get_logger().warning(f"episode {self._episodes - 1} contains no messages on {', '.join(empty)}")
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
        """Stop writing and discard the running episode; return the error for the operator."""
        writer, self._writer = self._writer, None
        assert writer is not None
        with contextlib.suppress(OSError):  # full disk: what was written stays, and reads like a killed recorder's bag
            writer.abort()
        if self._episode is not None:
            self._end("discard")
        return BagError(
            f"cannot write the bag: {error}; {writer.partial} holds everything until now, and training skips the "
            "unfinished episode; free disk space and restart the recorder"
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
        """Discard an open episode and complete the bag; remove it if it has no episodes."""
        try:
            if self._episode is not None:
                self.get_logger().warning(f"episode {self._episode.episode} was not ended; marking it as discarded")
                self._end("discard")
                self._markers.wait_for_all_acked(Duration(seconds=MARKER_ARRIVES_S))  # at `ros2 bag record`, say
        finally:  # also if the marker cannot be written: earlier episodes are in the bag
            writer, self._writer = self._writer, None
            if writer is not None and self._episodes:
                writer.close()
            elif writer is not None:
                writer.abort()
                shutil.rmtree(writer.partial)


def _offered(qos: QoSProfile) -> TopicQos:
    return TopicQos(qos.reliability.name.lower(), qos.durability.name.lower())
