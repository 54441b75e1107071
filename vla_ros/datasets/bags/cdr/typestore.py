# SPDX-License-Identifier: Apache-2.0
"""Serialised messages to objects, with the type definitions that the bag itself holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.datasets.bags.cdr.fast_readers import common_reader
from vla_ros.datasets.bags.storage.entries import Damage, StoredTopic
from vla_ros.datasets.bags.writer import typestore

_IDL_SEPARATOR = "=" * 80 + "\n"


def decoder(topic: StoredTopic) -> Callable[[bytes], Any]:
    """Return what deserialises the messages of `topic`; it raises Damage for bytes that are no such message.

    Bags of before Iron (2023) hold no definitions: then those of ROS 2's common interfaces count.

    Raises:
        Damage: the messages are not CDR, or the type's definition is missing or can't be read.
    """
    types = types_of(topic)
    read_common = common_reader(types, topic.type)

    def decode(data: bytes) -> Any:
        if read_common is not None and (message := read_common(data)) is not None:
            return message
        try:
            return types.deserialize_cdr(data, topic.type)
        except MemoryError:  # says nothing about the bytes
            raise
        except Exception as error:  # generated code over foreign bytes
            raise Damage(f"{type(error).__name__}: {error}") from None

    return decode


def types_of(topic: StoredTopic) -> Typestore:
    """Return the definitions with which the messages of `topic` are read. Raises Damage, as `decoder`."""
    if topic.encoding != "cdr":
        raise Damage(f"its messages are serialised as {topic.encoding!r}; only ROS 2's 'cdr' can be read")
    types = _types(topic.type, topic.definition_format, topic.definition)
    _check_fields(types)
    return types


def definitions(topics: list[StoredTopic]) -> Typestore:
    """Return the definitions of all the types of `topics` together, to write them into another bag. Raises Damage."""
    merged = get_typestore(Stores.EMPTY)
    for topic in topics:
        known = _types(topic.type, topic.definition_format, topic.definition).fielddefs
        merged.register({name: fields for name, fields in known.items() if name not in merged.fielddefs})
    return merged


@functools.lru_cache(maxsize=256)
def _types(kind: str, definition_format: str, definition: str) -> Typestore:
    if not definition:
        if kind not in typestore().types:
            raise Damage(f"the bag lacks the definition of {kind}; `ros2 bag convert` on a machine that has it adds it")
        return typestore()
    types = get_typestore(Stores.EMPTY)
    try:
        types.register(_parse(kind, definition_format, definition))
    except MemoryError:
        raise
    except Exception as error:  # a parser over foreign text
        raise Damage(f"the definition of {kind} in the bag can't be read ({type(error).__name__}: {error})") from None
    if kind not in types.fielddefs:
        raise Damage(f"the definition of {kind} in the bag is of another type")
    return types


def _check_fields(types: Typestore) -> None:
    """Raise Damage where one of ROS 2's common interfaces lacks a field that it has: the text is damaged."""
    for name, (_, fields) in types.fielddefs.items():
        known = typestore().fielddefs.get(name, ((), ()))[1]
        missing = {field for field, _ in known} - {field for field, _ in fields}
        if missing:
            raise Damage(f"the definition of {name} in the bag lacks {', '.join(sorted(missing))}")


def _parse(kind: str, definition_format: str, definition: str) -> dict:
    if definition_format == "ros2msg":
        return dict(get_types_from_msg(definition, kind))
    if definition_format != "ros2idl":
        raise ValueError(f"unknown format {definition_format!r}")
    if not definition.startswith(_IDL_SEPARATOR + "IDL: "):
        return dict(get_types_from_idl(definition))
    types: dict = {}
    for part in definition.split(_IDL_SEPARATOR)[1:]:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))  # the line says which type it is
    return types
