# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on, and how to install what is missing. Standard library only."""

from __future__ import annotations

_FROM_DISTRIBUTION = {
    "ros": "source your ROS 2 distribution's setup.bash, or ",
    "opencv": "beside a ROS 2 distribution, run apt-get install python3-opencv; else ",
}


class UserError(Exception):
    """Invalid input: the message names it, its value, what is allowed, and the way out.

    Each package derives its own error (ContractError, BagError, ...). The command line prints the message without a
    traceback and exits with status 2.
    """


class RobotError(UserError):
    """A robot file is malformed, or topics do not match it."""


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message, or its type if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def how_to_install(extra: str) -> str:
    """Return the remedy for a package of this extra of setup.py; "" is what every install has."""
    what = f"'.[{extra}]'" if extra else "."
    return f"{_FROM_DISTRIBUTION.get(extra, '')}run pip install -e {what} in a checkout of vla_ros"
