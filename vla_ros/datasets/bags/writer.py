# SPDX-License-Identifier: Apache-2.0
"""Write a rosbag2 bag (MCAP) from serialized messages, for machines without `ros2 bag record`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys.store import Typestore

from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.errors import BagError
from vla_ros.files import PARTIAL

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

SAVE_EVERY_NS = 1_000_000_000
_FOREVER = QosTime(9223372036, 854775807)  # rosbag2's value for a deadline or lifespan that is not set


@dataclasses.dataclass(frozen=True)
class TopicQos:
    """The QoS that a topic's publishers offer, and that `ros2 bag play` offers again."""

    reliability: str = "reliable"  # or "best_effort"
    durability: str = "volatile"  # or "transient_local"

    def offered(self) -> Qos:
        """Return it as rosbag2 stores it; recorders do not know the publisher's history, so it stays unknown."""
        if self.reliability not in ("reliable", "best_effort"):
            raise BagError(f"QoS reliability must be reliable or best_effort; got {self.reliability!r}")
        if self.durability not in ("volatile", "transient_local"):
            raise BagError(f"QoS durability must be volatile or transient_local; got {self.durability!r}")
        reliability, durability = QosReliability[self.reliability.upper()], QosDurability[self.durability.upper()]
        automatic = QosLiveliness.AUTOMATIC
        return Qos(QosHistory.UNKNOWN, 0, reliability, durability, _FOREVER, _FOREVER, automatic, _FOREVER, False)


class BagWriter:
    """Writes a bag that appears under its name only once it is complete. Not thread-safe.

    Until `close` everything lies in `NAME.partial/NAME/`. If the process dies, what was written stays there, except
    for the last second; after an exception inside `with`, all of it does, as a readable bag. Message types are those of
    `definitions`, ROS 2's common interfaces by default.

    Raises:
        BagError: `folder` or its `.partial` already exists, or cannot be made.
    """

    def __init__(self, folder: str | Path, definitions: Typestore | None = None) -> None:
        self.folder = Path(folder)
        self._definitions = definitions or typestore()
        self.partial = self.folder.with_name(self.folder.name + PARTIAL)
        for path in (self.folder, self.partial):
            if path.exists():
                raise BagError(f"{path} already exists and is not overwritten; choose another name or move it")
        # Jazzy and Kilted write version 9 of the metadata.
        self._writer = Writer(self.partial / self.folder.name, version=9, storage_plugin=StoragePlugin.MCAP)
        try:
            self._writer.open()
        except OSError as error:
            raise BagError(
                f"cannot write {folder}: {error.strerror} ({error.filename}); choose another folder"
            ) from error
        self._connections: dict[str, Connection] = {}
        self.messages = 0  # written so far
        self._saved_ns = 0
        self._closed = False

    def add_topic(self, topic: str, msgtype: str, qos: TopicQos | None = None) -> None:
        """Declare a topic (full name, `package/msg/Type`) before its first message; the bag stores its definition.

        Raises:
            BagError: The topic is already declared, or its type has no definition.
        """
        if topic in self._connections:
            raise BagError(f"topic {topic!r} is already declared in bag {self.folder}; declare each topic once")
        if msgtype not in self._definitions.types:
            raise BagError(
                f"topic {topic!r} has the type {msgtype!r}, whose definition is unknown; record it with `ros2 bag "
                "record`, or remove it from the robot file"
            )
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=self._definitions, offered_qos_profiles=[(qos or TopicQos()).offered()]
        )

    def write(self, topic: str, receive_ns: int, data: bytes) -> None:
        """Append one message, serialized as CDR, as a raw subscription delivers it; its topic must be declared."""
        connection = self._connections.get(topic)
        if connection is None:
            declared = ", ".join(sorted(self._connections)) or "none"
            raise BagError(f"topic {topic!r} is not declared in bag {self.folder}; declared topics: {declared}")
        self._writer.write(connection, receive_ns, data)
        self.messages += 1
        if receive_ns - self._saved_ns > SAVE_EVERY_NS:
            self._save()
            self._saved_ns = receive_ns

    def close(self) -> Path:
        """Complete the bag, rename it to its folder and return that. Closing twice does nothing more.

        Raises:
            BagError: The folder was created by another program meanwhile; the complete bag stays in `.partial`.
        """
        if self._closed:
            return self.folder
        self._finish()
        if self.folder.exists():
            raise BagError(f"{self.folder} was created by another program meanwhile; the bag is in {self._writer.path}")
        self._writer.path.rename(self.folder)
        self.partial.rmdir()
        return self.folder

    def abort(self) -> Path:
        """Complete the bag but leave it in `.partial`; return its path."""
        if not self._closed:
            self._finish()
        return self._writer.path

    def _save(self) -> None:
        """Flush to the operating system, so that what was written survives this process."""
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
