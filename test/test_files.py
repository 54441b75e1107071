# SPDX-License-Identifier: Apache-2.0
"""A file or folder is complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros.files import atomic_write, write_text


def test_a_file_replaces_the_previous_one_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "report.json"
    write_text(path, "old")
    write_text(path, "new µ")
    assert path.read_text(encoding="utf-8") == "new µ"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half of it")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    (tmp_path / "checkpoint.partial").mkdir()
    (tmp_path / "checkpoint.partial" / "left by a killed process").touch()
    with atomic_write(path) as partial:
        partial.mkdir()
        (partial / "weights").touch()
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["weights"] and list(tmp_path.iterdir()) == [path]
