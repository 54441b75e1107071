# SPDX-License-Identifier: Apache-2.0
"""Write a rosbag2 bag (MCAP) from serialised messages, for machines where `ros2 bag record` is not installed."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.datasets.errors import BagError

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

PARTIAL = ".partial"
SAVE_EVERY_NS = 1_000_000_000
_FOREVER = QosTime(9223372036, 854775807)  # what rosbag2 writes for a deadline or lifespan that is not set


@dataclasses.dataclass(frozen=True)
class TopicQos:
    """What a topic's publishers offer, in the lower-case names of rmw; `ros2 bag play` offers the same again.

    reliability: "reliable" or "best_effort"; durability: "volatile" or "transient_local".
    """

    reliability: str = "reliable"
    durability: str = "volatile"

    def offered(self) -> Qos:
        """Return it as rosbag2 stores it; recorders do not know the publisher's history, so it stays unknown."""
        if self.reliability not in ("reliable", "best_effort") or self.durability not in (
            "volatile",
            "transient_local",
        ):
            raise BagError(f"{self}; allowed: reliable or best_effort, and volatile or transient_local")
        reliability = QosReliability[self.reliability.upper()]
        durability = QosDurability[self.durability.upper()]
        automatic = QosLiveliness.AUTOMATIC
        return Qos(QosHistory.UNKNOWN, 0, reliability, durability, _FOREVER, _FOREVER, automatic, _FOREVER, False)


class BagWriter:
    """A bag that appears under its name only when it is complete.

    Until `close` everything lies in `NAME.partial/NAME/`. When the process dies, what was written so far stays there,
    all but the last second; after an exception inside `with`, all of it, as a readable bag. Not thread-safe.
    `definitions` are those of the message types; by default the common interfaces of ROS 2. `messages` counts what was
    written.

    Raises:
        BagError: `folder` or its `.partial` exists already.
    """

    def __init__(self, folder: str | Path, definitions: Typestore | None = None) -> None:
        self.folder = Path(folder)
        self._definitions = definitions or typestore()
        self.partial = self.folder.with_name(self.folder.name + PARTIAL)
        for path in (self.folder, self.partial):
            if path.exists():
                raise BagError(f"{path} exists already and is not overwritten; record under another name or move it")
        # Version 9 of the metadata is what Jazzy and Kilted write.
        self._writer = Writer(self.partial / self.folder.name, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Connection] = {}
        self.messages = 0
        self._saved_ns = 0
        self._closed = False

    def add_topic(self, topic: str, msgtype: str, qos: TopicQos | None = None) -> None:
        """Declare a topic (full name, `package/msg/Type`) before its first message. Its definition goes into the bag.

        Raises:
            BagError: the topic is declared already, or the type is not one of ROS 2's common interfaces.
        """
        if topic in self._connections:
            raise BagError(f"topic {topic!r} is already in the bag {self.folder}; declare each topic once")
        if msgtype not in self._definitions.types:
            raise BagError(
                f"topic {topic!r} has the type {msgtype!r}, whose definition is not known here; record it with "
                "`ros2 bag record`, or leave it out of the robot's file"
            )
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=self._definitions, offered_qos_profiles=[(qos or TopicQos()).offered()]
        )

    def write(self, topic: str, receive_ns: int, data: bytes) -> None:
        """Append one message: `data` is its CDR serialisation, as a raw subscription hands it over.

        Raises:
            BagError: the topic was not declared.
        """
        connection = self._connections.get(topic)
        if connection is None:
            declared = ", ".join(sorted(self._connections)) or "none"
            raise BagError(f"topic {topic!r} is not declared in the bag {self.folder}; declared: {declared}")
        self._writer.write(connection, receive_ns, data)
        self.messages += 1
        if receive_ns - self._saved_ns > SAVE_EVERY_NS:
            self._save()
            self._saved_ns = receive_ns

    def close(self) -> Path:
        """Complete the bag, give it its name and return that folder. Closing twice does nothing more.

        Raises:
            BagError: somebody else took the name meanwhile; the complete bag stays in `.partial`.
        """
        if self._closed:
            return self.folder
        self._finish()
        if self.folder.exists():
            raise BagError(f"{self.folder} was made by another program meanwhile; the bag is {self._writer.path}")
        self._writer.path.rename(self.folder)
        self.partial.rmdir()
        return self.folder

    def abort(self) -> Path:
        """Complete the bag but leave it in `.partial`, and return where it is. Nothing recorded is lost."""
        if not self._closed:
            self._finish()
        return self._writer.path

    def _save(self) -> None:
        """Hand what was written to the operating system, so that it survives this process."""
        storage = self._writer.storage
        if isinstance(storage, McapWriter):
            storage.close_chunk()
            storage.bio.flush()

    def _finish(self) -> None:
        self._closed = True
        self._writer.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


@functools.cache
def typestore() -> Typestore:
    """Return the message definitions of ROS 2's common interfaces (they are the same in Jazzy and Kilted)."""
    return get_typestore(Stores.ROS2_JAZZY)
