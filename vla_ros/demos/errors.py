# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""

from __future__ import annotations

from vla_ros.errors import UserError


class BagError(UserError):
    """A bag can't be read or written: the message names the bag, what is wrong with it and the way out."""
