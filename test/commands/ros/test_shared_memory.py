# SPDX-License-Identifier: Apache-2.0
"""Only what our own processes left behind is removed."""

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


def test_a_segment_goes_with_its_locks_and_nobody_else_s_does(files):
    remove_segments({NAME})
    assert [file.exists() for file in files] == [False, False, False, True]


def test_what_a_running_process_maps_is_known_and_stays(files):
    with files[0].open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert NAME in shared_segments(os.getpid())
        remove_segments({NAME})
        assert files[0].exists()
    assert NAME not in shared_segments(os.getpid())


def test_what_may_not_be_removed_is_no_error(files, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_segments({NAME})
    monkeypatch.undo()
    assert files[0].exists()
