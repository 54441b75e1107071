# SPDX-License-Identifier: Apache-2.0
"""The messages of an open bag, of all its files together: one by one as received, or many at once as they lie.

What can't be read is left out and said in words: `Recording.damage`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.cdr.typestore import decoder
from vla_ros.datasets.bags.message_refs import Marked, Place, Places
from vla_ros.datasets.bags.storage.entries import Container, Damage, Piece, StoredTopic
from vla_ros.datasets.bags.storage.inflate import inflate_message, plain
from vla_ros.datasets.errors import BagError, unreadable
from vla_ros.robot import RobotError, match_topic

_READ_TOGETHER_BYTES = 1 << 21

SeePiece = Callable[[int, StoredTopic, Piece], None]  # file, topic, messages


@dataclasses.dataclass(frozen=True)
class Topic:
    """A topic of a bag: its message type and how many messages the bag has."""

    type: str
    messages: int


class Recording:
    """An open bag. Times are receive times in ns: when the recorder got a message.

    custom_data: what `ros2 bag record --custom-data` noted. tables: for `topic_tables`.
    """

    def __init__(
        self, path: Path, files: Sequence[Container], custom_data: Mapping[str, str], damage: Sequence[str]
    ) -> None:
        self.path = path
        self.custom_data = dict(custom_data)
        self._files = files
        self._damage = list(damage)
        # Messages that could not be read: topic -> where they are, and why the first could not.
        self._unread: dict[str, tuple[set[Place], str]] = {}
        self._kept: dict[Place, bytes] = {}
        self.tables: dict[str, Any] = {}
        self.topics = _topics(files)
        times_ns = [file.entries.time_ns for file in files if len(file.entries)]
        self.start_ns = int(min(times[0] for times in times_ns)) if times_ns else 0
        self.end_ns = int(max(times[-1] for times in times_ns)) if times_ns else 0

    @property
    def damage(self) -> tuple[str, ...]:
        """What of the bag is lost, in sentences; messages that are damaged are known once they were asked for."""
        unread = (
            f"{len(where)} of {self.topics[topic].messages} messages on {topic} are damaged and left out ({why})"
            for topic, (where, why) in sorted(self._unread.items())
        )
        return (*self._damage, *unread)

    def marked(self, places: Iterable[Places]) -> Marked:
        """Mark the messages at `places`."""
        marked = {number: np.zeros(len(file.entries), bool) for number, file in enumerate(self._files)}
        for some in places:
            for number, which in marked.items():
                which[some.entry[some.file == number]] = True
        return marked

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

        Messages of other topics are neither read nor decoded. Damaged ones are left out and told by `damage`.

        Raises:
            BagError: no message of one of the topics can be decoded.
        """
        for _, topic, receive_ns, message in self.placed_messages(topics):
            yield topic, receive_ns, message

    def placed_messages(
        self, topics: Collection[str], left_out: Marked | None = None
    ) -> Iterator[tuple[Place, str, int, Any]]:
        """Yield (place, topic, receive time, message) as `messages` does.

        left_out: messages that are good, and neither read nor decoded.
        """
        decoders: dict[int, Any] = {}
        good: collections.Counter[str] = collections.Counter()
        for number, which in (left_out or {}).items():
            good.update(self._names(number, which))
        for where, topic, receive_ns, data in self._read(topics, left_out):
            decode = decoders.get(id(topic))  # by identity: hashing its definition takes longer than most messages
            if decode is None:
                try:
                    decode = decoders[id(topic)] = decoder(topic)
                except Damage as error:
                    raise BagError(f"bag {self.path}, topic {topic.name}: {error}") from None
            try:
                message = decode(data)
            except Damage as error:
                self._note(topic.name, where, str(error))
                continue
            good[topic.name] += 1
            yield where, topic.name, receive_ns, message
        for name in topics:
            if name in self._unread and not good[name]:
                raise BagError(
                    f"bag {self.path}: no message on {name} can be read ({self._unread[name][1]}); copy the bag again "
                    "from where it was recorded"
                )

    @contextlib.contextmanager
    def kept(
        self, topics: Collection[str], others: Collection[str] = (), see: SeePiece | None = None
    ) -> Iterator[None]:
        """Read `topics` once for several passes over them: within the context their messages stay in memory.

        A pass decompresses every chunk that has one of the messages, however small they are. So in the same pass `see`
        is told of the `pieces` of `others`.
        """
        left_out = self.marked(())
        kept: dict[Place, bytes] = {}
        for number, topic, piece in self.pieces({*topics, *others}):
            if see is not None and topic.name in others:
                see(number, topic, piece)
            if topic.name in topics:
                left_out[number][piece.entry] = True
                columns = (column.tolist() for column in (piece.entry, piece.start, piece.stop))
                kept.update({(number, entry): piece.data[start:stop] for entry, start, stop in zip(*columns)})
        kept.update({where: data for where, _, _, data in self._read(topics, left_out)})
        self._kept = kept
        try:
            yield
        finally:
            self._kept = {}

    def pieces(self, topics: Collection[str]) -> Iterator[tuple[int, StoredTopic, Piece]]:
        """Yield (file, topic, messages) of `topics` as they lie in the files: all of them in one pass.

        Messages that are damaged, or compressed one by one, are left out and not told by `damage`.
        """
        for number, file in enumerate(self._files):
            keys = [key for key, topic in file.topics.items() if topic.name in topics]
            try:
                for piece in map(plain, file.pieces(np.flatnonzero(np.isin(file.entries.topic, keys)))):
                    key_of = file.entries.topic[piece.entry]
                    for key in set(key_of.tolist()):
                        yield number, file.topics[key], piece.chosen(key_of == key)
            except OSError as error:
                raise unreadable(self.path, error) from None

    def serialized(self) -> Iterator[tuple[StoredTopic, int, bytes]]:
        """Yield (topic, receive time, serialised message) of all messages, as received."""
        for _, topic, receive_ns, data in self._read(None):
            yield topic, receive_ns, data

    def read(self, places: Places) -> Iterator[bytes]:
        """Yield the serialised messages at `places`, which `pieces` found good.

        Raises:
            BagError: one is good no more.
        """
        first, count = 0, 1
        while first < len(places.file):
            file = self._files[places.file[first]]
            other = np.flatnonzero(places.file[first : first + count] != places.file[first])
            stop = first + (int(other[0]) if len(other) else count)
            entry = places.entry[first:stop]
            found: dict[int, bytes] = {}
            try:
                for piece in file.pieces(entry):
                    columns = (column.tolist() for column in (piece.entry, piece.start, piece.stop))
                    found.update((one, piece.data[begin:end]) for one, begin, end in zip(*columns))
            except OSError as error:
                raise unreadable(self.path, error) from None
            for one in entry.tolist():
                if one not in found:
                    raise BagError(f"bag {self.path} was changed while it was read; run the same command again")
                yield found[one]
            first = stop
            count = max(1, _READ_TOGETHER_BYTES // max(map(len, found.values())))

    def receive_times_ns(self) -> dict[str, NDArray[np.int64]]:
        """Return the receive times of all messages by topic, without reading any."""
        times_ns: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.topics}
        for file in self._files:
            for key, topic in file.topics.items():
                if topic.name in times_ns:  # others are declared and have no message
                    times_ns[topic.name].append(file.entries.time_ns[file.entries.topic == key])
        return {name: np.sort(np.concatenate(parts)) for name, parts in times_ns.items()}

    def stored_topics(self) -> dict[str, StoredTopic]:
        """Return the topics that have messages, as the first file that has one declares them."""
        return {topic.name: topic for file in reversed(self._files) for topic in file.topics.values()
                if topic.name in self.topics}  # fmt: skip

    def _read(
        self, topics: Collection[str] | None, left_out: Marked | None = None
    ) -> Iterator[tuple[Place, StoredTopic, int, bytes]]:
        """Yield (where it is, topic, receive time, serialised message) of `topics`, None for all, as received."""
        for number, entry, key, time_ns, block, offset in self._columns(self.places(topics, left_out)):
            file, where = self._files[number], (number, entry)
            topic = file.topics[key]
            try:
                data = self._kept.get(where) or inflate_message(file.read(key, time_ns, block, offset))
            except Damage as error:
                self._note(topic.name, where, str(error))
                continue
            except OSError as error:
                raise unreadable(self.path, error) from None
            yield where, topic, time_ns, data

    def places(self, topics: Collection[str] | None, left_out: Marked | None = None) -> Places:
        """Return where the messages of `topics`, None for all, are, in the order in which they were received."""
        found = []
        for number, file in enumerate(self._files):
            keys = [key for key, topic in file.topics.items() if topics is None or topic.name in topics]
            wanted = np.isin(file.entries.topic, keys)
            if left_out:
                wanted &= ~left_out[number]
            entry = np.flatnonzero(wanted)
            found.append(Places(np.full(len(entry), number), entry, file.entries.time_ns[entry]))
        return Places.joined(found)

    def _columns(self, places: Places) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Yield (file, entry, and the entry's columns) of the messages at `places`."""
        # Python's numbers are quick to use and large to keep: some at a time, of one file.
        for first, stop in places.runs():
            number, chosen = int(places.file[first]), places.entry[first:stop]
            table = self._files[number].entries
            columns = (column[chosen].tolist() for column in (table.topic, table.time_ns, table.block, table.offset))
            yield from zip(itertools.repeat(number), chosen.tolist(), *columns)

    def _names(self, number: int, which: NDArray[np.bool_]) -> collections.Counter[str]:
        """How many of some of a file's entries each topic has."""
        keys, counts = np.unique(self._files[number].entries.topic[which], return_counts=True)
        found: collections.Counter[str] = collections.Counter()
        for key, count in zip(keys.tolist(), counts.tolist()):
            found[self._files[number].topics[key].name] += count
        return found

    def _note(self, topic: str, where: Place, why: str) -> None:
        self._unread.setdefault(topic, (set(), why))[0].add(where)


def _topics(files: Sequence[Container]) -> dict[str, Topic]:
    """All topics that have a message."""
    types: dict[str, set[str]] = {}
    counts: collections.Counter[str] = collections.Counter()
    for file in files:
        for key, topic in file.topics.items():
            count = int((file.entries.topic == key).sum())
            if count:
                types.setdefault(topic.name, set()).add(topic.type)
                counts[topic.name] += count
    return {
        name: Topic(next(iter(kinds)) if len(kinds) == 1 else "several types", counts[name])
        for name, kinds in types.items()
    }
