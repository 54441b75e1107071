# SPDX-License-Identifier: Apache-2.0
"""The errors of this room."""

from __future__ import annotations

from vla_ros.errors import UserError


class BagError(UserError):
    """A bag can't be read or written: the message names the bag, what is wrong with it and the way out."""


class SourceError(UserError):
    """Demonstrations of another format can't be read: the message names the file and what is wrong with it."""


class StoreError(UserError):
    """The store of decoded demonstrations can't be written or locked where it is."""
