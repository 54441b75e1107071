# SPDX-License-Identifier: Apache-2.0
"""ArrayRecord is read like TFRecord where its package is installed, and named with the ways out where it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny_datasets import framed

from vla_ros.datasets.errors import SourceError
from vla_ros.datasets.rlds import array_record, tfrecord
from vla_ros.datasets.rlds.listing import list_shards

NAME = "jaco_play-train.array_record-00000-of-00001"


class TFRecordAsArrayRecord:
    """The package's reader, as far as it is used, on a file that is TFRecord in truth."""

    def __init__(self, path: str) -> None:
        self._records = list(map(bytes, tfrecord.records(Path(path))))

    def ok(self) -> bool:
        return bool(self._records)

    def num_records(self) -> int:
        return len(self._records)

    def read(self, indices: list[int]) -> list[bytes]:
        if self._records[indices[0]] == b"torn":
            raise RuntimeError("chunk data hash mismatch")
        return [self._records[index] for index in indices]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("array_record.python.array_record_module")
    module.ArrayRecordReader = TFRecordAsArrayRecord  # type: ignore[attr-defined]
    for name in ("array_record", "array_record.python"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_without_its_package_the_error_names_the_format_and_the_ways_out(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "array_record", None)
    monkeypatch.delitem(sys.modules, "array_record.python.array_record_module", raising=False)
    (tmp_path / NAME).write_bytes(b"")
    assert list_shards(tmp_path).file_format == "array_record"
    expected = (
        r"format ArrayRecord.*pip install -e '\.\[arrayrecord\]'.*tfds convert_format.*--out_file_format=tfrecord"
    )
    with pytest.raises(SourceError, match=expected):
        array_record.require(tmp_path)


def test_damage_is_named_with_its_record(tmp_path: Path, stand_in) -> None:
    path = tmp_path / NAME
    path.write_bytes(framed(b"one") + framed(b"torn"))
    read = array_record.records(path)
    assert bytes(next(read)) == b"one"
    with pytest.raises(SourceError, match=r"record 1 can't be read \(chunk data hash mismatch\)"):
        next(read)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="cut off or damaged"):
        next(array_record.records(path))
    with pytest.raises(SourceError, match="is missing"):
        next(array_record.records(tmp_path / "absent"))


def test_files_of_the_real_package_are_read_and_truncated_ones_noticed(tmp_path: Path) -> None:
    """The package itself reads a truncated file as one without records."""
    module = pytest.importorskip("array_record.python.array_record_module")
    path, content = tmp_path / NAME, [bytes([index]) * 20_000 for index in range(40)]
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in content:
        writer.write(record)
    writer.close()
    assert list(map(bytes, array_record.records(path))) == content
    whole = path.read_bytes()
    for data in (b"", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(SourceError, match="cut off or damaged"):
            list(array_record.records(path))
