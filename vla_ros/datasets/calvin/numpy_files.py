# SPDX-License-Identifier: Apache-2.0
"""Read npy and npz files that others made: no pickle is run, no more memory is taken than the file has bytes for."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.datasets.calvin.safe_pickle import PickledArray, read_pickle
from vla_ros.datasets.errors import SourceError

# What a picture or an annotation file has at most; a header that says more is wrong, or meant to take the memory.
LARGEST_ARRAY_BYTES = 1 << 28
LARGEST_FILE_BYTES = 1 << 30

_ERRORS = (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError,
           SyntaxError, tokenize.TokenError)  # fmt: skip  # the last two: of a header, which is parsed as Python text


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
    except (*_ERRORS, RuntimeError) as error:  # RuntimeError: an encrypted member
        raise SourceError(f"{path} is damaged: {error}") from None
    return arrays


def read_npy(path: Path) -> Any:
    """Return what is in an npy file: an array, or, of an array with one pickled object, that object.

    Raises:
        SourceError: the file is missing or damaged, or its pickle holds more than plain data.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise SourceError(f"{path} has {path.stat().st_size} bytes; allowed: {LARGEST_FILE_BYTES}")
        stream = BytesIO(path.read_bytes())
        shape, _, dtype = _header(stream)
        if not dtype.hasobject:
            stream.seek(0)
            return _read_array(stream)
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error}") from None
    except _ERRORS as error:
        raise SourceError(f"{path} is damaged: {error}") from None
    value = read_pickle(stream.read(), str(path))
    if not isinstance(value, PickledArray) or not isinstance(value.data, list) or shape != () or len(value.data) != 1:
        raise SourceError(f"{path} holds no single pickled object")
    return value.data[0]


def _read_array(stream: IO[bytes]) -> NDArray[Any]:
    shape, column_major, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError("an array of objects, which is not read")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not 0 <= size <= LARGEST_ARRAY_BYTES:
        raise ValueError(f"an array of shape {shape}; allowed: {LARGEST_ARRAY_BYTES} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"an array of shape {shape} with {len(data)} of {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if column_major else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the npy format")
