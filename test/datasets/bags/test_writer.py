# SPDX-License-Identifier: Apache-2.0
"""Bags get their name only once complete, and nothing recorded is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rosbags.highlevel import AnyReader

from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.recovery import recover
from vla_ros.datasets.bags.writer import BagWriter, TopicQos
from vla_ros.datasets.errors import BagError

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS


def text(value: str) -> bytes:
    kind = "std_msgs/msg/String"
    return bytes(typestore().serialize_cdr(typestore().types[kind](data=value), kind))


def contents(folder: Path) -> list[tuple[str, int, str]]:
    with AnyReader([folder]) as reader:
        return [
            (connection.topic, time_ns, reader.deserialize(data, connection.msgtype).data)
            for connection, time_ns, data in reader.messages()
        ]


def record(writer: BagWriter, seconds: int) -> list[tuple[str, int, str]]:
    writer.add_topic("/say", "std_msgs/msg/String")
    written = [("/say", START_NS + second * SECOND_NS, f"message {second}") for second in range(seconds)]
    for topic, time_ns, value in written:
        writer.write(topic, time_ns, text(value))
    return written


def test_a_bag_contains_what_was_written_at_its_receive_times(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        written = record(writer, 5)
        assert not (tmp_path / "bag").exists()
    assert contents(tmp_path / "bag") == written
    assert {file.name for file in (tmp_path / "bag").iterdir()} == {"bag.mcap", "metadata.yaml"}
    assert not (tmp_path / "bag.partial").exists()


def test_metadata_records_the_offered_qos(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/language_command", "std_msgs/msg/String", TopicQos("reliable", "transient_local"))
        writer.add_topic("/image", "sensor_msgs/msg/Image", TopicQos("best_effort"))
        writer.write("/language_command", START_NS, text("go"))
    information = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    offered = {
        entry["topic_metadata"]["name"]: entry["topic_metadata"]["offered_qos_profiles"][0]
        for entry in information["topics_with_message_count"]
    }
    assert information["storage_identifier"] == "mcap"
    assert (offered["/language_command"]["reliability"], offered["/language_command"]["durability"]) == (
        "reliable", "transient_local",
    )  # fmt: skip
    assert (offered["/image"]["reliability"], offered["/image"]["durability"]) == ("best_effort", "volatile")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match=r"cannot write .*file/bag: Not a directory .*choose another folder"):
        BagWriter(tmp_path / "file" / "bag")


@pytest.mark.parametrize("existing", ["bag", "bag.partial"])
def test_an_existing_bag_is_never_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).mkdir()
    with pytest.raises(BagError, match=f"{existing} already exists"):
        BagWriter(tmp_path / "bag")
    assert list(tmp_path.iterdir()) == [tmp_path / existing]


def test_a_name_taken_meanwhile_loses_no_data(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    written = record(writer, 3)
    (tmp_path / "bag").mkdir()
    with pytest.raises(BagError, match=r"created by another program.*bag\.partial/bag"):
        writer.close()
    assert contents(tmp_path / "bag.partial" / "bag") == written


def test_exception_while_recording_leaves_a_readable_partial_bag(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag") as writer:
        written = record(writer, 3)
        raise RuntimeError
    assert not (tmp_path / "bag").exists()
    assert contents(tmp_path / "bag.partial" / "bag") == written


def test_killed_recorder_loses_its_last_second_at_most(tmp_path: Path) -> None:
    written = record(BagWriter(tmp_path / "bag"), 5)  # and then no close
    recovered = recover(tmp_path / "bag.partial")
    assert recovered == tmp_path / "bag_recovered"
    assert contents(recovered) == written[: len(contents(recovered))]
    assert len(contents(recovered)) >= 4


def test_file_cut_off_in_a_record_is_recovered_up_to_there(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        written = record(writer, 9)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    storage = tmp_path / "bag" / "bag.mcap"
    data = storage.read_bytes()
    storage.write_bytes(data[: data.index(b"message 6\0")])
    recovered = contents(recover(tmp_path / "bag"))
    assert recovered == written[: len(recovered)]
    assert len(recovered) >= 4
    assert storage.read_bytes() == data[: data.index(b"message 6\0")]


def test_a_recovery_that_fails_leaves_no_empty_bag_and_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(BagWriter(tmp_path / "bag"), 5)

    def fail(*_: object) -> None:
        raise BagError("no such type")

    monkeypatch.setattr(BagWriter, "add_topic", fail)
    with pytest.raises(BagError, match="no such type"):
        recover(tmp_path / "bag.partial")
    assert [path.name for path in tmp_path.iterdir()] == ["bag.partial"]


def test_recovering_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"contains no \.mcap or \.db3 file"):
        recover(tmp_path)
    BagWriter(tmp_path / "bag")
    for _ in range(2):  # the first try leaves nothing that is in the way of the second
        with pytest.raises(BagError, match="none reached the disk"):
            recover(tmp_path / "bag.partial")
    assert [path.name for path in tmp_path.iterdir()] == ["bag.partial"]
    with BagWriter(tmp_path / "whole") as writer:
        record(writer, 1)
    with pytest.raises(BagError, match="finished bag"):
        recover(tmp_path / "whole")


def test_invalid_topics_types_and_qos_are_rejected(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/say", "std_msgs/msg/String")
        with pytest.raises(BagError, match="'/say' is already declared in bag"):
            writer.add_topic("/say", "std_msgs/msg/String")
        with pytest.raises(BagError, match=r"'/other' is not declared.*declared topics: /say"):
            writer.write("/other", START_NS, text("x"))
        with pytest.raises(BagError, match="'my_msgs/msg/Secret', whose definition is unknown"):
            writer.add_topic("/secret", "my_msgs/msg/Secret")
        with pytest.raises(BagError, match=r"must be reliable or best_effort; got 'reliably'"):
            writer.add_topic("/fast", "std_msgs/msg/String", TopicQos("reliably"))
