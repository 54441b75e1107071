# SPDX-License-Identifier: Apache-2.0
"""Read the values out of a pickle without unpickling it: text, numbers, lists, dicts, tuples and numpy arrays.

A pickle is a program, and Python's `pickle` runs it. Here the program is only read (`pickletools` disassembles it):
of all that it may call, the six functions by which Python and numpy save bytes and arrays are understood, and nothing
is ever called.
"""

from __future__ import annotations

import dataclasses
import pickletools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import SourceError

_RECONSTRUCT, _SCALAR, _ARRAY, _DTYPE, _ENCODE, _BYTES = "reconstruct", "scalar", "ndarray", "dtype", "encode", "bytes"
_KNOWN = {
    **{f"numpy.{core}.multiarray _reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _SCALAR for core in ("core", "_core")},
    "numpy ndarray": _ARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,  # how protocol 2 writes bytes
    "__builtin__ bytes": _BYTES,  # and empty ones
}
# A number, a truth value or text of so many bytes: nothing that numpy would have to parse.
_TYPE_CODE = re.compile(r"[<>|=]?[biufSU]\d{0,8}")
_MARK = object()

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_SMALL_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass
class _Type:
    """A numpy dtype in the making."""

    code: str
    order: str = "|"

    def dtype(self) -> np.dtype:
        if not _TYPE_CODE.fullmatch(self.code):
            raise ValueError(f"an array of type {self.code!r}")
        dtype = np.dtype(self.code)
        return np.dtype(dtype.newbyteorder(">")) if self.order == ">" else dtype


@dataclasses.dataclass
class PickledArray:
    """A numpy array as it lies in a pickle: `data` is bytes, or a list for an array of objects."""

    shape: tuple[int, ...] = ()
    type: _Type = dataclasses.field(default_factory=lambda: _Type("O"))
    data: bytes | list = b""
    column_major: bool = False

    def tolist(self) -> list:
        """Return the values, row by row; raises ValueError where shape and data do not fit."""
        if isinstance(self.data, list):
            return self.data
        return self.array().tolist()

    def array(self) -> NDArray:
        """Return the array of numbers or text; raises ValueError where shape and data do not fit, or for objects."""
        dtype = self.type.dtype()
        if not isinstance(self.data, bytes) or dtype.itemsize * int(np.prod(self.shape, dtype=object)) != len(
            self.data
        ):
            raise ValueError(f"an array of shape {self.shape} and type {dtype} whose data do not fit")
        return np.frombuffer(self.data, dtype).reshape(self.shape, order="F" if self.column_major else "C")


def read_pickle(data: bytes, name: str) -> Any:
    """Return the value in a pickle. Arrays come as `PickledArray`.

    Raises:
        SourceError: the pickle wants to call something that is not known here, or is damaged; `name` says whose it is.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except SourceError as error:
        raise SourceError(f"{name}: {error}") from None
    # Whatever a damaged file may bring about; nothing of it was executed.
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise SourceError(f"{name} is damaged: {error}") from None
    raise SourceError(f"{name} is damaged: it ends too early")


class _Machine:
    """The stack and the memo of a pickle's program."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _SMALL_TUPLES:
            items = [stack.pop() for _ in range(_SMALL_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name not in ("PROTO", "FRAME"):
            self._compose(name, argument)

    def _compose(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name == "APPEND":
            item = stack.pop()
            _checked(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = self._to_mark()
            _checked(stack[-1], list).extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _checked(stack[-1], dict)[key] = value
        elif name == "SETITEMS":
            items = self._to_mark()
            _checked(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("TUPLE", "LIST"):
            items = self._to_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name == "DICT":
            items = self._to_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                argument = f"{module} {attribute}"
            stack.append(_known(argument))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, _checked(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], _checked(state, tuple))
        else:
            raise SourceError(f"it uses {name}, which only programs need; it is not read")

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


def _known(name: str) -> _Global:
    if name not in _KNOWN:
        raise SourceError(
            f"it wants to call {name.replace(' ', '.')}; annotations hold text, numbers and arrays only, so this file "
            "is damaged or meant to do harm, and is not read"
        )
    return _Global(_KNOWN[name])


def _reduce(function: Any, arguments: tuple) -> Any:
    kind = _checked(function, _Global).name
    if kind == _RECONSTRUCT:
        return PickledArray()
    if kind == _DTYPE:
        return _Type(_checked(arguments[0], str))
    if kind == _ENCODE:
        return _checked(arguments[0], str).encode("latin-1")
    if kind == _BYTES and not arguments:
        return b""
    if kind == _SCALAR:
        return np.frombuffer(_checked(arguments[1], bytes), _checked(arguments[0], _Type).dtype(), count=1)[0].item()
    raise ValueError(f"{kind} is not called by numpy")


def _build(target: Any, state: tuple) -> None:
    if isinstance(target, _Type):
        target.order = _checked(state[1], str)
        return
    array = _checked(target, PickledArray)
    _, shape, kind, column_major, data = state
    array.shape = tuple(_checked(size, int) for size in _checked(shape, tuple))
    array.type, array.column_major = _checked(kind, _Type), bool(column_major)
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin-1")
    array.data = data if isinstance(data, list) else _checked(data, bytes)


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value
