# SPDX-License-Identifier: Apache-2.0
"""Read ArrayRecord files, which newer versions of TensorFlow Datasets write, with Google's package array_record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vla_ros.datasets.errors import SourceError
from vla_ros.errors import how_to_install


def require(folder: Path) -> None:
    """Raise SourceError, with the ways out, if the data set in `folder` can't be read for lack of the package."""
    try:
        _reader_class()
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{folder} is in the format ArrayRecord, but the Python package {error.name!r} is missing; "
            f"{how_to_install('arrayrecord')}. Or convert it where TensorFlow Datasets is installed: tfds "
            f"convert_format --dataset_dir={folder} --out_file_format=tfrecord --out_dir={folder}_tfrecord"
        ) from None


def records(path: Path) -> Iterator[memoryview]:
    """Yield the records of an ArrayRecord file, whose checksums the package verifies.

    Raises:
        SourceError: the file is damaged or cut off, or can't be read.
    """
    if not path.is_file():
        raise SourceError(f"{path} is missing")
    reader = _reader_class()(str(path))
    # A file that is cut off has no index at its end: to the package it is one without records.
    if not reader.ok() or not reader.num_records():
        raise SourceError(f"{path} is cut off or damaged: it has no index of its records; copy it again")
    for index in range(reader.num_records()):
        try:
            [record] = reader.read([index])
        except (RuntimeError, ValueError, IndexError) as error:
            raise SourceError(f"{path} is damaged: record {index} can't be read ({error}); copy it again") from None
        yield memoryview(record)


def _reader_class() -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader
