# SPDX-License-Identifier: Apache-2.0
"""Every container and compression gives the same messages; damage costs only what it affects and is reported."""

from __future__ import annotations

import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import lz4.frame
import numpy as np
import pytest
import yaml
from recordings import read_bag
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.open_bag import find_bags, open_bag
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.storage import mcap, mcap_chunks
from vla_ros.datasets.bags.storage.container import zstd
from vla_ros.datasets.errors import BagError

if TYPE_CHECKING:
    from recordings import BagBuilder

DATA = Path(__file__).parents[2] / "data"
STORAGES = (StoragePlugin.MCAP, StoragePlugin.SQLITE3)
Messages = list[tuple[str, int, bytes]]


def contents(bag: Path) -> Messages:
    with open_bag(bag) as recording:
        return [(topic.name, time_ns, data) for topic, time_ns, data in recording.serialized()]


def damage(bag: Path) -> str:
    with open_bag(bag) as recording:
        for _ in recording.serialized():
            pass
        return "\n".join(recording.damage)


def write(
    built: BagBuilder,
    folder: Path,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    part: slice = slice(None),
    **custom: str,
) -> Messages:
    """Write (a part of) a builder's messages as rosbag2 does; returns them in their order."""
    writer = Writer(folder, version=9, storage_plugin=storage)
    if compression is not CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    for key, value in custom.items():
        writer.set_custom_data(key, value)
    ordered = sorted(built.messages, key=lambda entry: entry[0])[part]
    written = []
    with writer:
        topics = {
            topic: writer.add_connection(topic, kind, typestore=typestore())
            for topic, kind in sorted({(topic, kind) for _, topic, kind, _ in built.messages})
        }
        for time_ns, topic, kind, message in ordered:
            data = bytes(typestore().serialize_cdr(message, kind))
            writer.write(topics[topic], time_ns, data)
            written.append((topic, time_ns, data))
    return written


def edit_metadata(bag: Path, edit: Callable[[dict], object]) -> None:
    path = bag / "metadata.yaml"
    data = yaml.safe_load(path.read_text())
    edit(data["rosbag2_bagfile_information"])
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize("name", ["mcap_zstd_fast", "sqlite3_zstd_message"])
def test_bags_of_ros2_bag_record_give_the_messages_that_rosbags_reads(name: str) -> None:
    bag = DATA / "bags" / name
    with AnyReader([bag]) as reader:
        expected = [(connection.topic, time_ns, bytes(data)) for connection, time_ns, data in reader.messages()]
    assert contents(bag) == expected
    assert damage(bag) == ""


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE])
def test_every_storage_and_compression_gives_the_same_messages(
    demonstration: BagBuilder, tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    written = write(demonstration, tmp_path / "bag", storage, compression)
    assert contents(tmp_path / "bag") == written
    assert damage(tmp_path / "bag") == ""


def test_chunks_compressed_with_zstd_and_lz4_give_the_same_messages(demonstration: BagBuilder, tmp_path: Path) -> None:
    written = write(demonstration, tmp_path / "zstd", compression=CompressionMode.STORAGE)
    assert contents(tmp_path / "zstd") == written
    write(demonstration, tmp_path / "plain")
    (tmp_path / "lz4").mkdir()
    (tmp_path / "lz4" / "lz4.mcap").write_bytes(recompressed((tmp_path / "plain" / "plain.mcap").read_bytes()))
    assert contents(tmp_path / "lz4") == written


def recompressed(data: bytes) -> bytes:
    """An MCAP file with its chunks as lz4 frames, without its index and its end: all moves, so no offset is right."""
    result, at = bytearray(mcap.MAGIC), len(mcap.MAGIC)
    while at + 9 <= len(data):
        opcode, length = mcap_chunks.RECORD.unpack_from(data, at)
        content = data[at + 9 : at + 9 + length]
        if opcode == mcap.CHUNK:
            packed = lz4.frame.compress(content[40:])  # 28 bytes of numbers, "" as its compression, length
            content = content[:28] + b"\3\0\0\0lz4" + len(packed).to_bytes(8, "little") + packed
            result += mcap_chunks.RECORD.pack(opcode, len(content)) + content
        at += 9 + length
    return bytes(result)


@pytest.mark.parametrize("version", range(1, 10))
@pytest.mark.parametrize("storage", STORAGES)
def test_every_version_of_the_metadata_is_read(
    demonstration: BagBuilder, tmp_path: Path, version: int, storage: StoragePlugin
) -> None:
    """As far as the versions differ in what they have; rosbags lists them in rosbag2/reader.py."""
    written = write(demonstration, tmp_path / "bag", storage, task="open the drawer")

    def older(data: dict) -> None:
        data["version"] = version
        for row in data["topics_with_message_count"]:
            topic = row["topic_metadata"]
            topic["offered_qos_profiles"] = yaml.safe_dump(topic["offered_qos_profiles"])
            if version < 4:
                del topic["offered_qos_profiles"]
            if version < 7:
                del topic["type_description_hash"]
        if version < 3:
            data.pop("compression_format"), data.pop("compression_mode")
        if version < 4:
            data["relative_file_paths"] = [f"bag/{name}" for name in data["relative_file_paths"]]
        for since, key in ((5, "files"), (6, "custom_data"), (8, "ros_distro")):
            if version < since:
                data.pop(key)

    if version < 9:
        edit_metadata(tmp_path / "bag", older)
    assert contents(tmp_path / "bag") == written
    with open_bag(tmp_path / "bag") as recording:
        assert recording.damage == ()
        if version >= 6:
            assert recording.custom_data == {"task": "open the drawer"}


def test_a_database_of_the_first_ros_2_releases_has_no_definitions_and_no_qos(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    written = write(demonstration, tmp_path / "bag", StoragePlugin.SQLITE3)
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    database.executescript(
        "DROP TABLE schema; DROP TABLE metadata; DROP TABLE message_definitions;"
        "ALTER TABLE topics DROP COLUMN offered_qos_profiles; ALTER TABLE topics DROP COLUMN type_description_hash;"
    )
    database.close()
    assert contents(tmp_path / "bag") == written
    with open_bag(tmp_path / "bag") as recording:
        assert next(recording.messages(["/language_command"]))[2].data == "pick up the red block"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.FILE])
def test_a_split_bag_is_one_recording_in_the_order_of_time(
    demonstration: BagBuilder, tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    """Eleven parts: by name, _10 comes before _2."""
    bag, ending = tmp_path / "bag", "mcap" if storage is StoragePlugin.MCAP else "db3"
    bag.mkdir()
    written: Messages = []
    step = -(-len(demonstration.messages) // 11)
    packed = ".zstd" if compression is CompressionMode.FILE else ""
    for number in range(11):
        part = tmp_path / f"part_{number}"
        written += write(demonstration, part, storage, compression, slice(number * step, (number + 1) * step))
        shutil.move(part / f"part_{number}.{ending}{packed}", bag / f"bag_{number}.{ending}{packed}")
    metadata = yaml.safe_load((tmp_path / "part_0" / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = [f"bag_{number}.{ending}{packed}" for number in range(11)]
    information["message_count"] = len(written)
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert contents(bag) == written and damage(bag) == ""
    (bag / "metadata.yaml").unlink()
    assert contents(bag) == written
    assert "no metadata.yaml" in damage(bag)
    (bag / f"bag_4.{ending}{packed}").unlink()
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert contents(bag) == written[: 4 * step] + written[5 * step :]
    assert f"bag_4.{ending}{packed}, listed in metadata.yaml, is missing" in damage(bag)


def test_a_file_that_ros2_bag_play_decompressed_beside_the_compressed_one_is_read_once(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    written = write(demonstration, tmp_path / "bag", compression=CompressionMode.FILE)
    (packed,) = (tmp_path / "bag").glob("*.zstd")
    (tmp_path / "bag" / packed.stem).write_bytes(zstd.decompress(packed.read_bytes()))
    assert contents(tmp_path / "bag") == written
    (tmp_path / "bag" / "metadata.yaml").unlink()
    packed.write_bytes(packed.read_bytes()[:100])  # a recorder that was killed while it compressed
    assert contents(tmp_path / "bag") == written


def test_a_reindexed_bag_is_read(demonstration: BagBuilder, tmp_path: Path) -> None:
    """`ros2 bag reindex` writes other QoS profiles than the storage has, and no files."""
    written = write(demonstration, tmp_path / "bag")
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("depth: 0", "depth: 10"))
    edit_metadata(tmp_path / "bag", lambda data: data.update(files=[]))
    assert contents(tmp_path / "bag") == written


@pytest.mark.parametrize("cut", ["in the middle", "in a record", "before its index", "zeros"])
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE])
def test_a_cut_off_mcap_file_is_read_up_to_the_cut(
    demonstration: BagBuilder, tmp_path: Path, cut: str, compression: CompressionMode
) -> None:
    written = write(demonstration.noise("/static_noise", 20), tmp_path / "bag", compression=compression)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    storage = tmp_path / "bag" / "bag.mcap"
    data = storage.read_bytes()
    index = data.rindex(mcap_chunks.RECORD.pack(mcap.DATA_END, 4))
    size = {"in the middle": len(data) // 2, "in a record": index + 5, "before its index": index, "zeros": index}[cut]
    storage.write_bytes(data[:size] + (b"\0" * 1000 if cut == "zeros" else b""))
    found = contents(tmp_path / "bag")
    assert found == written[: len(found)]
    assert len(found) == len(written) if cut != "in the middle" else len(found) > len(written) / 3
    assert f"cut off after {size - (5 if cut == 'in a record' else 0)}" in damage(tmp_path / "bag") or size < index
    assert "cut off after" in damage(tmp_path / "bag")


@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_a_cut_off_database_is_read_up_to_the_cut(demonstration: BagBuilder, tmp_path: Path, part: float) -> None:
    written = write(demonstration.noise("/static_noise", 40), tmp_path / "bag", StoragePlugin.SQLITE3)
    storage = tmp_path / "bag" / "bag.db3"
    storage.write_bytes(storage.read_bytes()[: int(part * storage.stat().st_size)])
    found = contents(tmp_path / "bag")
    assert len(found) > 0.7 * part * len(written)
    assert set(found) <= set(written)
    assert "damaged" in damage(tmp_path / "bag")


def test_a_damaged_database_whose_tree_leads_in_circles_is_read_up_to_there(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    """The root page of the messages leads back to its first child (https://sqlite.org/fileformat2.html, 1.6)."""
    written = write(demonstration.noise("/static_noise", 40), tmp_path / "bag", StoragePlugin.SQLITE3)
    storage = tmp_path / "bag" / "bag.db3"
    with sqlite3.connect(storage) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    data = bytearray(storage.read_bytes())
    root = (page - 1) * page_bytes
    assert data[root] == 5  # an inner page of a table
    first_child = root + int.from_bytes(data[root + 12 : root + 14], "big")
    data[root + 8 : root + 12] = data[first_child : first_child + 4]
    storage.write_bytes(data)
    found = contents(tmp_path / "bag")
    assert found and len(found) == len(set(found)) < len(written) and set(found) <= set(written)
    assert "its rows are out of order" in damage(tmp_path / "bag")


def test_a_killed_recorder_s_journal_is_read_without_changing_the_bag(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    """rosbag2's preset `resilient` writes ahead; the copy here is what a kill leaves."""
    written = write(demonstration, tmp_path / "bag", StoragePlugin.SQLITE3)
    bag = tmp_path / "killed"
    bag.mkdir()
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("DELETE FROM messages WHERE id > 3")
    database.commit()
    for name in ("bag.db3", "bag.db3-wal"):
        shutil.copyfile(tmp_path / "bag" / name, bag / name)
    database.close()
    before = {path.name: path.read_bytes() for path in bag.iterdir()}
    assert contents(bag) == written[:3]
    assert {path.name: path.read_bytes() for path in bag.iterdir()} == before


def test_a_cut_off_compressed_file_is_read_up_to_the_cut(demonstration: BagBuilder, tmp_path: Path) -> None:
    built = demonstration.noise("/static_noise", 40)
    written = write(built, tmp_path / "bag", compression=CompressionMode.FILE)
    (storage,) = (tmp_path / "bag").glob("*.zstd")
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size * 2 // 3])
    found = contents(tmp_path / "bag")
    assert found == written[: len(found)] and len(found) > len(written) / 4
    assert "zstd compression is damaged" in damage(tmp_path / "bag")


def test_messages_missing_from_the_storage_are_reported(demonstration: BagBuilder, tmp_path: Path) -> None:
    """Message compression with its default queue drops messages without a word."""
    written = write(demonstration, tmp_path / "bag")
    edit_metadata(tmp_path / "bag", lambda data: data.update(message_count=len(written) + 7))
    assert (
        damage(tmp_path / "bag") == f"metadata.yaml counts {len(written) + 7} messages, but only {len(written)} exist"
    )


def test_a_damaged_message_costs_only_itself(demonstration: BagBuilder, tmp_path: Path) -> None:
    written = write(demonstration, tmp_path / "bag", StoragePlugin.SQLITE3)
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    rows = database.execute("SELECT messages.id FROM messages JOIN topics ON topic_id = topics.id "
                            "WHERE name = '/ee_pose' LIMIT 3").fetchall()  # fmt: skip
    database.execute("UPDATE messages SET data = x'00010000ff' WHERE id = ?", rows[2])
    database.commit()
    database.close()
    with open_bag(tmp_path / "bag") as recording:
        for _ in range(2):  # a second pass counts nothing twice
            messages = list(recording.messages(["/ee_pose"]))
        count = sum(topic == "/ee_pose" for topic, _, _ in written)
        assert len(messages) == count - 1
        (told,) = recording.damage
        assert told.startswith(f"1 of {count} messages on /ee_pose are damaged")


def test_a_topic_without_a_readable_message_is_an_error(demonstration: BagBuilder, tmp_path: Path) -> None:
    write(demonstration, tmp_path / "bag", StoragePlugin.SQLITE3)
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    database.execute("UPDATE messages SET data = x'ff'")
    database.commit()
    database.close()
    with pytest.raises(BagError, match="no message on /ee_pose can be read"), open_bag(tmp_path / "bag") as recording:
        list(recording.messages(["/ee_pose"]))


def test_other_topics_are_neither_decoded_nor_need_a_definition(
    demonstration: BagBuilder, robot, spec, timing, tmp_path: Path
) -> None:
    write(demonstration.noise("/lidar", 5), tmp_path / "bag", StoragePlugin.SQLITE3)
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    database.execute("UPDATE topics SET type = 'my_msgs/msg/Secret', serialization_format = 'own' "
                     "WHERE name = '/lidar'")  # fmt: skip
    database.execute("UPDATE message_definitions SET encoded_message_definition = '}{' "
                     "WHERE topic_type = 'sensor_msgs/msg/Image'")  # fmt: skip
    database.commit()
    database.close()
    (episode,), report = read_bag(tmp_path / "bag", robot, spec, timing)
    assert len(episode) == 20 and report.damage == ()
    with pytest.raises(BagError, match="serialized as 'own'"), open_bag(tmp_path / "bag") as recording:
        list(recording.messages(["/lidar"]))


@pytest.mark.parametrize("storage", STORAGES)
def test_messages_come_in_the_order_in_which_they_were_received(
    demonstration: BagBuilder, tmp_path: Path, storage: StoragePlugin
) -> None:
    """Recorders keep the order only roughly, above all across chunks."""
    built = demonstration.noise("/static_noise", 40)
    times_s = np.array([time_ns for time_ns, *_ in built.messages]) / 1e9
    order = np.argsort(times_s + np.random.default_rng(0).uniform(0.0, 0.9, len(times_s)))
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=storage)
    with writer:
        topics = {}
        for number in order:
            time_ns, topic, kind, message = built.messages[number]
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(topics[topic], time_ns, typestore().serialize_cdr(message, kind))
    times_ns = [time_ns for _, time_ns, _ in contents(tmp_path / "bag")]
    assert times_ns == sorted(time_ns for time_ns, *_ in built.messages)


@pytest.mark.parametrize("storage", STORAGES)
def test_topics_without_messages_are_ignored(tmp_path: Path, storage: StoragePlugin) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=storage) as writer:
        kind = "std_msgs/msg/String"
        said = writer.add_connection("/said", kind, typestore=typestore())
        writer.add_connection("/unsaid", kind, typestore=typestore())
        writer.write(said, 5, typestore().serialize_cdr(typestore().types[kind](data="go"), kind))
    with open_bag(tmp_path / "bag") as recording:
        assert {name: times.tolist() for name, times in recording.receive_times_ns().items()} == {"/said": [5]}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE])
def test_batches_contain_what_is_read_one_by_one(
    demonstration: BagBuilder, tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    if storage is StoragePlugin.SQLITE3 and compression is CompressionMode.STORAGE:
        compression = CompressionMode.FILE
    written = write(demonstration.noise("/static_noise", 60), tmp_path / "bag", storage, compression)
    with open_bag(tmp_path / "bag") as recording:
        assert sorted(in_batches(recording)) == sorted((topic, data) for topic, _, data in written)
        refs = recording.refs(["/ee_pose", "/language_command"])
        expected = [data for topic, _, data in written if topic in ("/ee_pose", "/language_command")]
        assert list(recording.read(refs)) == expected


def in_batches(recording: Recording) -> list[tuple[str, bytes]]:
    return [
        (topic.name, batch.data[start:stop])
        for _, topic, batch in recording.batches(recording.topics)
        for start, stop in zip(batch.start.tolist(), batch.stop.tolist(), strict=True)
    ]


def test_messages_compressed_one_by_one_are_in_no_batch_but_can_be_read(
    demonstration: BagBuilder, robot, spec, timing, tmp_path: Path
) -> None:
    write(demonstration, tmp_path / "bag", compression=CompressionMode.MESSAGE)
    with open_bag(tmp_path / "bag") as recording:
        assert in_batches(recording) == []
    (episode,), report = read_bag(tmp_path / "bag", robot, spec, timing)
    assert len(episode) == 20 and report.damage == ()


def test_no_batch_contains_messages_of_a_damaged_chunk(demonstration: BagBuilder, tmp_path: Path) -> None:
    built = demonstration.noise("/static_noise", 60)
    write(built, tmp_path / "bag")
    with open_bag(tmp_path / "bag") as recording:
        (file,) = recording._files
        whole, chunks = in_batches(recording), file._file.chunks
    data = bytearray((tmp_path / "bag" / "bag.mcap").read_bytes())
    second = chunks[1]
    records = slice(second.at, second.at + second.length)
    checksum_at = second.at - 8 - 4 - len(second.compression) - 4  # behind it: compression, size of the records
    data[checksum_at : checksum_at + 4] = zlib.crc32(data[records]).to_bytes(4, "little")
    data[second.at + second.length - 1] ^= 1
    (tmp_path / "bag" / "bag.mcap").write_bytes(data)
    with open_bag(tmp_path / "bag") as recording:
        found = in_batches(recording)
        (file,) = recording._files
        inside = int((file.index.block == 1).sum())
        assert inside > 0 and len(found) == len(whole) - inside and set(found) < set(whole)
    assert "the checksum of the chunk" in damage(tmp_path / "bag")


def test_reading_episodes_takes_two_passes_over_the_chunks(
    demonstration: BagBuilder, robot, spec, timing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for what was done, one for what was seen: decompressing is what costs time."""
    write(demonstration.noise("/static_noise", 120), tmp_path / "bag", compression=CompressionMode.STORAGE)
    inflated: list[mcap_chunks.Chunk] = []
    inflate = mcap_chunks.ChunkedFile._inflate
    monkeypatch.setattr(
        mcap_chunks.ChunkedFile, "_inflate", lambda self, chunk: inflated.append(chunk) or inflate(self, chunk)
    )
    (episode,), _ = read_bag(tmp_path / "bag", robot, spec, timing)
    assert len(episode) == 20
    assert len(set(inflated)) >= 5
    assert len(inflated) <= 2 * len(set(inflated))


def test_a_storage_file_alone_is_a_bag(demonstration: BagBuilder, tmp_path: Path) -> None:
    written = write(demonstration, tmp_path / "bag")
    assert find_bags([tmp_path / "bag" / "bag.mcap"]) == [tmp_path / "bag" / "bag.mcap"]
    assert contents(tmp_path / "bag" / "bag.mcap") == written


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bag.mcap", b"", "does not begin like an MCAP file"),
        ("bag.mcap", b"\x89MCAP0\r\n", "no message was recorded"),
        ("bag.db3", b"", "no table messages"),
        ("bag.db3", b"SQLite format 3\0" + b"\xff" * 2000, "is not a sqlite3 bag"),
        ("bag.mcap.zstd", b"\x28\xb5\x2f\xfd", "zstd compression is damaged"),
    ],
)
def test_unreadable_files_are_named_with_the_reason(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=said):
        contents(tmp_path)


def test_a_view_in_place_of_the_messages_is_not_queried(demonstration: BagBuilder, tmp_path: Path) -> None:
    """A query of a view runs whatever the file says, for ever if it likes."""
    write(demonstration, tmp_path / "bag", StoragePlugin.SQLITE3)
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    database.executescript(
        "ALTER TABLE messages RENAME TO m; CREATE VIEW messages AS "
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
        "SELECT x AS id, 1 AS topic_id, x AS timestamp, x'00' AS data FROM c;"
    )
    database.close()
    with pytest.raises(BagError, match="no table messages"):
        contents(tmp_path / "bag")


@pytest.mark.parametrize("text", ["", "}{", "[1, 2]", "rosbag2_bagfile_information: {relative_file_paths: 3}"])
def test_damaged_metadata_is_not_needed(demonstration: BagBuilder, tmp_path: Path, text: str) -> None:
    written = write(demonstration, tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").write_text(text)
    assert contents(tmp_path / "bag") == written
    assert "metadata.yaml is damaged" in damage(tmp_path / "bag")


def test_custom_data_of_a_killed_recorder_is_taken_from_its_mcap_file(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    write(demonstration, tmp_path / "bag", task="open the drawer")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with open_bag(tmp_path / "bag") as recording:
        assert recording.custom_data == {"task": "open the drawer"}


def test_renamed_files_are_explained(demonstration: BagBuilder, tmp_path: Path) -> None:
    write(demonstration, tmp_path / "bag")
    (tmp_path / "bag" / "bag.mcap").rename(tmp_path / "bag" / "other.mcap")
    with pytest.raises(BagError, match=r"lists bag\.mcap\. If the files were renamed, delete metadata\.yaml"):
        contents(tmp_path / "bag")


def test_errors_for_missing_and_empty_paths_say_what_a_bag_is(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        find_bags([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    for path in (tmp_path / "empty", tmp_path / "empty" / "notes.txt"):
        with pytest.raises(BagError, match="is not a bag and contains none"):
            find_bags([path])


def test_a_folder_stands_for_its_bags_in_order_of_name_finished_or_not(
    demonstration: BagBuilder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("two", "one", "broken"):
        demonstration.write(tmp_path / name)
    (tmp_path / "broken" / "metadata.yaml").unlink()
    (tmp_path / "three.partial").mkdir()
    shutil.copytree(tmp_path / "one", tmp_path / "four.partial" / "four")
    assert find_bags([tmp_path, tmp_path / "one"]) == [
        tmp_path / "broken", tmp_path / "four.partial" / "four", tmp_path / "one", tmp_path / "two",
    ]  # fmt: skip
    assert "three.partial: an unfinished recording without any message" in caplog.text


def test_loose_files_of_several_recordings_in_a_folder_are_a_bag_each(
    demonstration: BagBuilder, tmp_path: Path
) -> None:
    demonstration.write(tmp_path / "made")
    (tmp_path / "loose").mkdir()
    for name in ("monday.mcap", "tuesday.mcap"):
        shutil.copyfile(tmp_path / "made" / "made.mcap", tmp_path / "loose" / name)
    assert [path.name for path in find_bags([tmp_path / "loose"])] == ["monday.mcap", "tuesday.mcap"]


def test_bags_are_found_in_folders_at_any_depth(demonstration: BagBuilder, tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    found = [demonstration.write(tmp_path / "a" / "b" / "c" / "bag"), demonstration.write(tmp_path / "a" / "other")]
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert find_bags([tmp_path]) == found


def test_a_bag_of_ros_1_is_named_with_its_converter(tmp_path: Path) -> None:
    (tmp_path / "old.bag").touch()
    for path in (tmp_path, tmp_path / "old.bag"):
        with pytest.raises(BagError, match=r"ROS 1; convert it with `rosbags-convert --src .*old.bag --dst .*old`"):
            find_bags([path])
