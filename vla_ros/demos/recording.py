# SPDX-License-Identifier: Apache-2.0
"""Open a recorded bag, whoever wrote it, and iterate its messages; what is wrong with it is said in words."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError

from vla_ros.demos.bag_writer import PARTIAL, typestore
from vla_ros.demos.errors import BagError
from vla_ros.robot import RobotError, match_topic

STORAGE_FILES = ("*.mcap", "*.mcap.zstd", "*.db3", "*.db3.zstd")

# What rosbags raises over a file that it cannot read; for sqlite3, also in the middle of one.
READ_ERRORS = (AnyReaderError, ReaderError, apsw.Error)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Topic:
    """A topic of a bag: its message type and how many messages it has, as the bag's index says."""

    type: str
    messages: int


class Recording:
    """An open bag. Times are receive times in ns: when the recorder got a message."""

    def __init__(self, path: Path, reader: AnyReader) -> None:
        self.path = path
        self._reader = reader
        self.topics = {
            name: Topic(info.msgtype or "several types", info.msgcount) for name, info in reader.topics.items()
        }
        self.start_ns = reader.start_time
        self.end_ns = reader.end_time - 1  # of the last message; rosbags counts to the nanosecond after it

    def find(self, wanted: Mapping[str, tuple[str, str]]) -> dict[str, str]:
        """Look up topics by what they are needed for: purpose -> (relative topic, type) to purpose -> name in the bag.

        Raises:
            BagError: some are missing or have another type; the message lists them all, and what the bag has.
        """
        found, problems = {}, []
        for purpose, (topic, kind) in wanted.items():
            try:
                name = match_topic(topic, self.topics)
            except RobotError as error:
                problems.append(f"{purpose}: {error}")
                continue
            if name is None:
                problems.append(f"{purpose}: there is no topic {topic!r}")
            elif self.topics[name].type != kind:
                problems.append(f"{purpose}: topic {name!r} has the type {self.topics[name].type}, not {kind}")
            else:
                found[purpose] = name
        if problems:
            has = ", ".join(f"{name} ({topic.type})" for name, topic in sorted(self.topics.items())) or "nothing"
            raise BagError(
                f"bag {self.path} does not fit the robot's file:\n  " + "\n  ".join(problems) + f"\nThe bag has: {has}."
                "\nRecord the missing topics, or write the topics into the robot's file as the bag has them."
            )  # fmt: skip
        return found

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """Yield (topic, receive time, message) of `topics`, in the order in which they were received.

        Raises:
            BagError: the index counts messages that can't be found, or one can't be read.
        """
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        if not connections:
            return
        count = 0
        for connection, receive_ns, data in self._reader.messages(connections):
            count += 1
            try:
                message = self._reader.deserialize(data, connection.msgtype)
            except (AnyReaderError, SerdeError, ValueError, IndexError, struct.error) as error:
                raise BagError(f"bag {self.path}: a message on {connection.topic} is damaged: {error}") from None
            yield connection.topic, receive_ns, message
        expected = sum(self.topics[topic].messages for topic in topics)
        if count == 0 and expected > 0:
            names = ", ".join(sorted(topics))
            raise BagError(
                f"bag {self.path}: metadata.yaml counts {expected} messages on {names}, but none can be found in the "
                "storage. `ros2 bag reindex` leaves bags like this: its QoS profiles differ from the storage's. Write "
                "it anew with `ros2 bag convert`"
            )

    def receive_times_ns(self) -> dict[str, list[int]]:
        """Return the receive times of all messages by topic, without decoding any."""
        times_ns: dict[str, list[int]] = {name: [] for name in self.topics}
        for connection, receive_ns, _ in self._reader.messages():
            times_ns[connection.topic].append(receive_ns)
        return times_ns


@contextlib.contextmanager
def open_bag(path: str | Path) -> Iterator[Recording]:
    """Open a finished rosbag2 folder (MCAP or sqlite3, compressed or not, split or not).

    Raises:
        BagError: it is not there, unfinished, empty or damaged.
    """
    path = Path(path)
    _require_finished(path)
    try:
        with AnyReader([path], default_typestore=typestore()) as reader:
            if reader.message_count == 0:
                raise BagError(f"bag {path} is empty: no message was recorded; were the publishers running?")
            yield Recording(path, reader)
    except READ_ERRORS as error:
        raise BagError(f"bag {path} can't be read: {error}") from None
    except struct.error as error:
        raise BagError(f"bag {path} is damaged: {error}; copy it again from where it was recorded") from None


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """Return the bags that `paths` mean: each a bag's folder (it has a metadata.yaml) or a folder of such, by name.

    Unfinished recordings inside a folder of bags are left out with a warning.

    Raises:
        BagError: a path does not exist, is no folder, is an unfinished bag, or holds no bag.
    """
    bags: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir() or _is_bag(path) or path.name.endswith(PARTIAL) or storage_files(path):
            _require_finished(path)
            bags.append(path)
            continue
        inside = [child for child in sorted(path.iterdir()) if child.is_dir()]
        for child in inside:
            if not _is_bag(child) and (child.name.endswith(PARTIAL) or storage_files(child)):
                logger.warning("%s is an unfinished recording and is left out", child)
        found = [child for child in inside if _is_bag(child) and not child.name.endswith(PARTIAL)]
        if not found:
            raise BagError(f"{path} is no bag and holds none: a bag is a folder with a metadata.yaml")
        bags += found
    return _without_repeats(bags)


def _require_finished(path: Path) -> None:
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if not path.is_dir():
        raise BagError(f"{path} is a file; a bag is the folder around it, with its metadata.yaml: give {path.parent}")
    inner = path / path.name.removesuffix(PARTIAL)
    if path.name.endswith(PARTIAL) and _is_bag(inner):
        raise BagError(
            f"{path} is the recording of a program that failed before it was done, but whole up to there: look at it "
            f"with `vla inspect {inner}`, and keep it with `mv {inner} {path.with_name(inner.name)}`"
        )
    if path.name.endswith(PARTIAL) or (not _is_bag(path) and storage_files(path)):
        raise BagError(
            f"{path} is an unfinished bag: there is no metadata.yaml, its recorder is still running or was killed. Let "
            f"the recorder finish, or save what is there with `vla inspect --recover {path}`"
        )
    if not _is_bag(path):
        raise BagError(f"{path} is no bag: it has no metadata.yaml")


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file()


def storage_files(path: Path) -> list[Path]:
    """Return the files in a folder that hold messages, in the order in which they were recorded."""
    return sorted(file for pattern in STORAGE_FILES for file in path.glob(pattern))


def _without_repeats(paths: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())
