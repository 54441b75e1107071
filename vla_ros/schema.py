# SPDX-License-Identifier: Apache-2.0
"""Parse plain data (JSON, YAML) into frozen dataclasses, strictly: no unknown keys, no values of a wrong type."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from vla_ros.errors import UserError

T = TypeVar("T")
MakeError = Callable[[str], UserError]


def parse(kind: type[T], data: Any, where: str, error: MakeError, *, defaults: bool = True) -> T:
    """Build the dataclass `kind` from `data`, a dict as JSON or YAML gives it.

    Args:
        where: what the data is, for messages ("config/robots/panda.yaml").
        error: makes the exception from a message.
        defaults: accept missing keys that have a default; False requires every key.

    Raises:
        UserError: made by `error`, for an unknown or missing key or a value of a wrong type. Errors raised by the
            dataclass itself pass through.
    """
    if not isinstance(data, dict):
        raise error(f"{where} must be an object with the keys of {kind.__name__}; got {data!r}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind)) if field.init}
    for key in data:
        if key not in fields:
            raise error(f"{where}: unknown key {key!r}; {suggestion(str(key), fields)}")
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in data and not (defaults and has_default):
            raise error(f"{where}: missing key {name!r}; required are {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, f"{where}: {key}", error, defaults) for key, value in data.items()})


def suggestion(name: str, allowed: typing.Iterable[str]) -> str:
    """Return "did you mean ...?" if one of `allowed` is similar to `name`, else the whole list."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(names)}"


def _value(expected: Any, value: Any, where: str, error: MakeError, defaults: bool) -> Any:
    origin = typing.get_origin(expected)
    if expected is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(expected) if option is not type(None)]
        return None if value is None else _value(options[0], value, where, error, defaults)
    if origin is typing.Literal:
        if value not in typing.get_args(expected):
            raise error(f"{where} must be one of {', '.join(map(repr, typing.get_args(expected)))}; got {value!r}")
        return value
    if origin is tuple:
        return _tuple(typing.get_args(expected), value, where, error, defaults)
    if origin is dict:
        if not isinstance(value, dict):
            raise error(f"{where} must be an object; got {value!r}")
        kind = typing.get_args(expected)[1]
        return {str(key): _value(kind, entry, f"{where}: {key}", error, defaults) for key, entry in value.items()}
    if dataclasses.is_dataclass(expected):
        return parse(typing.cast(type, expected), value, where, error, defaults=defaults)
    return _scalar(expected, value, where, error)


def _tuple(kinds: tuple[Any, ...], value: Any, where: str, error: MakeError, defaults: bool) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise error(f"{where} must be a list; got {value!r}")
    if Ellipsis in kinds:
        kinds = (kinds[0],) * len(value)
    elif len(value) != len(kinds):
        raise error(f"{where} must have {len(kinds)} items; got {len(value)}")
    return tuple(
        _value(kind, entry, f"{where}[{index}]", error, defaults)
        for index, (kind, entry) in enumerate(zip(kinds, value))
    )


def _scalar(expected: type, value: Any, where: str, error: MakeError) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is float and is_number and math.isfinite(value):
        return float(value)
    if type(value) is expected and expected is not float:
        return value
    raise error(f"{where} must be of type {getattr(expected, '__name__', expected)}; got {value!r}")
