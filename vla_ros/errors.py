# SPDX-License-Identifier: Apache-2.0
"""The error that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """Invalid input: the message names it, its value, what is allowed, and the way out.

    Each package derives its own error (ContractError, BagError, ...). The command line prints the message without a
    traceback and exits with status 2.
    """


class RobotError(UserError):
    """A robot file is malformed, or topics do not match it."""
