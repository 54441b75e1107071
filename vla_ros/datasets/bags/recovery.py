# SPDX-License-Identifier: Apache-2.0
"""Rewrite what a killed recorder left behind as a complete bag, for tools that need one; training reads it as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from rosbags.rosbag2.metadata import parse_qos

from vla_ros.datasets.bags.cdr.messages import definitions
from vla_ros.datasets.bags.open_bag import METADATA, open_bag
from vla_ros.datasets.bags.recording import Recording
from vla_ros.datasets.bags.storage.container import Damage
from vla_ros.datasets.bags.writer import BagWriter, TopicQos
from vla_ros.datasets.errors import BagError
from vla_ros.files import PARTIAL


def recover(path: str | Path) -> Path:
    """Copy the messages of an unfinished bag into a new bag beside it, NAME_recovered, and return that folder.

    `path`, NAME.partial or a folder without metadata.yaml, is left unchanged. Raises BagError if there is nothing to
    recover, or NAME_recovered exists.
    """
    path = Path(path)
    if (path / METADATA).is_file():
        raise BagError(f"{path} is a finished bag: there is nothing to recover")
    target = path.with_name(f"{path.name.removesuffix(PARTIAL)}_recovered")
    with open_bag(path) as recording:
        try:
            types = definitions(list(recording.stored_topics().values()))
        except Damage as error:
            raise BagError(f"{path} can't be recovered: {error}") from None
        _copy(recording, BagWriter(target, types))
    return target


def _copy(recording: Recording, writer: BagWriter) -> None:
    """Copy everything into `writer` and close it; after a failure, keep `.partial` only if it contains messages."""
    try:
        with writer:
            for name, topic in recording.stored_topics().items():
                writer.add_topic(name, topic.type, _qos(topic.offered_qos))
            for topic, receive_ns, data in recording.serialized():
                writer.write(topic.name, receive_ns, data)
    except BaseException:
        if not writer.messages:
            shutil.rmtree(writer.partial)
        raise


def _qos(offered: str) -> TopicQos:
    try:
        profiles = parse_qos(offered) if offered else []
    except Exception:  # foreign text; the messages matter more than their QoS
        profiles = []
    return next((TopicQos(one.reliability.name.lower(), one.durability.name.lower()) for one in profiles), TopicQos())
