# SPDX-License-Identifier: Apache-2.0
"""Write files and folders that are either complete or not there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def absolute(path: str | Path) -> Path:
    """Return an absolute path with a proper name and parent, unlike `.` and `a/..`; links are kept."""
    return Path(path).resolve() if ".." in Path(path).parts else Path(path).absolute()


def is_plain_name(name: str) -> bool:
    """Return whether `name` is that of one file or folder: not empty, no separator, not `.` or `..`, printable."""
    return name.isprintable() and not {"/", "\\"} & set(name) and name not in ("", ".", "..")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield `NAME.partial` beside `path` for the caller to write, a file or a folder; rename it to `path` at the end.

    The parent folder is created. A file replaces an existing one; a folder must not exist yet. If the body raises,
    the partial result is removed and `path` stays as it was.

    Raises:
        OSError: the disk is full, or its permissions do not allow writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    _remove(partial)
    try:
        yield partial
        if partial.is_file():
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
