# SPDX-License-Identifier: Apache-2.0
"""The error a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave is wrong: the message names it, its value, what is allowed and the way out.

    Every room derives its own error from this one (ContractError, BagError, ...). The command line prints the message
    alone, without a traceback, and exits with status 2.
    """
