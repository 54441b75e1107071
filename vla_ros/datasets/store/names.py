# SPDX-License-Identifier: Apache-2.0
"""What things in a store are called, and which of them are ours to remove: a store may be any folder of the user's.

NAME-KEY is the folder of an entry, NAME-KEY.partial one that is being made, NAME-KEY.lock the lock of whoever makes it.
"""

from __future__ import annotations

import re
from pathlib import Path

from vla_ros.datasets.errors import StoreError

PARTIAL = ".partial"
LOCK = ".lock"
# The way out where a store can't be where it is.
ELSEWHERE = "name a folder on another disk: --set data.store=FOLDER of `vla fit`, --store FOLDER of `vla replay`"

# In every folder of ours from its first moment on.
MARKER = ".vla_store_entry"
MARKER_TEXT = "Decoded demonstrations, made by vla_ros. `vla store` lists and removes them.\n"

# How many characters of the key are in a name; the manifest has all of them.
_KEY_CHARACTERS = 20
_NAME = re.compile(rf"(?P<entry>(?P<part>.+)-[0-9a-f]{{{_KEY_CHARACTERS}}})(?P<ending>|\{PARTIAL}|\{LOCK})", re.DOTALL)


def entry_name(part: str, key: str) -> str:
    """Return what the entry of a part (its name) with a key is called."""
    return f"{safe_name(part)}-{key[:_KEY_CHARACTERS]}"


def safe_name(part: str) -> str:
    """Return a part's name as the beginning of a file name."""
    return re.sub(r"[^\w.-]", "_", part)[:80]


def shard_of(path: Path) -> str | None:
    """Return the safe name of the part whose whole entry is called as `path` is; None for any other name."""
    match = _NAME.fullmatch(path.name)
    return match["part"] if match and not match["ending"] else None


def lock_of(path: Path) -> Path:
    """Return the lock file for an entry, its partial folder, or the lock file itself."""
    return path.with_name(_entry_of(path) + LOCK)


def partial_of(path: Path) -> Path:
    """Return the folder in which the entry is made that is called as `path` is."""
    return path.with_name(_entry_of(path) + PARTIAL)


def is_ours(path: Path) -> bool:
    """Whether `path` is an entry, a partial one or a lock that a store made, by its name and by what is in it."""
    match = _NAME.fullmatch(path.name)
    if match is None or path.is_symlink():
        return False
    if match["ending"] == LOCK:
        return path.is_file() and path.stat().st_size == 0
    if not path.is_dir():
        return False
    return (path / MARKER).is_file() or not any(path.iterdir())  # empty: killed before the marker was written


def require_ours(path: Path) -> None:
    """Raise StoreError where `path` must not be removed: a store did not make it, or somebody put a folder into it."""
    if not is_ours(path) or (path.is_dir() and any(one.is_dir() and not one.is_symlink() for one in path.iterdir())):
        raise StoreError(
            f"{path} was not made by vla_ros, or was changed since: it is not removed. Move it away, or {ELSEWHERE}"
        )


def remove_folder(folder: Path) -> None:
    """Remove an entry's folder, its marker last, so that what a killed removal leaves is still known as ours.

    Raises:
        StoreError: as `require_ours`; nothing was removed.
    """
    require_ours(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MARKER):
        path.unlink()
    folder.rmdir()


def _entry_of(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise StoreError(f"{path} is nothing of a store's: names there end in - and {_KEY_CHARACTERS} digits of a key")
    return match["entry"]
