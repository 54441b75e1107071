# SPDX-License-Identifier: Apache-2.0
"""Read npy and npz files from untrusted sources: no code is run, and no memory is taken beyond the data in the file.

CALVIN keeps its annotations in a pickle, a program that may call anything. Here it may call nine functions, those by
which Python and numpy save bytes and arrays, and torch the embeddings that some annotations have, which are not read.
It gets harmless stand-ins even for these: numpy's own accept any dtype and flags, with which a pickle could make numpy
read memory that is not its own.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection
from io import BytesIO
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.errors import SourceError

# Images and annotations are smaller; a header that says otherwise is damaged, or meant to exhaust the memory.
LARGEST_ARRAY_BYTES = 1 << 28
LARGEST_FILE_BYTES = 1 << 30

# A number, a bool or text of so many bytes: no type that numpy would have to parse.
_TYPE_CODE = re.compile(r"[<>|=]?[biufSU]\d{0,8}")
_DAMAGED = (
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,  # of an encrypted member
    SyntaxError,  # these two of a header, which is parsed as Python text
    tokenize.TokenError,
)
_DAMAGED_PICKLE = (*_DAMAGED, pickle.UnpicklingError, TypeError, IndexError, AttributeError, OverflowError)


def read_npz(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays `names` of an npz file; others are not even decompressed.

    Raises:
        SourceError: the file is missing or damaged, or lacks one of them.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                with archive.open(f"{name}.npy") as stream:
                    arrays[name] = _read_array(stream)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except KeyError:
        raise SourceError(f"{path} has no array {name!r}") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error}") from None
    except _DAMAGED as error:
        raise SourceError(f"{path} is damaged: {error}") from None
    return arrays


def read_npy(path: Path) -> Any:
    """Return what an npy file holds: an array, or the object if it is an array with one pickled object.

    Raises:
        SourceError: the file is missing or damaged, or its pickle holds more than plain data.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise SourceError(f"{path} has {path.stat().st_size} bytes; must be at most {LARGEST_FILE_BYTES}")
        stream = BytesIO(path.read_bytes())
        shape, _, dtype = _header(stream)
        if not dtype.hasobject:
            stream.seek(0)
            return _read_array(stream)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error}") from None
    except _DAMAGED as error:
        raise SourceError(f"{path} is damaged: {error}") from None
    value = read_pickle(stream.read(), str(path))
    if not isinstance(value, PickledArray) or not isinstance(value.data, list) or shape != () or len(value.data) != 1:
        raise SourceError(f"{path} does not hold a single pickled object")
    return value.data[0]


def read_pickle(data: bytes, name: str) -> Any:
    """Return the value in a pickle of plain data: text, numbers, lists, dicts, tuples, and arrays as `PickledArray`.

    Raises:
        SourceError: the pickle calls anything else, or is damaged; the message begins with `name`.
    """
    try:
        return _PlainDataUnpickler(BytesIO(data)).load()
    except SourceError as error:
        raise SourceError(f"{name}: {error}") from None
    except MemoryError:
        raise SourceError(f"{name} declares more data than fits into memory") from None
    except _DAMAGED_PICKLE as error:
        raise SourceError(f"{name} is damaged: {error}") from None


# Python's own implementation: the one in C reserves memory up to whatever memo index a damaged file names. Bytearrays,
# which no annotation has, would be filled with zeros to whatever length it names.
class _PlainDataUnpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        function = _STAND_INS.get((module, name))
        if function is None:
            raise SourceError(
                f"it wants to call {module}.{name}, but annotations hold only text, numbers and arrays; the file is "
                "damaged or malicious, and is not read"
            )
        # A new function each time: a pickle may set attributes of what it gets.
        return lambda *arguments: function(*arguments)


@dataclasses.dataclass
class _Type:
    """Stands in for a numpy dtype."""

    code: str
    order: str = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _checked(state[1], str)

    def dtype(self) -> np.dtype[Any]:
        if not _TYPE_CODE.fullmatch(self.code):
            raise ValueError(f"an array of type {self.code!r}")
        dtype = np.dtype(self.code)
        return np.dtype(dtype.newbyteorder(">")) if self.order == ">" else dtype


@dataclasses.dataclass
class PickledArray:
    """Stands in for a numpy array; `data` is bytes, or a list for an array of objects."""

    shape: tuple[int, ...] = ()
    type: _Type = dataclasses.field(default_factory=lambda: _Type("O"))
    data: bytes | list[Any] = b""
    column_major: bool = False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, column_major, data = state
        self.shape = tuple(_checked(size, int) for size in _checked(shape, tuple))
        self.type, self.column_major = _checked(kind, _Type), bool(column_major)
        if isinstance(data, str):  # Python 2's bytes
            data = data.encode("latin-1")
        self.data = data if isinstance(data, list) else _checked(data, bytes)

    def tolist(self) -> list[Any]:
        """Return the values, row by row; raise ValueError if shape and data do not match."""
        return self.data if isinstance(self.data, list) else list(self.array().tolist())

    def array(self) -> NDArray[Any]:
        """Return the numbers or text as an array; raise ValueError if shape and data do not match, or for objects."""
        dtype = self.type.dtype()
        size = dtype.itemsize * int(np.prod(self.shape, dtype=object))
        if not isinstance(self.data, bytes) or size != len(self.data):
            raise ValueError(f"an array of shape {self.shape} and type {dtype} whose data do not match")
        return np.frombuffer(self.data, dtype).reshape(self.shape, order="F" if self.column_major else "C")


def _scalar(kind: Any, data: Any) -> Any:
    return np.frombuffer(_checked(data, bytes), _checked(kind, _Type).dtype(), count=1)[0].item()


def _never_called(*_: Any) -> None:
    raise ValueError("numpy.ndarray is called, which numpy's pickles never do")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    # Its content comes with __setstate__.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: PickledArray() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("numpy", "ndarray"): _never_called,
    ("numpy", "dtype"): lambda code, *_: _Type(_checked(code, str)),
    ("_codecs", "encode"): lambda text, *_: _checked(text, str).encode("latin-1"),  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): lambda: b"",  # and empty ones
    # A tensor: its content, its hooks, which are always empty, and itself. All are dropped.
    ("torch.storage", "_load_from_bytes"): lambda *_: None,
    ("collections", "OrderedDict"): lambda: {},
    ("torch._utils", "_rebuild_tensor_v2"): lambda *_: None,
}


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _read_array(stream: IO[bytes]) -> NDArray[Any]:
    shape, column_major, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError("an array of objects, which is not read")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not 0 <= size <= LARGEST_ARRAY_BYTES:
        raise ValueError(f"an array of shape {shape}; must have at most {LARGEST_ARRAY_BYTES} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"an array of shape {shape} with {len(data)} of {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if column_major else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the npy format")
