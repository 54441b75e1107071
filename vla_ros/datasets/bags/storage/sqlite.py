# SPDX-License-Identifier: Apache-2.0
"""rosbag2's sqlite3 files (.db3), read row by row so that damage costs only the rows it affects, not the file.

The file is never written to; a journal that a killed recorder left beside it is replayed on a copy. It takes apsw
because cut-off files need a VFS, and because Python 3.10's sqlite3 can't tell a full disk from a damaged file.
"""

from __future__ import annotations

import functools
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.bags.storage.container import (
    MAX_TIME_NS,
    Damage,
    MessageBatch,
    MessageIndex,
    StoredTopic,
    read_batches,
)

_JOURNALS = ("-wal", "-journal")
# apsw decodes text columns; a damaged one may contain anything.
_ERRORS = (apsw.Error, UnicodeDecodeError)
# These say nothing about the file.
_MACHINE_ERRORS = (apsw.IOError, apsw.FullError, apsw.CantOpenError, apsw.BusyError, apsw.LockedError)


class SqliteFile:
    """An open .db3 file; see `StorageFile`. `scratch` is a folder for copies.

    Raises:
        Damage: It is not a rosbag2 database.
        OSError, MemoryError: It can't be read, for reasons other than its contents.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self.topics: dict[int, StoredTopic] = {}
        self.damage: list[str] = []
        self.metadata = ""
        self._cut_off: _CutOffFile | None = None
        database: apsw.Connection | None = None
        try:
            self._database = database = self._connect(path, scratch)
            self._check_tables()
            self._read_topics()
            if "metadata" in self._tables:
                self.metadata = next((text for (text,) in reversed(self._texts("metadata", "metadata"))), "")
            self.index = self._index()
        except BaseException as error:
            if database is not None:
                database.close()
            if isinstance(error, _ERRORS):
                _pass_on(error)
                raise Damage(f"it is not a sqlite3 bag, or its beginning is damaged ({error})") from None
            raise

    def close(self) -> None:
        self._database.close()

    def read(self, topic: int, time_ns: int, block: int, offset: int) -> bytes:
        """Return the serialized message of a row of the index. Raises Damage, OSError, MemoryError."""
        try:
            row = self._database.execute("SELECT data FROM messages WHERE rowid = ?", (offset,)).fetchone()
        except _ERRORS as error:
            _pass_on(error)
            raise Damage(f"its row is damaged ({error})") from None
        if row is None or not isinstance(row[0], bytes):
            raise Damage("its row contains no message")
        return row[0]

    def batches(self, entry: NDArray[np.int64]) -> Iterator[MessageBatch]:
        return read_batches(self, entry)

    def _connect(self, path: Path, scratch: Path) -> apsw.Connection:
        journals = [path.with_name(path.name + ending) for ending in _JOURNALS]
        flags, vfs = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, None
        if any(journal.is_file() and journal.stat().st_size for journal in journals):
            for file in filter(Path.is_file, [path, *journals]):
                shutil.copyfile(file, scratch / file.name)
            uri, flags = _uri(scratch / path.name), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        else:
            uri = _uri(path) + "?immutable=1"
            announced, size = _announced_bytes(path), path.stat().st_size
            if announced > size:
                self.damage.append(f"it is cut off after {size} of {announced} bytes")
                self._cut_off = _CutOffFile(path, announced)
                vfs = self._cut_off.name
        database = apsw.Connection(uri, flags=flags, vfs=vfs)
        database.execute("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON")
        return database

    def _check_tables(self) -> None:
        """Refuse views and virtual tables of these names: querying one may run anything the file says."""
        rows = self._database.execute(
            "SELECT CAST(name AS BLOB) FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
        )
        tables = {_text(name) for (name,) in rows}
        missing = {"topics", "messages"} - tables
        if missing:
            raise Damage(f"it has no table {' and no table '.join(sorted(missing))}, so it is not a rosbag2 bag")
        self._tables = tables

    def _read_topics(self) -> None:
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in self._tables:  # since Iron
            for row in self._texts("message_definitions", "topic_type", "encoding", "encoded_message_definition"):
                definitions[row[0]] = (row[1], row[2])
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"  # since Foxy
        numbers = [number for _, number in self._rows("id", "topics")]
        texts = self._texts("topics", "name", "type", "serialization_format", qos)
        for number, (name, kind, encoding, offered) in zip(numbers, texts):
            if isinstance(number, int) and 0 <= number < 1 << 31:
                definition_format, definition = definitions.get(kind, ("", ""))
                self.topics[number] = StoredTopic(name, kind, encoding, definition_format, definition, offered)

    def _texts(self, table: str, *columns: str) -> list[list[str]]:
        """Read text columns of one of rosbag2's tables, replacing damaged characters."""
        wanted = ", ".join(f"CAST({column} AS BLOB)" for column in columns)
        return [list(map(_text, row)) for _, *row in self._rows(wanted, table)]

    def _rows(self, columns: str, table: str, behind: int = -(1 << 63)) -> Iterator[tuple[Any, ...]]:
        """Yield (rowid, columns) of the rows behind one, in order; raise if a damaged tree leads in circles."""
        query = f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid"
        for row in self._database.execute(query, (behind,)):
            if row[0] <= behind:
                raise apsw.CorruptError("its rows are out of order")
            behind = row[0]
            yield row

    @functools.cached_property
    def _last_row(self) -> int:
        """The last row of the messages, or the last possible one if it is unknown."""
        try:
            found = self._database.execute("SELECT max(rowid) FROM messages").fetchone()
        except _ERRORS as error:
            _pass_on(error)
            return MAX_TIME_NS
        return found[0] or 0 if found else 0

    def _index(self) -> MessageIndex:
        """Find the messages, skipping damaged pages."""
        rows: list[tuple[int, int, int, int]] = []
        strange, last, step = 0, 0, 1
        while last < self._last_row:
            try:
                for row_id, topic, time_ns in self._rows("topic_id, timestamp", "messages", behind=last):
                    last, step = row_id, 1
                    known = isinstance(topic, int) and topic in self.topics
                    if known and isinstance(time_ns, int) and 0 <= time_ns < MAX_TIME_NS:
                        rows.append((topic, time_ns, 0, row_id))
                    else:
                        strange += 1
                break
            except _ERRORS as error:
                _pass_on(error)
                if step == 1:
                    self.damage.append(f"it is damaged after {len(rows)} messages ({error})")
                last, step = min(last + step, self._last_row), 2 * step
        if strange:
            self.damage.append(f"{strange} of its messages lack a topic or a time")
        return MessageIndex.sort([np.array(rows, np.int64).reshape(-1, 4)])


class _CutOffFile(apsw.VFS):
    """A file system in which a cut-off file has its full size, and the missing part can't be read.

    SQLite itself rejects such a file, or reads the missing part as zeros.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.name = f"vla_ros-cut-off-{id(self)}"
        self._path, self._size = path, size
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return super().xOpen(name, flags) if name is None else _CutOffHandle(self._path, self._size)


class _CutOffHandle(apsw.VFSFile):
    def __init__(self, path: Path, size: int) -> None:
        self._file, self._size = path.open("rb"), size

    def xFileSize(self) -> int:
        return self._size

    def xRead(self, amount: int, offset: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(amount)
        if len(data) < amount:
            raise apsw.CorruptError("it lies beyond the cut")
        return data

    def xClose(self) -> None:
        self._file.close()

    def xSectorSize(self) -> int:
        return 0

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False


def _pass_on(error: BaseException) -> None:
    """Raise errors of the machine, as opposed to the file, as Python's own."""
    if isinstance(error, apsw.NoMemError):
        raise MemoryError(str(error)) from None
    if isinstance(error, _MACHINE_ERRORS):
        raise OSError(str(error)) from None


def _announced_bytes(path: Path) -> int:
    """Return the database size in its header, 0 if there is none (https://sqlite.org/fileformat2.html)."""
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or head[24:28] != head[92:96]:
        return 0
    page = int.from_bytes(head[16:18], "big")
    return int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)


def _uri(path: Path) -> str:
    return "file:" + urllib.parse.quote(str(path.resolve()))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
