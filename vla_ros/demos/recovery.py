# SPDX-License-Identifier: Apache-2.0
"""Save what a killed recorder left: a storage file without its end, in a folder without metadata.yaml."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2.storage_mcap import McapReader

from vla_ros.demos.bag_writer import PARTIAL, BagWriter, TopicQos, typestore
from vla_ros.demos.errors import BagError
from vla_ros.demos.recording import READ_ERRORS, storage_files

# The MCAP format, https://mcap.dev/spec: magic, then records of opcode (1 byte), length (8 bytes), content.
_CHUNK_BYTES = 1 << 20
_MAGIC = b"\x89MCAP0\r\n"
_DATA_END, _FOOTER = 0x0F, 0x02
# A DataEnd record and a Footer that say: no checksum, no index. Readers then scan the file.
_ENDING = struct.pack("<BQI", _DATA_END, 4, 0) + struct.pack("<BQQQI", _FOOTER, 20, 0, 0, 0) + _MAGIC


def recover(path: str | Path) -> Path:
    """Write the messages in an unfinished bag into a new bag beside it, NAME_recovered, and return that folder.

    `path` is NAME.partial or a folder that lacks its metadata.yaml; it is left as it is. What was not on the disk when
    the recorder died is not in it.

    Raises:
        BagError: there is nothing to recover, or NAME_recovered exists.
    """
    path = Path(path)
    name = path.name.removesuffix(PARTIAL)
    files = storage_files(path) or storage_files(path / name)
    if not files:
        raise BagError(f"{path} holds no .mcap or .db3 file: nothing can be recovered from it")
    if (path / "metadata.yaml").is_file():
        raise BagError(f"{path} is a finished bag: there is nothing to recover")
    # Beside the bag, where there is room for recordings; the system's folder for such files may be in memory.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=path.parent) as scratch:
        whole = [_with_ending(file, Path(scratch)) if file.suffix == ".mcap" else file for file in files]
        target = path.with_name(f"{name}_recovered")
        try:
            with AnyReader(whole, default_typestore=typestore()) as reader:
                if reader.message_count == 0:
                    raise BagError(f"{path}: no message had reached the disk: nothing can be recovered from it")
                _write(reader, BagWriter(target, reader.typestore))
        except (*READ_ERRORS, struct.error) as error:
            raise BagError(f"{path} can't be recovered: {error}") from None
    return target


def _write(reader: AnyReader, writer: BagWriter) -> None:
    """Copy everything into `writer` and close it; of a failure, a `.partial` stays only if there is something in it."""
    try:
        with writer:
            _copy(reader, writer)
    except BaseException:
        if not writer.messages:
            shutil.rmtree(writer.partial)
        raise


def _copy(reader: AnyReader, writer: BagWriter) -> None:
    for topic, info in reader.topics.items():
        writer.add_topic(topic, info.connections[0].msgtype, _qos(info.connections[0]))
    for part in reader.readers:
        storage = part.storage  # type: ignore[union-attr]
        # Without an index `messages` insists on time order, which recorders keep only roughly.
        scan = storage.messages_scan if isinstance(storage, McapReader) else storage.messages
        for connection, receive_ns, data in scan(storage.connections):
            writer.write(connection.topic, receive_ns, data)


def _qos(connection: Connection) -> TopicQos:
    offered = connection.ext.offered_qos_profiles if isinstance(connection.ext, ConnectionExtRosbag2) else []
    if not offered:
        return TopicQos()
    return TopicQos(offered[0].reliability.name.lower(), offered[0].durability.name.lower())


def _with_ending(file: Path, scratch: Path) -> Path:
    """Copy an MCAP file up to its last whole record and close it there."""
    copy = scratch / file.name
    with file.open("rb") as source, copy.open("wb") as target:
        size = file.stat().st_size
        end = len(_MAGIC)
        while end + 9 <= size:
            source.seek(end)
            opcode, length = struct.unpack("<BQ", source.read(9))
            if opcode in (_DATA_END, _FOOTER) or end + 9 + length > size:
                break
            end += 9 + length
        source.seek(0)
        while source.tell() < end:
            target.write(source.read(min(_CHUNK_BYTES, end - source.tell())))
        target.write(_ENDING)
    return copy
