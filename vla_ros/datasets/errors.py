# SPDX-License-Identifier: Apache-2.0
"""Errors of demonstrations: of bags, of other sources, and of the store."""

from __future__ import annotations

from pathlib import Path

from vla_ros.errors import UserError


class BagError(UserError):
    """A bag can't be read or written."""


class SourceError(UserError):
    """Demonstrations of another format can't be read."""


class StoreError(UserError):
    """The store of decoded demonstrations can't be read, written or locked."""


def unreadable(path: Path, error: OSError) -> BagError:
    """Return the error for a failure of the machine, for which nothing of the bag is left out, unlike for damage."""
    return BagError(
        f"bag {path} can't be read: {error}. The bag itself may be intact: check its permissions, the disk, and the "
        "free space for temporary files (TMPDIR), then run the same command again"
    )
