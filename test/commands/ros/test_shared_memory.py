# SPDX-License-Identifier: Apache-2.0
"""Only the leftovers of our own processes are removed."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from vla_ros.commands.ros.process_group import SHARED_MEMORY, remove_segments, shared_segments

NAME = f"fastdds_vla_ros_test_{os.getpid()}"


@pytest.fixture
def files():
    made = [SHARED_MEMORY / name for name in (NAME, f"{NAME}_el", f"sem.{NAME}_mutex", f"{NAME}_other")]
    for file in made:
        file.write_bytes(b"\0" * 4096)
    yield made
    for file in made:
        file.unlink(missing_ok=True)


def test_a_segment_is_removed_with_its_locks_and_no_other(files):
    remove_segments({NAME})
    assert [file.exists() for file in files] == [False, False, False, True]


def test_segments_mapped_by_a_running_process_stay(files):
    with files[0].open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert NAME in shared_segments(os.getpid())
        remove_segments({NAME})
        assert files[0].exists()
    assert NAME not in shared_segments(os.getpid())


def test_segments_that_cannot_be_removed_are_no_error(files, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_segments({NAME})
    monkeypatch.undo()
    assert files[0].exists()
