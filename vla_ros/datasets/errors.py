# SPDX-License-Identifier: Apache-2.0
"""The errors of this room."""

from __future__ import annotations

from pathlib import Path

from vla_ros.errors import UserError


class BagError(UserError):
    """A bag can't be read or written: the message names the bag, what is wrong with it and the way out."""


class SourceError(UserError):
    """Demonstrations of another format can't be read: the message names the file and what is wrong with it."""


class StoreError(UserError):
    """The store of decoded demonstrations can't be written or locked where it is."""


def unreadable(path: Path, error: OSError) -> BagError:
    """Return the error for what is no damage of the bag's.

    Nothing of the bag is left out for it, and the bag is read again next time.
    """
    return BagError(
        f"bag {path} can't be read: {error}. The bag itself need not be damaged: look at its permissions, at the disk, "
        "and at the room for temporary files (TMPDIR); then run the same command again"
    )
