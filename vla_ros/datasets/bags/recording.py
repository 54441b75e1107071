# SPDX-License-Identifier: Apache-2.0
"""The messages of an open bag, from all its files: one by one in order of receipt, or in batches as they are stored.

What can't be read is left out and described by `Recording.damage`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.cdr.messages import decoder
from vla_ros.datasets.bags.storage.container import Damage, MessageBatch, StorageFile, StoredTopic, inflate_message
from vla_ros.datasets.errors import BagError, unreadable
from vla_ros.errors import RobotError

_TOGETHER_BYTES = 1 << 21
_RUN = 4096
# A clock that goes back further was set back. Recorders that write in several threads store messages some milliseconds
# out of order: 6 ms at most in bags of rosbag2.
SET_BACK_NS = 1_000_000_000
# So many messages in a row agree on the time; fewer may be damaged, or come from before the first /clock.
_AGREEING = 5

MessageRef = tuple[int, int]  # file, entry in its index
MessageMask = Mapping[int, NDArray[np.bool_]]  # per file, which entries of its index


class MessageRefs(NamedTuple):
    """References to messages: the numbers of their files, of their entries there, and their receive times, all (n,)."""

    file: NDArray[np.int64]
    entry: NDArray[np.int64]
    receive_ns: NDArray[np.int64]

    @classmethod
    def merged(cls, parts: Sequence[MessageRefs]) -> MessageRefs:
        """Merge into order of receipt; of equal times, the earlier file and entry first."""
        columns = [np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*parts)]
        file, entry, receive_ns = columns or [np.zeros(0, np.int64)] * 3
        return cls(file, entry, receive_ns).select(np.lexsort((entry, file, receive_ns)))

    def select(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> MessageRefs:
        return MessageRefs(*(column[which] for column in self))


OnBatch = Callable[[int, StoredTopic, MessageBatch], None]  # file, topic, messages


@dataclasses.dataclass(frozen=True)
class Topic:
    """A topic of a bag: its message type and number of messages."""

    type: str
    messages: int


class Recording:
    """An open bag. Times are receive times in ns: when the recorder received a message.

    Attributes:
        custom_data: Notes from `ros2 bag record --custom-data`.
        tables: Cache of `cdr.batch_reader`.

    Raises:
        BagError: Its time goes back: it contains several runs.
    """

    def __init__(
        self, path: Path, files: Sequence[StorageFile], custom_data: Mapping[str, str], damage: Sequence[str]
    ) -> None:
        _check_order(path, files)
        self.path = path
        self.custom_data = dict(custom_data)
        self._files = files
        self._damage = list(damage)
        # Messages that could not be read: topic -> their references, and what is wrong with the first.
        self._unread: dict[str, tuple[set[MessageRef], str]] = {}
        self._preloaded: dict[MessageRef, bytes] = {}
        self.tables: dict[str, Any] = {}
        self.topics = _topics(files)
        times_ns = [file.index.time_ns for file in files if len(file.index)]
        self.start_ns = int(min(times[0] for times in times_ns)) if times_ns else 0
        self.end_ns = int(max(times[-1] for times in times_ns)) if times_ns else 0

    @property
    def damage(self) -> tuple[str, ...]:
        """What is lost of the bag, in sentences; damaged messages are known once something has tried to read them."""
        unread = (
            f"{len(refs)} of {self.topics[topic].messages} messages on {topic} are damaged and left out ({why})"
            for topic, (refs, why) in sorted(self._unread.items())
        )
        return (*self._damage, *unread)

    def find(self, wanted: Mapping[str, tuple[str, str]]) -> dict[str, str]:
        """Look up topics: purpose -> (relative topic, type) becomes purpose -> name in the bag.

        Raises:
            BagError: Some are missing or have another type; lists all of them, and what the bag contains.
        """
        found, problems = {}, []
        for purpose, (topic, kind) in wanted.items():
            try:
                name = match_topic(topic, self.topics)
            except RobotError as error:
                problems.append(f"{purpose}: {error}")
                continue
            if name is None:
                problems.append(f"{purpose}: topic {topic!r} is missing")
            elif self.topics[name].type != kind:
                problems.append(f"{purpose}: topic {name!r} has the type {self.topics[name].type}, not {kind}")
            else:
                found[purpose] = name
        if problems:
            lines = "\n  ".join(problems)
            raise BagError(
                f"bag {self.path} does not match the robot file:\n  {lines}\nThe bag contains {self.contents()}.\n"
                "Record the missing topics, or change the robot file to the topics in the bag."
            )
        return found

    def contents(self) -> str:
        """Return the topics and their types, for error messages."""
        return ", ".join(f"{name} ({topic.type})" for name, topic in sorted(self.topics.items())) or "nothing"

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """Yield (topic, receive time, message) of `topics`, in order of receipt; see `messages_with_refs`."""
        for _, topic, receive_ns, message in self.messages_with_refs(topics):
            yield topic, receive_ns, message

    def messages_with_refs(
        self, topics: Collection[str], left_out: MessageMask | None = None
    ) -> Iterator[tuple[MessageRef, str, int, Any]]:
        """Yield (reference, topic, receive time, message) of `topics`, in order of receipt.

        Messages of other topics, and those of `left_out`, known to be good, are neither read nor decoded. Damaged ones
        are left out and added to `damage`.

        Raises:
            BagError: No message on one of the topics can be decoded.
        """
        decoders: dict[int, Any] = {}
        good: collections.Counter[str] = collections.Counter()
        for number, which in (left_out or {}).items():
            file = self._files[number]
            keys, counts = np.unique(file.index.topic[which], return_counts=True)
            for key, count in zip(keys.tolist(), counts.tolist()):
                good[file.topics[key].name] += count
        for ref, topic, receive_ns, data in self._read(topics, left_out):
            decode = decoders.get(id(topic))  # by identity: hashing its definition takes longer than most messages
            if decode is None:
                try:
                    decode = decoders[id(topic)] = decoder(topic)
                except Damage as error:
                    raise BagError(f"bag {self.path}, topic {topic.name}: {error}") from None
            try:
                message = decode(data)
            except Damage as error:
                self._note(topic.name, ref, str(error))
                continue
            good[topic.name] += 1
            yield ref, topic.name, receive_ns, message
        for name in topics:
            if name in self._unread and not good[name]:
                raise BagError(
                    f"bag {self.path}: no message on {name} can be read ({self._unread[name][1]}); copy the bag again "
                    "from the machine that recorded it"
                )

    @contextlib.contextmanager
    def preloaded(
        self, topics: Collection[str], batch_topics: Collection[str] = (), on_batch: OnBatch | None = None
    ) -> Iterator[None]:
        """Read `topics` once for several passes over them: within the context their messages stay in memory.

        Each pass decompresses every chunk that has one of the messages, however small they are. So the same pass hands
        the `batches` of `batch_topics` to `on_batch`.
        """
        loaded = self.mask(())
        preloaded: dict[MessageRef, bytes] = {}
        for number, topic, batch in self.batches({*topics, *batch_topics}):
            if on_batch is not None and topic.name in batch_topics:
                on_batch(number, topic, batch)
            if topic.name in topics:
                loaded[number][batch.entry] = True
                preloaded.update(((number, entry), data) for entry, data in batch.by_entry())
        preloaded.update({ref: data for ref, _, _, data in self._read(topics, loaded)})
        self._preloaded = preloaded
        try:
            yield
        finally:
            self._preloaded = {}

    def batches(self, topics: Collection[str]) -> Iterator[tuple[int, StoredTopic, MessageBatch]]:
        """Yield (file, topic, messages) of `topics` as they are stored, in one pass over the files.

        Messages that are damaged, or compressed one by one, are left out without being added to `damage`.
        """
        for number, file in enumerate(self._files):
            keys = [key for key, topic in file.topics.items() if topic.name in topics]
            try:
                for stored in file.batches(np.flatnonzero(np.isin(file.index.topic, keys))):
                    batch = stored.uncompressed()
                    key_of = file.index.topic[batch.entry]
                    for key in set(key_of.tolist()):
                        yield number, file.topics[key], batch.select(key_of == key)
            except OSError as error:
                raise unreadable(self.path, error) from None

    def serialized(self) -> Iterator[tuple[StoredTopic, int, bytes]]:
        """Yield (topic, receive time, serialized message) of all messages, in order of receipt."""
        for _, topic, receive_ns, data in self._read(None):
            yield topic, receive_ns, data

    def read(self, refs: MessageRefs) -> Iterator[bytes]:
        """Yield the serialized messages at `refs`, which `batches` has yielded; BagError if one is gone since."""
        first, count = 0, 1
        while first < len(refs.file):
            file = self._files[refs.file[first]]
            other = np.flatnonzero(refs.file[first : first + count] != refs.file[first])
            stop = first + (int(other[0]) if len(other) else count)
            entry = refs.entry[first:stop]
            try:
                found = dict(itertools.chain.from_iterable(batch.by_entry() for batch in file.batches(entry)))
            except OSError as error:
                raise unreadable(self.path, error) from None
            for one in entry.tolist():
                if one not in found:
                    raise BagError(f"bag {self.path} was changed while it was read; run the same command again")
                yield found[one]
            first = stop
            count = max(1, _TOGETHER_BYTES // max(map(len, found.values())))

    def receive_times_ns(self) -> dict[str, NDArray[np.int64]]:
        """Return the receive times of all messages by topic, without reading any."""
        return {name: self.refs([name]).receive_ns for name in self.topics}

    def stored_topics(self) -> dict[str, StoredTopic]:
        """Return the topics that have messages, as declared by the first file that has one."""
        stored = [topic for file in reversed(self._files) for topic in file.topics.values()]
        return {topic.name: topic for topic in stored if topic.name in self.topics}

    def refs(self, topics: Collection[str] | None, left_out: MessageMask | None = None) -> MessageRefs:
        """Return references to the messages of `topics`, None for all, in order of receipt."""
        found = []
        for number, file in enumerate(self._files):
            keys = [key for key, topic in file.topics.items() if topics is None or topic.name in topics]
            wanted = np.isin(file.index.topic, keys)
            if left_out:
                wanted &= ~left_out[number]
            entry = np.flatnonzero(wanted)
            found.append(MessageRefs(np.full(len(entry), number), entry, file.index.time_ns[entry]))
        return MessageRefs.merged(found)

    def mask(self, refs: Iterable[MessageRefs]) -> MessageMask:
        """Return a mask of the messages at `refs`."""
        mask = {number: np.zeros(len(file.index), bool) for number, file in enumerate(self._files)}
        for some in refs:
            for number, which in mask.items():
                which[some.entry[some.file == number]] = True
        return mask

    def _read(
        self, topics: Collection[str] | None, left_out: MessageMask | None = None
    ) -> Iterator[tuple[MessageRef, StoredTopic, int, bytes]]:
        """Yield (reference, topic, receive time, serialized message) of `topics`, None for all, as received."""
        for number, entry, key, time_ns, block, offset in self._rows(self.refs(topics, left_out)):
            file, ref = self._files[number], (number, entry)
            topic = file.topics[key]
            try:
                data = self._preloaded.get(ref) or inflate_message(file.read(key, time_ns, block, offset))
            except Damage as error:
                self._note(topic.name, ref, str(error))
                continue
            except OSError as error:
                raise unreadable(self.path, error) from None
            yield ref, topic, time_ns, data

    def _rows(self, refs: MessageRefs) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Yield (file, entry, and the entry's row of the index)."""
        # Python's numbers are fast to use and large to keep: a few at a time, from one file.
        changes = np.flatnonzero(np.diff(refs.file)) + 1
        cuts = np.union1d(changes, np.arange(0, len(refs.file) + 1, _RUN)).tolist()
        for first, stop in itertools.pairwise(sorted({*cuts, len(refs.file)})):
            number, entry = int(refs.file[first]), refs.entry[first:stop]
            index = self._files[number].index
            columns = (column[entry].tolist() for column in (index.topic, index.time_ns, index.block, index.offset))
            yield from zip(itertools.repeat(number), entry.tolist(), *columns)

    def _note(self, topic: str, ref: MessageRef, why: str) -> None:
        self._unread.setdefault(topic, (set(), why))[0].add(ref)


def set_back(time_ns: NDArray[np.int64]) -> list[int]:
    """Return where times (n,), in the order in which they were stored, start again at least `SET_BACK_NS` earlier.

    Single messages with a strange time are no new start: several in a row must agree, before and after it.
    """
    if len(time_ns) < 2 * _AGREEING:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(time_ns, _AGREEING)
    reached, following = windows.min(axis=1)[:-_AGREEING], windows.max(axis=1)[_AGREEING:]
    starts, first = [], 0
    while True:
        back = np.maximum.accumulate(reached[first:]) - following[first:] > SET_BACK_NS
        if not back.any():
            return starts
        # The first message that is earlier than all five before it is where time starts again.
        starts.append(first + int(back.argmax()) + _AGREEING)
        first = starts[-1]


def _check_order(path: Path, files: Sequence[StorageFile]) -> None:
    """Raise BagError if the receive times start again in the middle, where messages of two runs would be mixed."""
    stored = [file.index.stored_ns() for file in files]
    time_ns = np.concatenate([np.zeros(0, np.int64), *stored])
    starts = set_back(time_ns)
    if not starts:
        return
    runs = [time_ns[slice(*ends)] for ends in itertools.pairwise([0, *starts, len(time_ns)])]
    spans = ", ".join(f"{run.min() / 1e9:.3f} to {run.max() / 1e9:.3f} s" for run in runs[:4])
    more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    at, ends = starts[0], np.cumsum([len(one) for one in stored])
    number = int(np.searchsorted(ends, at, side="right"))
    times = "once" if len(starts) == 1 else f"{len(starts)} times"
    place = f"message {at - int(ends[number]) + len(stored[number]) + 1} of {files[number].path.name}"
    raise BagError(
        f"bag {path}: its time goes back {times}, first from {time_ns[:at].max() / 1e9:.3f} to "
        f"{time_ns[at] / 1e9:.3f} s at {place}. Its runs cover {spans}{more}, and reading them as one would mix their "
        "images and commands. Record each run as a bag of its own: stop recording before you reset a simulation or set "
        "a clock. If the files are separate recordings, put each in a folder of its own, without this metadata.yaml"
    )


def _topics(files: Sequence[StorageFile]) -> dict[str, Topic]:
    """Return all topics that have a message."""
    found: dict[str, Topic] = {}
    for file in files:
        for key, topic in file.topics.items():
            if count := int((file.index.topic == key).sum()):
                before = found.get(topic.name, Topic(topic.type, 0))
                kind = topic.type if before.type == topic.type else "several types"
                found[topic.name] = Topic(kind, before.messages + count)
    return found


def match_topic(topic: str, available: Iterable[str]) -> str | None:
    """Return which of `available` the relative name `topic` means, itself or in a namespace; None if none does.

    Raises:
        RobotError: several namespaces have it.
    """
    relative, names = topic.lstrip("/"), list(available)
    exact = [name for name in names if name.lstrip("/") == relative]
    found = exact or [name for name in names if name.endswith("/" + relative)]
    if len(found) > 1:
        raise RobotError(
            f"topic {topic!r} is ambiguous: {', '.join(sorted(found))}; use one of these names in the robot file"
        )
    return found[0] if found else None
