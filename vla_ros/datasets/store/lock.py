# SPDX-License-Identifier: Apache-2.0
"""A lock between processes that ends with the process that holds it, however that one ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vla_ros.datasets.errors import StoreError
from vla_ros.datasets.store.names import ELSEWHERE


@contextlib.contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path` inside `with`, and remove it after; yields False, at once, where `wait` is not allowed.

    Raises:
        StoreError: the disk does not take locks, or the folder can't be written.
    """
    try:
        descriptor = _acquire(path, wait)
    except OSError as error:
        raise StoreError(
            f"{path.parent} can't be locked ({error.strerror}); decoded demonstrations are kept there. Make it "
            f"writable, or {ELSEWHERE}"
        ) from None
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # still held: whoever waits sees that its file is gone, and makes a new one
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquire(path: Path, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
