# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from vla_ros.datasets.bags.cdr.messages import typestore
from vla_ros.datasets.bags.open_bag import find_bags, open_bag
from vla_ros.datasets.errors import BagError

STRING = "std_msgs/msg/String"
STORAGES = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]
START_S = 100.0
RUN = tuple(START_S + 0.1 * tick for tick in range(40))


def write(bag: Path, *written: tuple[str, Sequence[float]], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """Write messages in this order: (topic, receive times [s]) one after the other."""
    with Writer(bag, version=9, storage_plugin=storage) as writer:
        topics = {}
        for topic, times_s in written:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, STRING, typestore=typestore())
            for time_s in times_s:
                data = typestore().serialize_cdr(typestore().types[STRING](data="go"), STRING)
                writer.write(topics[topic], round(1e9 * time_s), data)
    return bag


def opened(bag: Path) -> int:
    with open_bag(bag) as recording:
        return sum(topic.messages for topic in recording.topics.values())


@pytest.mark.parametrize("storage", STORAGES)
def test_two_runs_over_each_other_are_refused_with_the_spans_of_both(tmp_path: Path, storage: StoragePlugin) -> None:
    bag = write(tmp_path / "bag", ("/said", RUN), ("/said", [time_s + 0.007 for time_s in RUN]), storage=storage)
    with pytest.raises(BagError, match=r"/said, 100\.\d+ s to 103\.\d+ s was written after 100\.\d+ s to 103\.\d+ s"):
        opened(bag)


@pytest.mark.parametrize("storage", STORAGES)
def test_what_a_recorder_s_threads_or_a_converter_write_is_in_order(tmp_path: Path, storage: StoragePlugin) -> None:
    jitter = [time_s + (0.4 if number % 3 else 0.0) for number, time_s in enumerate(RUN)]
    assert opened(write(tmp_path / "bag", ("/said", jitter), ("/heard", RUN), ("/once", [50.0]), storage=storage)) == 81


def test_a_single_message_with_a_wrong_time_is_no_second_run(tmp_path: Path) -> None:
    assert opened(write(tmp_path / "ahead", ("/said", [*RUN[:20], 900.0, *RUN[20:]]))) == 41
    assert opened(write(tmp_path / "behind", ("/said", [*RUN[:20], 0.0, *RUN[20:]]))) == 41


def test_files_that_overlap_are_recordings_of_their_own(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", ("/said", RUN))
    (bag / "metadata.yaml").unlink()
    other = write(tmp_path / "other", ("/said", [time_s + 2.0 for time_s in RUN]))
    (other / "other.mcap").rename(bag / "bag_1.mcap")
    with pytest.raises(BagError, match=r"bag\.mcap has 100\.000 s to 103\.900 s and bag_1\.mcap has 102\.000 s"):
        opened(bag)
    assert opened(bag / "bag_1.mcap") == 40


def test_loose_files_that_are_not_named_after_their_folder_are_a_bag_each(tmp_path: Path) -> None:
    folder = tmp_path / "demos"
    folder.mkdir()
    for number in range(2):
        bag = write(tmp_path / str(number), ("/said", [time_s + 1000.0 * number for time_s in RUN]))
        (bag / f"{number}.mcap").rename(folder / f"episode_{number}.mcap")
    assert find_bags([folder]) == [folder / "episode_0.mcap", folder / "episode_1.mcap"]
    for number in range(2):
        (folder / f"episode_{number}.mcap").rename(folder / f"demos_{number}.mcap")
    assert find_bags([folder]) == [folder]
